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

/// How often the bar is drawn while nothing is told: its time shows that something is still being waited for.
const TICK: Duration = Duration::from_millis(250);

/// Shows `what` on a terminal until it is dropped; for what is done before the first start, such as loading an image into a peer.
pub fn preparing(what: &str) -> Preparing {
    let bar = io::stderr().is_terminal().then(|| {
        let bar = ProgressBar::new_spinner().with_style(style("{spinner} {msg}, {elapsed}"));
        bar.set_message(what.to_owned());
        bar.enable_steady_tick(TICK);
        bar
    });
    Preparing(bar)
}

/// What [`preparing`] shows.
pub struct Preparing(Option<ProgressBar>);

impl Drop for Preparing {
    fn drop(&mut self) {
        if let Some(bar) = &self.0 {
            bar.finish_and_clear();
        }
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

/// Without the remaining time, of which nothing is known before a start was made.
const FIRST: &str = "{pos}/{len} [{bar:40}] {msg}, {elapsed}";
const LATER: &str = "{pos}/{len} [{bar:40}] {msg}, about {eta} left";

impl Progress {
    /// Of `planned` starts. It is drawn at once: a first start may take long, or hang.
    pub fn new(planned: usize) -> Self {
        let bar = io::stderr().is_terminal().then(|| {
            let bar = ProgressBar::new(planned as u64).with_style(style(FIRST).progress_chars("=> "));
            bar.set_message("waiting for the first start");
            bar.enable_steady_tick(TICK);
            bar
        });
        Self { bar, began: Instant::now(), last: Instant::now() }
    }
}

impl Watcher for Progress {
    fn done(&mut self, done: usize, planned: usize, what: &str) {
        if let Some(bar) = &self.bar {
            // From here on each start draws it: a thread that wakes up would be measured with them.
            bar.disable_steady_tick();
            bar.set_position(done as u64);
            bar.set_style(style(LATER).progress_chars("=> "));
            bar.set_message(format!("{what} was started"));
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
