//! How far a measurement is: a bar with the remaining time on a terminal, a line now and then elsewhere.

use std::io::{self, IsTerminal};
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressStyle};
use rkvm_measure::drive::Watcher;
use crate::output;

/// Time between two lines.
const INTERVAL: Duration = Duration::from_secs(5);

/// Shows progress on standard error.
pub struct Progress {
    bar: Option<ProgressBar>,
    began: Instant,
    last: Instant,
}

impl Progress {
    /// Of `planned` starts.
    pub fn new(planned: usize) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let style = ProgressStyle::with_template("{pos}/{len} [{bar:40}] {msg}, about {eta} left")
                .unwrap_or_else(|_| ProgressStyle::default_bar());
            ProgressBar::new(planned as u64).with_style(style.progress_chars("=> "))
        });
        Self { bar, began: Instant::now(), last: Instant::now() }
    }
}

impl Watcher for Progress {
    fn done(&mut self, done: usize, planned: usize, what: &str) {
        if let Some(bar) = &self.bar {
            bar.set_message(what.to_owned());
            bar.set_position(done as u64);
        } else if self.last.elapsed() >= INTERVAL && done < planned {
            self.last = Instant::now();
            let left = self.began.elapsed().mul_f64((planned - done) as f64 / done.max(1) as f64);
            output::complain(format_args!("{done} of {planned} starts, about {} s left", left.as_secs()));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
