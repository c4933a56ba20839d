//! Counters of the v2 controllers.

use std::path::Path;

use rkvm_oci::Result;
use rkvm_oci::stats::Stats;

use crate::file;

pub(super) fn read(dir: &Path) -> Result<Stats> {
    let mut stats = Stats::default();
    if let Some(text) = file::optional(dir, "cpu.stat")? {
        let nanoseconds = |key| file::keyed(&text, key).map(|micros| micros * 1000);
        stats.cpu_total_ns = nanoseconds("usage_usec");
        stats.cpu_user_ns = nanoseconds("user_usec");
        stats.cpu_kernel_ns = nanoseconds("system_usec");
        stats.cpu_throttled_ns = nanoseconds("throttled_usec");
        stats.cpu_periods = file::keyed(&text, "nr_periods");
        stats.cpu_throttled_periods = file::keyed(&text, "nr_throttled");
    }
    stats.memory_usage_bytes = file::number(dir, "memory.current")?;
    stats.memory_limit_bytes = file::number(dir, "memory.max")?;
    stats.memory_max_usage_bytes = file::number(dir, "memory.peak")?;
    if let Some(text) = file::optional(dir, "memory.stat")? {
        stats.memory_inactive_file_bytes = file::keyed(&text, "inactive_file");
    }
    if let Some(text) = file::optional(dir, "memory.events")? {
        stats.memory_failcnt = file::keyed(&text, "max");
        stats.oom_kills = file::keyed(&text, "oom_kill");
    }
    stats.pids_current = file::number(dir, "pids.current")?;
    stats.pids_limit = file::number(dir, "pids.max")?;
    if let Some(text) = file::optional(dir, "io.stat")? {
        stats.io_read_bytes = Some(transferred(&text, "rbytes="));
        stats.io_write_bytes = Some(transferred(&text, "wbytes="));
    }
    Ok(stats)
}

/// Sum over all devices of lines like `8:0 rbytes=4096 wbytes=0 rios=1 ...`.
fn transferred(text: &str, key: &str) -> u64 {
    text.split_whitespace().filter_map(|word| word.strip_prefix(key)?.parse::<u64>().ok()).sum()
}
