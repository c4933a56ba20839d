//! Phase timestamps: the one timing mechanism of the project.
//!
//! Every run records the same phase names on both backends. A phase *ends* at its mark and begins where the
//! phase before it ended, so the phases add up to the whole by construction. All marks are CLOCK_MONOTONIC of
//! the host, which is the same clock in every process of the host.

use nix::time::{ClockId, clock_gettime};
use serde::{Deserialize, Serialize};

/// A part of a start, in the order in which they happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Phase {
    /// The image is resolved, and pulled and unpacked when it is not there yet.
    Image,
    /// The write layer is joined to the image's layers (overlay | block image and its overlay).
    Rootfs,
    /// Addresses and ports are reserved, links and rules are made.
    Network,
    /// Namespaces and cgroup | the VM is created.
    Sandbox,
    /// Guest kernel entry to PID 1; absent in a container.
    Boot,
    /// Mounts, pivot, limits: everything between the sandbox and the program.
    Process,
    /// `execve` of the user's program has succeeded.
    Exec,
    /// The caller's readiness probe has succeeded; absent where none was asked for.
    Ready,
}

impl Phase {
    /// All phases in order.
    pub const ALL: [Self; 8] = [
        Self::Image,
        Self::Rootfs,
        Self::Network,
        Self::Sandbox,
        Self::Boot,
        Self::Process,
        Self::Exec,
        Self::Ready,
    ];

    /// The name printed to users and written to JSON.
    pub fn name(self) -> &'static str {
        match self {
            Self::Image => "image",
            Self::Rootfs => "rootfs",
            Self::Network => "network",
            Self::Sandbox => "sandbox",
            Self::Boot => "boot",
            Self::Process => "process",
            Self::Exec => "exec",
            Self::Ready => "ready",
        }
    }
}

/// Nanoseconds of the host's CLOCK_MONOTONIC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct MonotonicNs(pub u64);

impl MonotonicNs {
    /// The present moment.
    pub fn now() -> Self {
        // clock_gettime(CLOCK_MONOTONIC) cannot fail on Linux with a valid pointer.
        let time = clock_gettime(ClockId::CLOCK_MONOTONIC).map_or(0, |time| {
            u64::try_from(time.tv_sec()).unwrap_or(0) * 1_000_000_000
                + u64::try_from(time.tv_nsec()).unwrap_or(0)
        });
        Self(time)
    }
}

/// The moment at which a phase ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mark {
    /// The phase that ended.
    pub phase: Phase,
    /// When.
    pub end: MonotonicNs,
}

/// The phases of one start, in the order in which they were marked.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Timeline {
    /// When the command began.
    pub start: MonotonicNs,
    /// End of each phase so far.
    pub marks: Vec<Mark>,
}

impl Timeline {
    /// A timeline that begins now.
    pub fn begin() -> Self {
        Self { start: MonotonicNs::now(), marks: Vec::with_capacity(Phase::ALL.len()) }
    }

    /// Ends `phase` now.
    pub fn mark(&mut self, phase: Phase) {
        #[cfg(debug_assertions)]
        delay(phase);
        self.marks.push(Mark { phase, end: MonotonicNs::now() });
    }

    /// Ends `phase` at a moment that another process, or the host's half of a boot marker, stamped.
    pub fn mark_at(&mut self, phase: Phase, end: MonotonicNs) {
        self.marks.push(Mark { phase, end });
    }

    /// Each phase with its duration in nanoseconds; their sum is [`Timeline::total_ns`].
    pub fn durations(&self) -> impl Iterator<Item = (Phase, u64)> + '_ {
        let mut previous = self.start;
        self.marks.iter().map(move |mark| {
            let duration = mark.end.0.saturating_sub(previous.0);
            previous = previous.max(mark.end);
            (mark.phase, duration)
        })
    }

    /// Nanoseconds from the start to the last mark; 0 without marks.
    pub fn total_ns(&self) -> u64 {
        self.marks.iter().map(|mark| mark.end.0.saturating_sub(self.start.0)).max().unwrap_or(0)
    }
}

/// The variable that [`delay`] reads.
#[cfg(debug_assertions)]
pub const DELAY_VARIABLE: &str = "RKVM_TEST_DELAY";

/// Makes a phase longer in debug builds: `RKVM_TEST_DELAY=network=200` adds 200 ms to `network`. Tests prove with it that a delay
/// shows where it is and nowhere else, and kill what is in that phase. Whoever stamps a phase's end by himself ([`Timeline::mark_at`])
/// calls it before.
#[cfg(debug_assertions)]
pub fn delay(phase: Phase) {
    let Ok(text) = std::env::var(DELAY_VARIABLE) else { return };
    if let Some((name, Ok(ms))) = text.split_once('=').map(|(name, ms)| (name, ms.parse()))
        && name == phase.name()
    {
        std::thread::sleep(std::time::Duration::from_millis(ms));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations_add_up_even_when_a_mark_arrives_late() {
        let mut timeline = Timeline { start: MonotonicNs(100), marks: vec![] };
        timeline.mark_at(Phase::Image, MonotonicNs(150));
        timeline.mark_at(Phase::Network, MonotonicNs(400));
        timeline.mark_at(Phase::Sandbox, MonotonicNs(390));
        timeline.mark_at(Phase::Exec, MonotonicNs(900));
        let sum: u64 = timeline.durations().map(|(_, ns)| ns).sum();
        assert_eq!(sum, timeline.total_ns());
        assert_eq!(sum, 800);
    }
}
