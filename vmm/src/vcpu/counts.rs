//! How often vCPUs left the guest for this process, and why.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

/// Exits of all vCPUs, by the name of their reason; only those that happened.
pub type ExitCounts = BTreeMap<&'static str, u64>;

/// Why a vCPU left the guest.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Reason {
    SerialPort,
    MarkerPort,
    OtherPort,
    DeviceRead,
    DeviceWrite,
    Interrupted,
}

const NAMES: [&str; 6] =
    ["serial port", "marker port", "other port", "device read", "device write", "interrupted"];

/// Counters that every vCPU adds to and that can be read at any time.
#[derive(Debug, Default)]
pub(crate) struct Counters([AtomicU64; NAMES.len()]);

impl Counters {
    pub fn add(&self, reason: Reason) {
        self.0[reason as usize].fetch_add(1, Ordering::Relaxed);
    }

    pub fn read(&self) -> ExitCounts {
        let counts = self.0.iter().map(|count| count.load(Ordering::Relaxed));
        NAMES.into_iter().zip(counts).filter(|(_, count)| *count > 0).collect()
    }
}
