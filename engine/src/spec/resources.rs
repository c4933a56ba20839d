//! Resource limits in runtime-spec's form.

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxPids, LinuxResources};

use crate::record::Limits;

/// Length of a CPU period for `--cpus`, microseconds (Docker's).
const CPU_PERIOD_US: u64 = 100_000;

/// `limits` as runtime-spec says them, for a start and for `update`. Limits that are not set are absent.
pub fn resources(limits: &Limits) -> LinuxResources {
    let mut resources = LinuxResources::default();
    resources.set_memory(memory(limits));
    resources.set_cpu(cpu(limits));
    resources.set_pids(limits.pids.map(|limit| {
        let mut pids = LinuxPids::default();
        pids.set_limit(limit);
        pids
    }));
    resources.set_block_io(limits.blkio_weight.map(|weight| {
        let mut block_io = LinuxBlockIo::default();
        block_io.set_weight(Some(weight));
        block_io
    }));
    resources
}

fn memory(limits: &Limits) -> Option<LinuxMemory> {
    let mut memory = LinuxMemory::default();
    memory.set_limit(limits.memory);
    memory.set_reservation(limits.memory_reservation);
    // As Docker: without --memory-swap, as much swap as memory.
    memory.set_swap(match (limits.memory_swap, limits.memory) {
        (None | Some(0), Some(limit)) if limit > 0 => Some(limit * 2),
        (None | Some(0), _) => None,
        (swap, _) => swap,
    });
    memory.set_swappiness(limits.memory_swappiness);
    memory.set_disable_oom_killer(limits.oom_kill_disable.then_some(true));
    (memory != LinuxMemory::default()).then_some(memory)
}

fn cpu(limits: &Limits) -> Option<LinuxCpu> {
    let mut cpu = LinuxCpu::default();
    cpu.set_shares(limits.cpu_shares);
    cpu.set_cpus(limits.cpuset_cpus.clone());
    cpu.set_mems(limits.cpuset_mems.clone());
    cpu.set_period(limits.cpu_period);
    cpu.set_quota(limits.cpu_quota);
    if let Some(nano) = limits.nano_cpus {
        cpu.set_period(Some(CPU_PERIOD_US));
        cpu.set_quota(Some(nano * CPU_PERIOD_US as i64 / 1_000_000_000));
    }
    (cpu != LinuxCpu::default()).then_some(cpu)
}
