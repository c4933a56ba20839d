//! Bounded waiting: tests never assert how long something takes, only that it happens.

use std::time::{Duration, Instant};

/// How long a test waits for something that has to happen. Far above what it takes: machines are shared.
pub const PATIENCE: Duration = Duration::from_secs(60);

/// Calls `probe` until it gives a value.
///
/// # Panics
/// Nothing within [`PATIENCE`]; the message names `what`.
#[track_caller]
pub fn until<T>(what: &str, probe: impl FnMut() -> Option<T>) -> T {
    match within(PATIENCE, probe) {
        Some(value) => value,
        None => panic!("waited {} s in vain for {what}", PATIENCE.as_secs()),
    }
}

/// Calls `probe` until it gives a value or `limit` has passed.
pub fn within<T>(limit: Duration, mut probe: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + limit;
    let mut pause = Duration::from_millis(1);
    loop {
        if let Some(value) = probe() {
            return Some(value);
        }
        if Instant::now() >= deadline {
            return None;
        }
        std::thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(50));
    }
}
