//! What a workload with a kernel of its own tells of its processes.

use serde::{Deserialize, Serialize};

/// A process of the container inside, as `top` shows it. Text of the guest's programs: it may hold anything.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessInfo {
    /// Process id in the container's own pid namespace.
    pub pid: u32,
    /// Its parent's, 0 when that is outside.
    pub parent: u32,
    /// Real user id.
    pub uid: u32,
    /// State letter of proc(5).
    pub state: char,
    /// CPU time, milliseconds.
    pub cpu_ms: u64,
    /// When it began, milliseconds after the machine.
    pub start_ms: u64,
    /// Resident memory, KiB.
    pub resident_kib: u64,
    /// Controlling terminal's device number, 0 without one.
    pub terminal: u32,
    /// Program and arguments, or the name in brackets when there are none.
    pub command: String,
}
