//! Counters of the v1 controllers.

use rkvm_oci::Result;
use rkvm_oci::stats::Stats;

use super::V1;
use crate::file;

/// v1 shows "unlimited" as the largest multiple of the page size, which differs between kernels; nothing real comes near.
const UNLIMITED_BYTES: u64 = 1 << 62;

pub(super) fn read(cgroup: &V1) -> Result<Stats> {
    let mut stats = Stats::default();
    if let Some(dir) = cgroup.dir("cpuacct") {
        stats.cpu_total_ns = file::number(dir, "cpuacct.usage")?;
        stats.cpu_user_ns = file::number(dir, "cpuacct.usage_user")?;
        stats.cpu_kernel_ns = file::number(dir, "cpuacct.usage_sys")?;
    }
    if let Some(dir) = cgroup.dir("cpu")
        && let Some(text) = file::optional(dir, "cpu.stat")?
    {
        stats.cpu_periods = file::keyed(&text, "nr_periods");
        stats.cpu_throttled_periods = file::keyed(&text, "nr_throttled");
        stats.cpu_throttled_ns = file::keyed(&text, "throttled_time");
    }
    if let Some(dir) = cgroup.dir("memory") {
        stats.memory_usage_bytes = file::number(dir, "memory.usage_in_bytes")?;
        stats.memory_limit_bytes =
            file::number(dir, "memory.limit_in_bytes")?.filter(|limit| *limit < UNLIMITED_BYTES);
        stats.memory_max_usage_bytes = file::number(dir, "memory.max_usage_in_bytes")?;
        stats.memory_failcnt = file::number(dir, "memory.failcnt")?;
        if let Some(text) = file::optional(dir, "memory.stat")? {
            stats.memory_inactive_file_bytes = file::keyed(&text, "total_inactive_file");
        }
    }
    stats.oom_kills = cgroup.oom_kills()?;
    if let Some(dir) = cgroup.dir("pids") {
        stats.pids_current = file::number(dir, "pids.current")?;
        stats.pids_limit = file::number(dir, "pids.max")?;
    }
    if let Some(dir) = cgroup.dir("blkio")
        && let Some(text) = file::optional(dir, "blkio.throttle.io_service_bytes_recursive")?
    {
        stats.io_read_bytes = Some(transferred(&text, "Read"));
        stats.io_write_bytes = Some(transferred(&text, "Write"));
    }
    Ok(stats)
}

/// Sum over all devices of lines like `8:0 Read 4096`.
fn transferred(text: &str, operation: &str) -> u64 {
    text.lines()
        .filter_map(|line| {
            let mut words = line.split(' ').skip(1);
            (words.next() == Some(operation)).then(|| words.next()?.parse::<u64>().ok())?
        })
        .sum()
}
