//! Hosts with v1 hierarchies and the unified one: each limit goes where its controller is.

use std::cell::LazyCell;

use oci_spec::runtime::{LinuxCpu, LinuxResources};
use rkvm_oci::Result;
use rkvm_oci::stats::Stats;

use super::{Moment, V1, V2};

/// Applies the resources. A controller that neither side has is reported by v1's side.
pub(super) fn apply(v1: &V1, v2: &V2, resources: &LinuxResources, moment: Moment) -> Result<()> {
    // Read only if v1 lacks something that is asked for, which is rare.
    let offered = LazyCell::new(|| v2.offered());
    let (ours, theirs) = split(resources, |old, new| {
        !v1.has(old) && (new == "devices" || offered.split_whitespace().any(|one| one == new))
    });
    v1.apply(&ours, moment)?;
    if theirs == LinuxResources::default() { Ok(()) } else { v2.apply(&theirs, moment, &[]) }
}

/// Divides the resources between v1 and v2. `unified` is asked with a controller's v1 and v2 names, and only for what is
/// set.
fn split(
    resources: &LinuxResources,
    unified: impl Fn(&str, &str) -> bool,
) -> (LinuxResources, LinuxResources) {
    let mut ours = resources.clone();
    let mut theirs = LinuxResources::default();
    if ours.devices().is_some() && unified("devices", "devices") {
        theirs.set_devices(ours.devices_mut().take());
    }
    if ours.memory().is_some() && unified("memory", "memory") {
        theirs.set_memory(ours.memory_mut().take());
    }
    if ours.pids().is_some() && unified("pids", "pids") {
        theirs.set_pids(ours.pids_mut().take());
    }
    if ours.block_io().is_some() && unified("blkio", "io") {
        theirs.set_block_io(ours.block_io_mut().take());
    }
    if ours.hugepage_limits().is_some() && unified("hugetlb", "hugetlb") {
        theirs.set_hugepage_limits(ours.hugepage_limits_mut().take());
    }
    if ours.rdma().is_some() && unified("rdma", "rdma") {
        theirs.set_rdma(ours.rdma_mut().take());
    }
    if let Some(cpu) = resources.cpu() {
        let (time, sets) = (time_of(cpu), sets_of(cpu));
        let time_theirs = time != LinuxCpu::default() && unified("cpu", "cpu");
        let sets_theirs = sets != LinuxCpu::default() && unified("cpuset", "cpuset");
        let (our_cpu, their_cpu) = match (time_theirs, sets_theirs) {
            (false, false) => (Some(cpu.clone()), None),
            (true, false) => (Some(sets), Some(time)),
            (false, true) => (Some(time), Some(sets)),
            (true, true) => (None, Some(cpu.clone())),
        };
        ours.set_cpu(our_cpu);
        theirs.set_cpu(their_cpu);
    }
    theirs.set_unified(ours.unified_mut().take());
    (ours, theirs)
}

/// What the controller `cpu` limits.
fn time_of(cpu: &LinuxCpu) -> LinuxCpu {
    let mut time = cpu.clone();
    time.set_cpus(None).set_mems(None);
    time
}

/// What the controller `cpuset` limits.
fn sets_of(cpu: &LinuxCpu) -> LinuxCpu {
    let mut sets = LinuxCpu::default();
    sets.set_cpus(cpu.cpus().clone()).set_mems(cpu.mems().clone());
    sets
}

/// Counters of both sides, v1's first.
pub(super) fn join(v1: Stats, v2: Stats) -> Stats {
    Stats {
        cpu_total_ns: v1.cpu_total_ns.or(v2.cpu_total_ns),
        cpu_user_ns: v1.cpu_user_ns.or(v2.cpu_user_ns),
        cpu_kernel_ns: v1.cpu_kernel_ns.or(v2.cpu_kernel_ns),
        cpu_periods: v1.cpu_periods.or(v2.cpu_periods),
        cpu_throttled_periods: v1.cpu_throttled_periods.or(v2.cpu_throttled_periods),
        cpu_throttled_ns: v1.cpu_throttled_ns.or(v2.cpu_throttled_ns),
        memory_usage_bytes: v1.memory_usage_bytes.or(v2.memory_usage_bytes),
        memory_inactive_file_bytes: v1.memory_inactive_file_bytes.or(v2.memory_inactive_file_bytes),
        memory_limit_bytes: v1.memory_limit_bytes.or(v2.memory_limit_bytes),
        memory_max_usage_bytes: v1.memory_max_usage_bytes.or(v2.memory_max_usage_bytes),
        memory_failcnt: v1.memory_failcnt.or(v2.memory_failcnt),
        oom_kills: v1.oom_kills.or(v2.oom_kills),
        pids_current: v1.pids_current.or(v2.pids_current),
        pids_limit: v1.pids_limit.or(v2.pids_limit),
        io_read_bytes: v1.io_read_bytes.or(v2.io_read_bytes),
        io_write_bytes: v1.io_write_bytes.or(v2.io_write_bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_follow_their_controllers() {
        let all: LinuxResources = serde_json::from_str(
            r#"{"memory": {"limit": 1}, "cpu": {"shares": 2, "cpus": "0"}, "pids": {"limit": 3},
                "blockIO": {"weight": 10}, "unified": {"memory.high": "1"}, "devices": []}"#,
        )
        .unwrap();
        let (ours, theirs) =
            split(&all, |old, new| ["memory", "cpuset", "blkio"].contains(&old) && new != "none");
        assert!(ours.memory().is_none() && theirs.memory().is_some());
        assert!(ours.block_io().is_none() && theirs.block_io().is_some());
        assert!(ours.pids().is_some() && theirs.pids().is_none());
        assert!(ours.devices().is_some() && theirs.devices().is_none());
        assert_eq!(theirs.cpu().as_ref().unwrap().cpus().as_deref(), Some("0"));
        assert_eq!(theirs.cpu().as_ref().unwrap().shares(), None);
        assert_eq!(ours.cpu().as_ref().unwrap().shares(), Some(2));
        assert_eq!(ours.cpu().as_ref().unwrap().cpus(), &None);
        assert!(ours.unified().is_none() && theirs.unified().is_some());
    }
}
