//! From a config.json to what the guest is told, what the host shares with it, and how large the machine is.

use std::path::PathBuf;

use oci_spec::runtime::{
    Hooks, LinuxCpu, LinuxDeviceCgroup, LinuxDeviceType, LinuxNamespaceType, LinuxResources, Mount, Spec,
};
use rkvm_linux::mounts::options::{Plan as MountPlan, Source};
use rkvm_linux::sys::mount::attr;
use rkvm_oci::stats::Stats;
use rkvm_oci::{Error, Result};
use serde::{Deserialize, Serialize};

/// Folder of the guest at which the share is mounted.
const SHARE: &str = "/run/host";
/// Guest memory without a limit in the configuration, MiB.
const DEFAULT_MEMORY_MIB: u32 = 256;
/// What a guest's kernel and init take beside the memory of the workload, MiB.
const GUEST_OVERHEAD_MIB: u64 = 48;
/// What the machine's process takes beside the guest's memory, bytes: its own few MiB, and page tables and caches of what it shares.
const HOST_HEADROOM: i64 = 96 << 20;

/// How large a machine is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Virtual processors.
    pub vcpus: u8,
    /// Guest memory, MiB.
    pub memory_mib: u32,
}

/// A bind mount whose source is shared with the guest.
#[derive(Debug, Clone)]
pub struct Shared {
    /// Its name in the share.
    pub name: String,
    /// The mount of config.json.
    pub mount: MountPlan,
}

/// A configuration, taken apart.
#[derive(Debug)]
pub struct Converted {
    /// The container inside.
    pub guest: Spec,
    /// What the host shares for its bind mounts.
    pub shared: Vec<Shared>,
    /// Limits of the machine's process on the host.
    pub host_resources: LinuxResources,
    /// Those of them that wait until the guest is ready.
    pub late_resources: Option<LinuxResources>,
    /// How large the machine is.
    pub size: Size,
}

/// Takes a configuration apart.
///
/// # Errors
/// [`Error::Unsupported`] names the first field that a machine of its own cannot honour.
pub fn convert(spec: &Spec, bundle: &std::path::Path, has_link: bool) -> Result<Converted> {
    check(spec, has_link)?;
    let mut guest = spec.clone();
    guest.set_hooks(inside_hooks(spec.hooks().as_ref()));
    let mut shared = vec![];
    let mut mounts = spec.mounts().clone().unwrap_or_default();
    for (index, mount) in mounts.iter_mut().enumerate() {
        if let Some(share) = share(index, mount, bundle)? {
            shared.push(share);
        }
    }
    guest.set_mounts(Some(mounts));
    let resources = spec.linux().as_ref().and_then(|linux| linux.resources().clone()).unwrap_or_default();
    let size = size(&resources)?;
    if let Some(linux) = guest.linux_mut() {
        linux.set_cgroups_path(None).set_uid_mappings(None).set_gid_mappings(None);
        linux.set_resources(Some(guest_resources(&resources)));
        let outside = [LinuxNamespaceType::User, LinuxNamespaceType::Network];
        let mut namespaces = linux.namespaces().clone().unwrap_or_default();
        namespaces.retain(|namespace| !outside.contains(&namespace.typ()));
        namespaces.iter_mut().for_each(|namespace| {
            namespace.set_path(None);
        });
        linux.set_namespaces(Some(namespaces));
    }
    let mut host_resources = host_resources(&resources, size);
    let late_resources = take_quota(&mut host_resources);
    Ok(Converted { guest, shared, host_resources, late_resources, size })
}

/// The hooks whose programs are the container's own.
fn inside_hooks(hooks: Option<&Hooks>) -> Option<Hooks> {
    let start = hooks?.start_container().clone()?;
    let mut inside = Hooks::default();
    inside.set_start_container(Some(start));
    Some(inside)
}

/// Rewrites a bind mount to what the guest finds in the share.
fn share(index: usize, mount: &mut Mount, bundle: &std::path::Path) -> Result<Option<Shared>> {
    let plan = MountPlan::new(index, mount, bundle)?;
    let Source::Bind(source, _) = &plan.source else { return Ok(None) };
    refuse_sockets(index, source)?;
    if (plan.recursive.set | plan.recursive.clear) & !attr::RDONLY != 0 {
        return Err(Error::unsupported(
            format!("mounts[{index}].options"),
            "of the recursive options only `rro` and `rrw` reach the mounts below a folder that is shared with a microVM",
        ));
    }
    let name = index.to_string();
    // Ids are the business of the host's side, which knows the file system.
    let options =
        mount.options().iter().flatten().filter(|option| !matches!(option.as_str(), "idmap" | "ridmap"));
    let options = options.cloned().collect();
    mount.set_source(Some(PathBuf::from(SHARE).join(&name)));
    mount.set_options(Some(options)).set_uid_mappings(None).set_gid_mappings(None);
    Ok(Some(Shared { name, mount: plan }))
}

/// A socket's file would be there, and nobody behind it.
fn refuse_sockets(index: usize, source: &std::path::Path) -> Result<()> {
    use std::os::unix::fs::FileTypeExt;
    // One that does not exist is refused with its own error later.
    if std::fs::metadata(source).is_ok_and(|there| there.file_type().is_socket()) {
        return Err(Error::unsupported(
            format!("mounts[{index}].source {}", source.display()),
            "a Unix socket of the host cannot be reached from within a microVM; use the network, or --isolation=container",
        ));
    }
    Ok(())
}

/// What makes no sense in a machine with a kernel of its own.
fn check(spec: &Spec, has_link: bool) -> Result<()> {
    let Some(linux) = spec.linux() else {
        return Err(Error::invalid_spec("linux", "missing, and a microVM runs Linux"));
    };
    let process = spec.process().as_ref();
    if process.is_none() {
        return Err(Error::invalid_spec("process", "missing, and a container needs one to start"));
    }
    hooks(spec.hooks().as_ref())?;
    let kernel = "the guest has a kernel of its own; use --isolation=container";
    let namespaces = linux.namespaces().as_deref().unwrap_or_default();
    let has = |kind| namespaces.iter().any(|namespace| namespace.typ() == kind);
    for (field, set) in [("hostname", spec.hostname().is_some()), ("domainname", spec.domainname().is_some())]
    {
        if set && !has(LinuxNamespaceType::Uts) {
            return Err(Error::invalid_spec(
                field,
                "set without a uts namespace; it would change the host's",
            ));
        }
    }
    for (field, list) in
        [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())]
    {
        if list.as_ref().is_some_and(|list| !list.is_empty()) && !has(LinuxNamespaceType::User) {
            return Err(Error::invalid_spec(field, "set without a user namespace to map"));
        }
    }
    use LinuxNamespaceType::{Cgroup, Ipc, Mount, Network, Pid, Time, Uts};
    for kind in [Pid, Ipc, Uts, Mount, Network] {
        let given = kind == Network && has_link;
        if !given && !has(kind) {
            return Err(Error::unsupported(
                format!("linux.namespaces without {}", name(kind)),
                format!("it means the host's, which a microVM cannot share: {kernel}"),
            ));
        }
    }
    for (index, namespace) in namespaces.iter().enumerate() {
        let joined = namespace.path().as_ref().is_some_and(|path| !path.as_os_str().is_empty());
        if joined && matches!(namespace.typ(), Pid | Ipc | Uts | Mount | Cgroup | Time) {
            return Err(Error::unsupported(
                format!("linux.namespaces[{index}].path ({})", name(namespace.typ())),
                format!("a microVM cannot join a namespace of the host: {kernel}"),
            ));
        }
    }
    for (index, device) in linux.devices().iter().flatten().enumerate() {
        let is_disk = device.typ() == LinuxDeviceType::B;
        if !is_disk && !is_virtual(device.typ(), device.major(), device.minor()) {
            return Err(Error::unsupported(
                format!("linux.devices[{index}] ({})", device.path().display()),
                "of the host's devices a microVM can have disks (block devices) only, the drivers of others are the host kernel's; use --isolation=container",
            ));
        }
    }
    let resources = linux.resources().as_ref();
    let some = |list: Option<usize>| list.is_some_and(|length| length > 0);
    for (field, set) in [
        ("linux.intelRdt", linux.intel_rdt().is_some()),
        ("linux.netDevices", some(linux.net_devices().as_ref().map(|devices| devices.len()))),
        ("linux.memoryPolicy", linux.memory_policy().is_some()),
        ("linux.resources.network", resources.is_some_and(|all| all.network().is_some())),
        ("linux.resources.rdma", some(resources.and_then(|all| all.rdma().as_ref().map(|list| list.len())))),
        (
            "linux.resources.hugepageLimits",
            some(resources.and_then(|all| all.hugepage_limits().as_ref().map(Vec::len))),
        ),
    ] {
        if set {
            return Err(Error::unsupported(field, format!("in a microVM it would have no effect: {kernel}")));
        }
    }
    Ok(())
}

/// A kind of namespace as config.json names it.
fn name(kind: LinuxNamespaceType) -> &'static str {
    match kind {
        LinuxNamespaceType::Mount => "mount",
        LinuxNamespaceType::Cgroup => "cgroup",
        LinuxNamespaceType::Uts => "uts",
        LinuxNamespaceType::Ipc => "ipc",
        LinuxNamespaceType::User => "user",
        LinuxNamespaceType::Pid => "pid",
        LinuxNamespaceType::Network => "network",
        LinuxNamespaceType::Time => "time",
    }
}

/// The checks of the hooks that run on the host.
fn hooks(hooks: Option<&Hooks>) -> Result<()> {
    let Some(hooks) = hooks else { return Ok(()) };
    #[allow(deprecated)]
    let kinds = [
        ("prestart", hooks.prestart()),
        ("createRuntime", hooks.create_runtime()),
        ("createContainer", hooks.create_container()),
        ("startContainer", hooks.start_container()),
        ("poststart", hooks.poststart()),
        ("poststop", hooks.poststop()),
    ];
    for (kind, list) in kinds {
        for (index, hook) in list.iter().flatten().enumerate() {
            if !hook.path().is_absolute() {
                return Err(Error::invalid_spec(
                    format!("hooks.{kind}[{index}].path"),
                    format!("{} is not absolute", hook.path().display()),
                ));
            }
        }
    }
    Ok(())
}

/// Whether a device is made by a kernel out of nothing (Documentation/admin-guide/devices.txt), so that the guest has it too.
fn is_virtual(kind: LinuxDeviceType, major: i64, minor: i64) -> bool {
    match kind {
        LinuxDeviceType::P => true,
        LinuxDeviceType::C | LinuxDeviceType::U => {
            matches!((major, minor), (1, 1..=11) | (5, 0..=2) | (10, 200 | 229) | (136..=143, _))
        }
        _ => false,
    }
}

fn size(resources: &LinuxResources) -> Result<Size> {
    let cpu = resources.cpu().as_ref();
    let quota = cpu.and_then(LinuxCpu::quota).filter(|quota| *quota > 0);
    let period = cpu.and_then(LinuxCpu::period).filter(|period| *period > 0).unwrap_or(100_000);
    let wanted = match quota {
        Some(quota) => (quota as u64).div_ceil(period),
        None => 1,
    };
    // More than the host has would only take turns.
    let host = std::thread::available_parallelism().map_or(1, |count| count.get() as u64);
    let vcpus = wanted.clamp(1, host.min(crate::config::MAX_VCPUS.into())) as u8;
    let limit = resources.memory().as_ref().and_then(|memory| memory.limit()).filter(|limit| *limit > 0);
    let memory_mib = match limit {
        None => DEFAULT_MEMORY_MIB,
        Some(bytes) => {
            let mib = (bytes as u64).div_ceil(1 << 20) + GUEST_OVERHEAD_MIB;
            // Memory is taken only as the guest touches it, but its kernel keeps a table of all of it.
            let most = (host_memory_mib() + GUEST_OVERHEAD_MIB).min(crate::config::MAX_MEMORY_MIB.into());
            mib.min(most) as u32
        }
    };
    Ok(Size { vcpus, memory_mib })
}

/// Memory of this host, MiB.
fn host_memory_mib() -> u64 {
    let text = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:")).unwrap_or_default();
    line.trim().trim_end_matches(" kB").parse::<u64>().map_or(4096, |kib| kib >> 10)
}

/// What the guest's own cgroup is to enforce: what the host cannot see into.
fn guest_resources(resources: &LinuxResources) -> LinuxResources {
    let mut inside = resources.clone();
    inside.set_cpu(None).set_block_io(None);
    // A machine has no swap, so whatever it may use of that is kept to, and its kernel has no words for it.
    if let Some(memory) = inside.memory_mut() {
        memory.set_swap(None).set_swappiness(None);
    }
    inside
}

/// Limits of the machine's process: what is paid for by the host.
fn host_resources(resources: &LinuxResources, size: Size) -> LinuxResources {
    let mut outside = LinuxResources::default();
    outside.set_cpu(resources.cpu().clone()).set_block_io(resources.block_io().clone());
    // /dev/net/tun, for a link that is taken over; the jail has no device files.
    let mut tun = LinuxDeviceCgroup::default();
    tun.set_allow(true).set_typ(Some(LinuxDeviceType::C)).set_major(Some(10)).set_minor(Some(200));
    tun.set_access(Some("rw".to_owned()));
    outside.set_devices(Some(vec![tun]));
    if resources.memory().as_ref().and_then(|memory| memory.limit()).is_some_and(|limit| limit > 0) {
        let mut memory = oci_spec::runtime::LinuxMemory::default();
        memory.set_limit(Some((i64::from(size.memory_mib) << 20) + HOST_HEADROOM));
        outside.set_memory(Some(memory));
    }
    outside
}

/// Takes the processor's quota out of `resources`: booting is the machine's work, not the workload's, and with a hundredth of a
/// processor it would take longer than any limit for it could be.
fn take_quota(resources: &mut LinuxResources) -> Option<LinuxResources> {
    let cpu = resources.cpu_mut().as_mut()?;
    let mut late = LinuxCpu::default();
    late.set_quota(cpu.quota()).set_period(cpu.period()).set_burst(cpu.burst());
    cpu.set_quota(None).set_period(None).set_burst(None);
    (late != LinuxCpu::default()).then(|| {
        let mut resources = LinuxResources::default();
        resources.set_cpu(Some(late));
        resources
    })
}

/// New limits, taken apart: for the machine's process and for the container inside.
///
/// # Errors
/// The size of a machine that runs does not change: neither limit may be above it.
pub fn split_update(resources: &LinuxResources, size: Size) -> Result<(LinuxResources, LinuxResources)> {
    let fixed = |field: &str, wanted: String, has: String| {
        let reason =
            format!("the machine has {has} for as long as it runs; start another one that is larger");
        Err(Error::unsupported(format!("{field} of {wanted} for a microVM that runs"), reason))
    };
    let cpu = resources.cpu().as_ref();
    if let Some(quota) = cpu.and_then(LinuxCpu::quota).filter(|quota| *quota > 0) {
        let period = cpu.and_then(LinuxCpu::period).filter(|period| *period > 0).unwrap_or(100_000);
        if (quota as u64).div_ceil(period) > size.vcpus.into() {
            let wanted = format!("{} processors", quota as f64 / period as f64);
            let has =
                if size.vcpus == 1 { "1 processor".to_owned() } else { format!("{} processors", size.vcpus) };
            return fixed("linux.resources.cpu.quota (--cpus)", wanted, has);
        }
    }
    let limit = resources.memory().as_ref().and_then(|memory| memory.limit()).unwrap_or(0);
    let most = u64::from(size.memory_mib).saturating_sub(GUEST_OVERHEAD_MIB);
    if limit > 0 && (limit as u64).div_ceil(1 << 20) > most {
        let wanted = format!("{} MiB", (limit as u64).div_ceil(1 << 20));
        let has = format!("{} MiB, of which {most} are for what runs in it,", size.memory_mib);
        return fixed("linux.resources.memory.limit (--memory)", wanted, has);
    }
    let inside = guest_resources(resources);
    let mut outside = LinuxResources::default();
    outside.set_cpu(resources.cpu().clone()).set_block_io(resources.block_io().clone());
    Ok((outside, inside))
}

/// Puts what only the guest can see into the host's view of the machine.
pub fn join_stats(outside: &mut Stats, inside: Stats, size: Size) {
    outside.memory_usage_bytes = inside.memory_usage_bytes;
    outside.memory_inactive_file_bytes = inside.memory_inactive_file_bytes;
    outside.memory_limit_bytes = inside.memory_limit_bytes.or(Some(u64::from(size.memory_mib) << 20));
    outside.memory_max_usage_bytes = inside.memory_max_usage_bytes;
    outside.memory_failcnt = inside.memory_failcnt;
    outside.pids_current = inside.pids_current;
    outside.pids_limit = inside.pids_limit;
    outside.oom_kills = inside.oom_kills;
}

#[cfg(test)]
mod tests;
