//! `linux.resources` in the files of the v1 controllers.

use std::io;
use std::path::Path;

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxNetwork, LinuxPids, LinuxResources};
use rkvm_oci::{Error, Result};

use super::V1;
use crate::devices::{self, Access};
use crate::{Moment, file, hugetlb, rdma};

/// Numbers that v1 takes for "no limit".
const UNLIMITED: i64 = -1;

pub(super) fn apply(cgroup: &V1, resources: &LinuxResources, moment: Moment) -> Result<()> {
    let dir = |controller: &'static str, field: &str| {
        cgroup.dir(controller).ok_or_else(|| file::no_controller(controller, field))
    };
    if let Some(all) = resources.unified().as_ref().filter(|all| !all.is_empty()) {
        let key = all.keys().min().map(String::as_str).unwrap_or_default();
        return Err(Error::unsupported(
            "linux.resources.unified",
            format!("{key} is a file of cgroup v2, and this host has its controllers on v1"),
        ));
    }
    if let Some(rules) = resources.devices()
        && (moment == Moment::Create || !rules.is_empty())
    {
        apply_devices(cgroup, rules, moment)?;
    }
    if let Some(memory) = resources.memory()
        && *memory != LinuxMemory::default()
    {
        apply_memory(dir("memory", "memory")?, memory, moment)?;
    }
    if let Some(cpu) = resources.cpu() {
        if has_bandwidth(cpu) {
            apply_cpu(dir("cpu", "cpu")?, cpu)?;
        }
        for (value, name, field) in
            [(cpu.cpus(), "cpuset.cpus", "cpu.cpus"), (cpu.mems(), "cpuset.mems", "cpu.mems")]
        {
            if let Some(value) = value.as_ref().filter(|value| !value.is_empty()) {
                file::set(dir("cpuset", field)?, name, value, field)?;
            }
        }
    }
    if let Some(limit) = resources.pids().as_ref().map(LinuxPids::limit).filter(|limit| *limit != 0) {
        let value = if limit > 0 { limit.to_string() } else { "max".to_owned() };
        file::set(dir("pids", "pids.limit")?, "pids.max", value, "pids.limit")?;
    }
    if let Some(io) = resources.block_io()
        && *io != LinuxBlockIo::default()
    {
        apply_block_io(dir("blkio", "blockIO")?, io)?;
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        hugetlb::set(dir("hugetlb", "hugepageLimits")?, limit, "limit_in_bytes")?;
    }
    if let Some(network) = resources.network() {
        apply_network(cgroup, network)?;
    }
    if let Some(all) = resources.rdma().as_ref().filter(|all| !all.is_empty()) {
        rdma::set(dir("rdma", "rdma")?, all)?;
    }
    Ok(())
}

fn apply_devices(cgroup: &V1, rules: &[oci_spec::runtime::LinuxDeviceCgroup], moment: Moment) -> Result<()> {
    let dir = cgroup.dir("devices").ok_or_else(|| file::no_controller("devices", "devices"))?;
    let wanted = devices::Table::build(rules)?;
    let current = match moment {
        // A new cgroup has a copy of its parent's table; only emptying it makes it known.
        Moment::Create => None,
        Moment::Update => Some(devices::Table::parse(&file::read(dir, "devices.list")?)),
    };
    let mut open = Opened::default();
    for (access, line) in wanted.steps_from(current.as_ref()) {
        let name = match access {
            Access::Allow => "devices.allow",
            Access::Deny => "devices.deny",
        };
        open.write(dir, name, &line).map_err(|error| file::refused(error, dir, name, &line, "devices"))?;
    }
    Ok(())
}

/// The two device files, each opened once for all its rules.
#[derive(Default)]
struct Opened {
    files: Vec<(&'static str, std::fs::File)>,
}

impl Opened {
    fn write(&mut self, dir: &Path, name: &'static str, line: &str) -> io::Result<()> {
        use std::io::Write;
        if let Some((_, file)) = self.files.iter_mut().find(|(open, _)| *open == name) {
            return file.write_all(line.as_bytes());
        }
        let mut file = std::fs::OpenOptions::new().write(true).open(dir.join(name))?;
        file.write_all(line.as_bytes())?;
        self.files.push((name, file));
        Ok(())
    }
}

fn apply_memory(dir: &Path, memory: &LinuxMemory, moment: Moment) -> Result<()> {
    let limit = memory.limit().filter(|limit| *limit != 0);
    let mut swap = memory.swap().filter(|swap| *swap != 0);
    if limit == Some(UNLIMITED) && swap.is_none() && dir.join("memory.memsw.limit_in_bytes").exists() {
        swap = Some(UNLIMITED);
    }
    let set_limit = |limit: i64| file::write(dir, "memory.limit_in_bytes", limit.to_string()).map_err(Some);
    let set_swap =
        |swap: i64| file::set(dir, "memory.memsw.limit_in_bytes", swap, "memory.swap").map(|()| true);
    if let Some(limit) = limit {
        // Memory must stay at or below memory plus swap at every moment, so a raise begins with the sum.
        let mut written = set_limit(limit);
        let mut swap_done = false;
        if let (Err(Some(error)), Some(swap)) = (&written, swap)
            && error.raw_os_error() == Some(libc::EINVAL)
        {
            swap_done = set_swap(swap)?;
            written = set_limit(limit);
        }
        if let Err(Some(error)) = written {
            return Err(limit_refused(error, dir, limit));
        }
        if swap_done {
            swap = None;
        }
    }
    if let Some(swap) = swap {
        set_swap(swap)?;
    }
    if let Some(value) = memory.reservation().filter(|value| *value != 0) {
        file::set(dir, "memory.soft_limit_in_bytes", value, "memory.reservation")?;
    }
    if let Some(value) = memory.kernel().filter(|value| *value != 0) {
        file::set(dir, "memory.kmem.limit_in_bytes", value, "memory.kernel")?;
    }
    if let Some(value) = memory.kernel_tcp().filter(|value| *value != 0) {
        file::set(dir, "memory.kmem.tcp.limit_in_bytes", value, "memory.kernelTCP")?;
    }
    if let Some(value) = memory.swappiness() {
        if value > 100 {
            let reason = format!("{value}; 0 to 100 are possible");
            return Err(Error::invalid_spec("linux.resources.memory.swappiness", reason));
        }
        file::set(dir, "memory.swappiness", value, "memory.swappiness")?;
    }
    match (memory.disable_oom_killer(), moment) {
        (Some(true), _) => file::set(dir, "memory.oom_control", 1, "memory.disableOOMKiller")?,
        // A new cgroup has the killer on.
        (Some(false), Moment::Update) => {
            file::set(dir, "memory.oom_control", 0, "memory.disableOOMKiller")?;
        }
        (Some(false), Moment::Create) | (None, _) => {}
    }
    if let Some(value) = memory.use_hierarchy() {
        file::set(dir, "memory.use_hierarchy", u8::from(value), "memory.useHierarchy")?;
    }
    Ok(())
}

/// A limit below the present use is refused by the kernel with a bare EBUSY: the numbers say why.
fn limit_refused(error: io::Error, dir: &Path, limit: i64) -> Error {
    let usage = match error.raw_os_error() {
        Some(libc::EBUSY) => file::number(dir, "memory.usage_in_bytes").ok().flatten(),
        _ => None,
    };
    match usage {
        Some(usage) => Error::failed(
            "set",
            format!(
                "linux.resources.memory.limit to {limit}: {usage} bytes are in use and cannot be reclaimed"
            ),
            error,
        ),
        None => file::refused(error, dir, "memory.limit_in_bytes", &limit.to_string(), "memory.limit"),
    }
}

fn has_bandwidth(cpu: &LinuxCpu) -> bool {
    cpu.shares().is_some()
        || cpu.quota().is_some()
        || cpu.period().is_some()
        || cpu.burst().is_some()
        || cpu.idle().is_some()
        || cpu.realtime_runtime().is_some()
        || cpu.realtime_period().is_some()
}

fn apply_cpu(dir: &Path, cpu: &LinuxCpu) -> Result<()> {
    // The kernel refuses shares of an idle cgroup, so idleness ends before and begins after.
    if cpu.idle() == Some(0) {
        file::set(dir, "cpu.idle", 0, "cpu.idle")?;
    }
    if let Some(shares) = cpu.shares().filter(|shares| *shares != 0) {
        // The kernel clamps silently, which would be a limit other than the one asked for.
        if !(2..=262_144).contains(&shares) {
            let reason = format!("{shares}; 2 to 262144 are possible");
            return Err(Error::invalid_spec("linux.resources.cpu.shares", reason));
        }
        file::set(dir, "cpu.shares", shares, "cpu.shares")?;
    }
    if let Some(idle) = cpu.idle().filter(|idle| *idle != 0) {
        file::set(dir, "cpu.idle", idle, "cpu.idle")?;
    }
    let period = cpu.period().filter(|period| *period != 0);
    let quota = cpu.quota().filter(|quota| *quota != 0);
    let set_period = |period: u64| file::set(dir, "cpu.cfs_period_us", period, "cpu.period");
    let set_burst = |burst: u64| file::set(dir, "cpu.cfs_burst_us", burst, "cpu.burst");
    // Each of the three is checked against the other two as they are: what does not fit the old quota is tried again
    // after the new one.
    let period_later = period.filter(|period| quota.is_some() && set_period(*period).is_err());
    if let (Some(period), None) = (period, quota) {
        set_period(period)?;
    }
    let burst_later = cpu.burst().filter(|burst| quota.is_some() && set_burst(*burst).is_err());
    if let (Some(burst), None) = (cpu.burst(), quota) {
        set_burst(burst)?;
    }
    if let Some(quota) = quota {
        file::set(dir, "cpu.cfs_quota_us", quota, "cpu.quota")?;
    }
    if let Some(period) = period_later {
        set_period(period)?;
    }
    if let Some(burst) = burst_later {
        set_burst(burst)?;
    }
    if let Some(period) = cpu.realtime_period().filter(|period| *period != 0) {
        file::set(dir, "cpu.rt_period_us", period, "cpu.realtimePeriod")?;
    }
    if let Some(runtime) = cpu.realtime_runtime().filter(|runtime| *runtime != 0) {
        file::set(dir, "cpu.rt_runtime_us", runtime, "cpu.realtimeRuntime")?;
    }
    Ok(())
}

fn apply_block_io(dir: &Path, io: &LinuxBlockIo) -> Result<()> {
    // blkio.weight went with the CFQ scheduler in Linux 5.0; BFQ brought its own file.
    let weight_file = |cfq: &'static str, bfq: &'static str| if dir.join(cfq).exists() { cfq } else { bfq };
    if let Some(weight) = io.weight().filter(|weight| *weight != 0) {
        file::set(dir, weight_file("blkio.weight", "blkio.bfq.weight"), weight, "blockIO.weight")?;
    }
    if let Some(weight) = io.leaf_weight().filter(|weight| *weight != 0) {
        file::set(dir, "blkio.leaf_weight", weight, "blockIO.leafWeight")?;
    }
    for device in io.weight_device().iter().flatten() {
        let id = format!("{}:{}", device.major(), device.minor());
        if let Some(weight) = device.weight() {
            let name = weight_file("blkio.weight_device", "blkio.bfq.weight_device");
            file::set(dir, name, format!("{id} {weight}"), "blockIO.weightDevice")?;
        }
        if let Some(weight) = device.leaf_weight() {
            let value = format!("{id} {weight}");
            file::set(dir, "blkio.leaf_weight_device", value, "blockIO.weightDevice")?;
        }
    }
    let throttles = [
        (io.throttle_read_bps_device(), "read_bps_device", "throttleReadBpsDevice"),
        (io.throttle_write_bps_device(), "write_bps_device", "throttleWriteBpsDevice"),
        (io.throttle_read_iops_device(), "read_iops_device", "throttleReadIOPSDevice"),
        (io.throttle_write_iops_device(), "write_iops_device", "throttleWriteIOPSDevice"),
    ];
    for (devices, name, field) in throttles {
        for device in devices.iter().flatten() {
            let value = format!("{}:{} {}", device.major(), device.minor(), device.rate());
            file::set(dir, &format!("blkio.throttle.{name}"), value, &format!("blockIO.{field}"))?;
        }
    }
    Ok(())
}

fn apply_network(cgroup: &V1, network: &LinuxNetwork) -> Result<()> {
    if let Some(class) = network.class_id().filter(|class| *class != 0) {
        let dir = cgroup.dir("net_cls").ok_or_else(|| file::no_controller("net_cls", "network.classID"))?;
        file::set(dir, "net_cls.classid", class, "network.classID")?;
    }
    for priority in network.priorities().iter().flatten() {
        let dir =
            cgroup.dir("net_prio").ok_or_else(|| file::no_controller("net_prio", "network.priorities"))?;
        let value = format!("{} {}", priority.name(), priority.priority());
        file::set(dir, "net_prio.ifpriomap", value, "network.priorities")?;
    }
    Ok(())
}
