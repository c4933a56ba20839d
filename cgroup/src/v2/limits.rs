//! `linux.resources` in the files of the v2 controllers. The fields are v1's; each is converted as runc does.

use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};
use rkvm_oci::{Error, Result};

use crate::{Moment, devices, file, hugetlb, rdma};

/// Controllers that the resources need, each with the field that needs it.
pub(super) fn controllers(resources: &LinuxResources) -> Vec<(String, String)> {
    let mut needed: Vec<(&str, &str)> = vec![];
    if resources.memory().is_some_and(|memory| memory != LinuxMemory::default()) {
        needed.push(("memory", "memory"));
    }
    if let Some(cpu) = resources.cpu() {
        let mut time = cpu.clone();
        time.set_cpus(None).set_mems(None);
        if time != LinuxCpu::default() {
            needed.push(("cpu", "cpu"));
        }
        if cpu.cpus().as_ref().is_some_and(|cpus| !cpus.is_empty()) {
            needed.push(("cpuset", "cpu.cpus"));
        }
        if cpu.mems().as_ref().is_some_and(|mems| !mems.is_empty()) {
            needed.push(("cpuset", "cpu.mems"));
        }
    }
    if resources.pids().is_some_and(|pids| pids.limit() != 0) {
        needed.push(("pids", "pids.limit"));
    }
    if resources.block_io().as_ref().is_some_and(|io| *io != LinuxBlockIo::default()) {
        needed.push(("io", "blockIO"));
    }
    if resources.hugepage_limits().as_ref().is_some_and(|limits| !limits.is_empty()) {
        needed.push(("hugetlb", "hugepageLimits"));
    }
    if resources.rdma().as_ref().is_some_and(|devices| !devices.is_empty()) {
        needed.push(("rdma", "rdma"));
    }
    let mut needed: Vec<(String, String)> =
        needed.into_iter().map(|(controller, field)| (controller.to_owned(), field.to_owned())).collect();
    for key in resources.unified().iter().flat_map(|all| all.keys()) {
        let controller = key.split('.').next().unwrap_or_default();
        // Files of the core are there without any controller.
        if controller != "cgroup" {
            needed.push((controller.to_owned(), format!("unified.{key}")));
        }
    }
    needed
}

pub(super) fn apply(dir: &Path, resources: &LinuxResources, moment: Moment) -> Result<()> {
    if let Some(rules) = resources.devices()
        && (moment == Moment::Create || !rules.is_empty())
    {
        devices::attach(dir, rules, moment)?;
    }
    if let Some(memory) = resources.memory() {
        apply_memory(dir, memory)?;
    }
    if let Some(cpu) = resources.cpu() {
        apply_cpu(dir, cpu)?;
    }
    if let Some(limit) = resources.pids().as_ref().map(LinuxPids::limit).filter(|limit| *limit != 0) {
        file::set(dir, "pids.max", unlimited_below_zero(limit), "pids.limit")?;
    }
    if let Some(io) = resources.block_io() {
        apply_io(dir, io)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        hugetlb::set(dir, limit, "max")?;
    }
    if let Some(network) = resources.network() {
        if network.class_id().is_some_and(|class| class != 0) {
            return Err(no_successor("network.classID", "mark packets with an nftables rule for the cgroup"));
        }
        if network.priorities().as_ref().is_some_and(|all| !all.is_empty()) {
            return Err(no_successor("network.priorities", "set them with an nftables rule for the cgroup"));
        }
    }
    if let Some(all) = resources.rdma().as_ref().filter(|all| !all.is_empty()) {
        rdma::set(dir, all)?;
    }
    apply_unified(dir, resources)
}

fn no_successor(field: &str, instead: &str) -> Error {
    Error::unsupported(format!("linux.resources.{field}"), format!("cgroup v2 has no such limit; {instead}"))
}

fn unlimited_below_zero(value: i64) -> String {
    if value < 0 { "max".to_owned() } else { value.to_string() }
}

fn apply_memory(dir: &Path, memory: &LinuxMemory) -> Result<()> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let swap = swap_alone(limit, memory.swap().filter(|swap| *swap != 0))?;
    if let (Some(limit), Some(true)) = (limit, memory.check_before_update()) {
        check_usage(dir, limit)?;
    }
    if let Some(swap) = swap {
        file::set(dir, "memory.swap.max", unlimited_below_zero(swap), "memory.swap")?;
    }
    if let Some(limit) = limit {
        file::set(dir, "memory.max", unlimited_below_zero(limit), "memory.limit")?;
    }
    if let Some(value) = memory.reservation().filter(|value| *value != 0) {
        file::set(dir, "memory.low", unlimited_below_zero(value), "memory.reservation")?;
    }
    #[allow(deprecated, reason = "config.json may still carry it, and then it must not be ignored")]
    if memory.kernel().is_some_and(|value| value > 0) {
        return Err(no_successor("memory.kernel", "kernel memory counts towards memory.limit"));
    }
    if memory.kernel_tcp().is_some_and(|value| value > 0) {
        return Err(no_successor("memory.kernelTCP", "socket buffers count towards memory.limit"));
    }
    if memory.swappiness().is_some() {
        return Err(no_successor("memory.swappiness", "limit swap itself with memory.swap"));
    }
    if memory.disable_oom_killer() == Some(true) {
        return Err(no_successor("memory.disableOOMKiller", "set memory.high in linux.resources.unified"));
    }
    if memory.use_hierarchy() == Some(false) {
        return Err(no_successor("memory.useHierarchy = false", "memory is always counted hierarchically"));
    }
    Ok(())
}

/// v1 limits memory plus swap, v2 swap alone; -1 is no limit. `None` leaves the limit as it is.
pub(super) fn swap_alone(limit: Option<i64>, sum: Option<i64>) -> Result<Option<i64>> {
    let invalid = |reason: String| Err(Error::invalid_spec("linux.resources.memory.swap", reason));
    match (limit, sum) {
        // Lifting the memory limit lifts the sum's: v1 would not allow one without the other.
        (Some(limit), None) if limit < 0 => Ok(Some(-1)),
        (_, None) => Ok(None),
        (_, Some(sum)) if sum < 0 => Ok(Some(-1)),
        (Some(limit), Some(sum)) if limit < 0 => Ok(Some(sum)),
        (None, Some(sum)) => invalid(format!(
            "{sum} is the sum of memory and swap, and without memory.limit the part of swap is unknown"
        )),
        (Some(limit), Some(sum)) if sum < limit => {
            invalid(format!("{sum} is the sum of memory and swap, and below memory.limit {limit}"))
        }
        (Some(limit), Some(sum)) => Ok(Some(sum - limit)),
    }
}

/// v2 takes a limit below the present use and has the OOM killer make room; `checkBeforeUpdate` asks not to.
fn check_usage(dir: &Path, limit: i64) -> Result<()> {
    let usage = file::number(dir, "memory.current")?.unwrap_or(0);
    if u64::try_from(limit).is_ok_and(|limit| limit < usage) {
        return Err(Error::invalid_spec(
            "linux.resources.memory.limit",
            format!("{limit} is below the {usage} bytes in use, and checkBeforeUpdate is set"),
        ));
    }
    Ok(())
}

fn apply_cpu(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    if cpu.realtime_runtime().is_some_and(|value| value != 0)
        || cpu.realtime_period().is_some_and(|value| value != 0)
    {
        return Err(no_successor("cpu.realtimeRuntime", "remove realtimeRuntime and realtimePeriod"));
    }
    // The kernel refuses a weight for an idle cgroup, so idleness ends before and begins after.
    if cpu.idle() == Some(0) {
        file::set(dir, "cpu.idle", 0, "cpu.idle")?;
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        file::set(dir, "cpu.weight", weight_of_shares(shares), "cpu.shares")?;
    }
    if let Some(idle) = cpu.idle().filter(|idle| *idle != 0) {
        file::set(dir, "cpu.idle", idle, "cpu.idle")?;
    }
    let set_burst = |burst: u64| file::set(dir, "cpu.max.burst", burst, "cpu.burst");
    // A burst is checked against the quota as it is: what does not fit the old one is tried again after the new one.
    let burst_later = cpu.burst().filter(|burst| set_burst(*burst).is_err());
    let period = cpu.period().filter(|period| *period != 0);
    match (cpu.quota().filter(|quota| *quota != 0), period) {
        (None, None) => {}
        (quota, Some(period)) => {
            let quota = match quota {
                Some(quota) => unlimited_below_zero(quota),
                // The file takes both, and a period alone must leave the quota.
                None => {
                    let now = file::read(dir, "cpu.max")?;
                    now.split_whitespace().next().unwrap_or("max").to_owned()
                }
            };
            file::set(dir, "cpu.max", format!("{quota} {period}"), "cpu.quota and cpu.period")?;
        }
        (Some(quota), None) => file::set(dir, "cpu.max", unlimited_below_zero(quota), "cpu.quota")?,
    }
    if let Some(burst) = burst_later {
        set_burst(burst)?;
    }
    for (value, name, field) in
        [(cpu.cpus(), "cpuset.cpus", "cpu.cpus"), (cpu.mems(), "cpuset.mems", "cpu.mems")]
    {
        if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
            file::set(dir, name, value, field)?;
        }
    }
    Ok(())
}

/// Shares (2 to 262144, default 1024) as a weight (1 to 10000, default 100): runc's curve, which meets both ends and the
/// defaults.
pub(super) fn weight_of_shares(shares: u64) -> u64 {
    match shares {
        0..=2 => 1,
        262_144.. => 10_000,
        _ => {
            let log = (shares as f64).log2();
            let exponent = (log * log + 125.0 * log) / 612.0 - 7.0 / 34.0;
            10_f64.powf(exponent).ceil() as u64
        }
    }
}

/// A blkio weight (10 to 1000) as an io weight (1 to 10000), linearly as runc does.
pub(super) fn weight_of_blkio(weight: u16) -> u64 {
    1 + (u64::from(weight.clamp(10, 1000)) - 10) * 9999 / 990
}

fn apply_io(dir: &Path, io: &LinuxBlockIo) -> Result<()> {
    // With the BFQ scheduler its file takes v1's range unchanged.
    let bfq = dir.join("io.bfq.weight").exists();
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        if bfq {
            file::set(dir, "io.bfq.weight", weight, "blockIO.weight")?;
        } else {
            file::set(dir, "io.weight", format!("default {}", weight_of_blkio(weight)), "blockIO.weight")?;
        }
    }
    if io.leaf_weight().is_some_and(|weight| weight != 0) {
        return Err(no_successor("blockIO.leafWeight", "use blockIO.weight"));
    }
    for device in io.weight_device().iter().flatten() {
        if device.leaf_weight().is_some_and(|weight| weight != 0) {
            return Err(no_successor("blockIO.weightDevice.leafWeight", "use its weight"));
        }
        if let Some(weight) = device.weight() {
            let id = format!("{}:{}", device.major(), device.minor());
            let (name, weight) = match bfq {
                true => ("io.bfq.weight", u64::from(weight)),
                false => ("io.weight", weight_of_blkio(weight)),
            };
            file::set(dir, name, format!("{id} {weight}"), "blockIO.weightDevice")?;
        }
    }
    let throttles = [
        (io.throttle_read_bps_device(), "rbps", "throttleReadBpsDevice"),
        (io.throttle_write_bps_device(), "wbps", "throttleWriteBpsDevice"),
        (io.throttle_read_iops_device(), "riops", "throttleReadIOPSDevice"),
        (io.throttle_write_iops_device(), "wiops", "throttleWriteIOPSDevice"),
    ];
    for (devices, key, field) in throttles {
        for device in devices.iter().flatten() {
            // v1 lifts a limit with 0.
            let rate = if device.rate() == 0 { "max".to_owned() } else { device.rate().to_string() };
            let value = format!("{}:{} {key}={rate}", device.major(), device.minor());
            file::set(dir, "io.max", value, &format!("blockIO.{field}"))?;
        }
    }
    Ok(())
}

/// `linux.resources.unified`: file names and contents as they are, one write per line.
fn apply_unified(dir: &Path, resources: &LinuxResources) -> Result<()> {
    let mut all: Vec<_> = resources.unified().iter().flatten().collect();
    all.sort();
    for (key, value) in all {
        if key.contains('/') || !key.contains('.') {
            let reason = format!("{key:?}; keys are file names like memory.high");
            return Err(Error::invalid_spec("linux.resources.unified", reason));
        }
        for line in value.lines() {
            file::set(dir, key, line, &format!("unified.{key}"))?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shares_meet_the_weights_at_both_ends_and_the_default() {
        for (shares, weight) in [(1, 1), (2, 1), (1024, 100), (262_144, 10_000), (999_999, 10_000)] {
            assert_eq!(weight_of_shares(shares), weight, "{shares}");
        }
        assert!((3..262_144).step_by(997).all(|shares| (1..=10_000).contains(&weight_of_shares(shares))));
        assert_eq!((weight_of_blkio(10), weight_of_blkio(1000)), (1, 10_000));
    }

    #[test]
    fn swap_is_the_sum_less_the_memory() {
        assert_eq!(swap_alone(Some(100), Some(100)).unwrap(), Some(0));
        assert_eq!(swap_alone(Some(100), Some(150)).unwrap(), Some(50));
        assert_eq!(swap_alone(Some(100), Some(-1)).unwrap(), Some(-1));
        assert_eq!(swap_alone(Some(-1), None).unwrap(), Some(-1));
        assert_eq!(swap_alone(Some(100), None).unwrap(), None);
        assert!(swap_alone(Some(100), Some(99)).is_err());
        assert!(swap_alone(None, Some(99)).is_err());
    }
}
