//! Pulling an image with its progress shown: bars on a terminal, a line for each layer elsewhere.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::sync::Mutex;

use anyhow::Result;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use rkvm_image::{Digest, Limits, Options, Progress, Pulled, Reference, Silent, Step, Store};

use crate::output;

/// Where progress is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Show {
    /// On standard output, as `rkvm pull` does.
    Stdout,
    /// On standard error, as `rkvm run` does: the output is the container's.
    Stderr,
    /// Nowhere.
    Nothing,
}

/// Pulls `reference`.
///
/// # Errors
/// As [`rkvm_image::pull`].
pub fn pull(store: &Store, reference: &Reference, limits: Limits, show: Show) -> Result<Pulled> {
    let is_terminal = match show {
        Show::Nothing => {
            return Ok(rkvm_image::pull(store, reference, Options { limits, progress: &Silent })?);
        }
        Show::Stdout => io::stdout().is_terminal(),
        Show::Stderr => io::stderr().is_terminal(),
    };
    let tag = reference.tag().map_or_else(|| reference.familiar(), str::to_owned);
    line(show, &format!("{tag}: Pulling from {}", reference.repository()));
    let pulled = if is_terminal {
        let bars = Bars::new(show);
        let pulled = rkvm_image::pull(store, reference, Options { limits, progress: &bars });
        bars.finish(pulled.is_ok());
        pulled
    } else {
        rkvm_image::pull(store, reference, Options { limits, progress: &Lines { show } })
    };
    Ok(pulled?)
}

/// Prints a line where progress is shown.
pub fn line(show: Show, text: &str) {
    match show {
        // Progress: what it is about is the image, which is here or not.
        Show::Stdout => drop(output::line(text)),
        Show::Stderr => output::complain(text),
        Show::Nothing => {}
    }
}

/// A line for each layer when it is here.
struct Lines {
    show: Show,
}

impl Progress for Lines {
    fn report(&self, blob: &Digest, step: Step) {
        match step {
            Step::Exists => line(self.show, &format!("{}: Already exists", blob.short())),
            Step::Fetched => line(self.show, &format!("{}: Download complete", blob.short())),
            Step::Fetching { .. } => {}
        }
    }

    fn unpacking(&self, layers: usize) {
        line(self.show, &format!("Unpacking {layers} layer{}", if layers == 1 { "" } else { "s" }));
    }
}

/// A bar for each layer.
struct Bars {
    all: MultiProgress,
    bars: Mutex<HashMap<Digest, ProgressBar>>,
    unpacking: ProgressBar,
}

impl Bars {
    fn new(show: Show) -> Self {
        let target = match show {
            Show::Stderr => ProgressDrawTarget::stderr(),
            Show::Stdout | Show::Nothing => ProgressDrawTarget::stdout(),
        };
        Self {
            all: MultiProgress::with_draw_target(target),
            bars: Mutex::default(),
            unpacking: ProgressBar::hidden(),
        }
    }

    fn bar(&self, blob: &Digest, total: u64) -> ProgressBar {
        let mut bars = self.bars.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        bars.entry(blob.clone())
            .or_insert_with(|| {
                let bar = ProgressBar::new(total)
                    .with_style(style("{prefix}: {msg} [{bar:40}] {bytes}/{total_bytes}"))
                    .with_prefix(blob.short().to_owned())
                    .with_message("Downloading");
                self.all.add(bar)
            })
            .clone()
    }

    fn finish(&self, is_complete: bool) {
        self.unpacking.finish_and_clear();
        for bar in self.bars.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).values() {
            match is_complete {
                true => bar.finish(),
                false => bar.abandon(),
            }
        }
    }
}

impl Progress for Bars {
    fn report(&self, blob: &Digest, step: Step) {
        match step {
            Step::Fetching { done, total } => self.bar(blob, total).set_position(done),
            Step::Exists | Step::Fetched => {
                let bar = self.bar(blob, 0);
                bar.set_style(style("{prefix}: {msg}"));
                bar.finish_with_message(if step == Step::Exists {
                    "Already exists"
                } else {
                    "Download complete"
                });
            }
        }
    }

    fn unpacking(&self, layers: usize) {
        self.all.add(self.unpacking.clone());
        self.unpacking.set_style(style("{msg}"));
        self.unpacking.set_message(format!("Unpacking {layers} layer{}", if layers == 1 { "" } else { "s" }));
        self.unpacking.tick();
    }
}

fn style(template: &str) -> ProgressStyle {
    // The templates are those above; should indicatif ever dislike one, its own bar is shown.
    ProgressStyle::with_template(template)
        .unwrap_or_else(|_| ProgressStyle::default_bar())
        .progress_chars("=> ")
}
