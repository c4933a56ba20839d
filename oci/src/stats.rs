//! Resource use of a workload, the same fields on both backends. Counters are cumulative since the start.

use serde::{Deserialize, Serialize};

/// Resource use at one moment. A value that the host does not count is `None`, never 0.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time, nanoseconds, user and kernel.
    pub cpu_total_ns: Option<u64>,
    /// CPU time in user mode, nanoseconds.
    pub cpu_user_ns: Option<u64>,
    /// CPU time in the kernel, nanoseconds.
    pub cpu_kernel_ns: Option<u64>,
    /// Enforcement periods that have passed.
    pub cpu_periods: Option<u64>,
    /// Periods in which the quota was used up.
    pub cpu_throttled_periods: Option<u64>,
    /// Time for which the quota held processes back, nanoseconds.
    pub cpu_throttled_ns: Option<u64>,
    /// Memory in use, bytes, page cache included.
    pub memory_usage_bytes: Option<u64>,
    /// Page cache that can be dropped, bytes (Docker subtracts it from the usage it shows).
    pub memory_inactive_file_bytes: Option<u64>,
    /// Memory limit, bytes; `None` when unlimited.
    pub memory_limit_bytes: Option<u64>,
    /// Highest memory use so far, bytes.
    pub memory_max_usage_bytes: Option<u64>,
    /// How often the limit was hit.
    pub memory_failcnt: Option<u64>,
    /// Processes killed for want of memory.
    pub oom_kills: Option<u64>,
    /// Processes and threads.
    pub pids_current: Option<u64>,
    /// Limit of processes and threads; `None` when unlimited.
    pub pids_limit: Option<u64>,
    /// Bytes read from block devices.
    pub io_read_bytes: Option<u64>,
    /// Bytes written to block devices.
    pub io_write_bytes: Option<u64>,
}
