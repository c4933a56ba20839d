//! The OCI configuration of a container, as Docker would make it from the same image and flags.

mod capabilities;
mod devices;
mod mounts;
mod resources;
pub mod user;

use std::collections::HashMap;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{
    Linux, LinuxNamespace, LinuxNamespaceType, LinuxSeccomp, PosixRlimitBuilder, PosixRlimitType, Process,
    Root, Spec,
};

use rkvm_oci::Kernel;

use crate::error::{Error, Result};
use crate::ids;
use crate::layers::RootView;
use crate::paths::ContainerPaths;
use crate::record::{ContainerRecord, NamespaceMode, NetworkMode, Seccomp, Security};

pub use capabilities::{default_capabilities, parse as parse_capability};
pub use devices::parse_rule as parse_device_rule;
pub use resources::resources;

/// PATH of a container whose image sets none.
pub const DEFAULT_PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
/// Where `--init` puts the small init.
pub const INIT_PATH: &str = "/sbin/rkvm-init";
/// Size of /dev/shm without `--shm-size`, bytes (Docker's).
pub const DEFAULT_SHM_BYTES: i64 = 64 << 20;

/// What the configuration depends on beside the record: all of it is known only when the container is about to start.
pub struct Inputs<'a> {
    /// What was asked for.
    pub record: &'a ContainerRecord,
    /// Its files.
    pub files: &'a ContainerPaths,
    /// Whether those of its network, which are bound to /etc/hosts and the like, are there when it starts.
    pub network_files: bool,
    /// Host id of the container's user 0; `None` in the host's user namespace.
    pub uid_base: Option<u32>,
    /// Path of the user namespace to join; `None` for the host's.
    pub user_namespace: Option<PathBuf>,
    /// Path of the network namespace to join; `None` for the host's.
    pub net_namespace: Option<PathBuf>,
    /// Process id of the init of each container whose namespaces are joined, by full id.
    pub joined: &'a HashMap<String, i32>,
    /// Host folder of the volume with this name.
    pub volume_path: &'a dyn Fn(&str) -> PathBuf,
    /// Program that is bound to [`INIT_PATH`] for `--init`, and into microVMs.
    pub init_program: &'a Path,
    /// Whose kernel it runs on.
    pub kernel: Kernel,
    /// Its root filesystem.
    pub root: &'a RootView,
}

/// Makes the configuration. Names of users are looked up in the root filesystem.
///
/// # Errors
/// A user or group does not exist, a device is missing, a profile cannot be read.
pub fn build(inputs: &Inputs<'_>) -> Result<Spec> {
    let record = inputs.record;
    let security = &record.security;
    let capabilities =
        capabilities::names(security, inputs.uid_base.is_some() || inputs.kernel == Kernel::Own);
    let mut spec = Spec::default();
    spec.set_version("1.2.0".to_owned());
    let mut root = Root::default();
    root.set_path(inputs.files.rootfs());
    root.set_readonly(Some(security.read_only));
    spec.set_root(Some(root));
    spec.set_hostname(match security.uts {
        NamespaceMode::Private => Some(hostname(record).to_owned()),
        _ => None,
    });
    if security.uts == NamespaceMode::Private && !record.process.domainname.is_empty() {
        spec.set_domainname(Some(record.process.domainname.clone()));
    }
    let user = user::lookup(inputs.root, &record.process.user, &record.process.group_add)?;
    let mut args: Vec<String> = record.process.args().cloned().collect();
    if record.process.init {
        args.splice(0..0, [INIT_PATH.to_owned(), "--".to_owned()]);
    }
    let environment = environment(record, &record.process.env, record.process.tty, &user.home);
    let mut process = process(record, &capabilities, args, environment, user.user)?;
    process.set_cwd(working_dir(&record.process.working_dir));
    process.set_terminal(Some(record.process.tty));
    process.set_oom_score_adj(record.limits.oom_score_adj);
    spec.set_process(Some(process));
    spec.set_mounts(Some(mounts::mounts(inputs)));
    let annotations: HashMap<String, String> =
        record.annotations.clone().into_iter().chain(record.boot.annotations()).collect();
    if !annotations.is_empty() {
        spec.set_annotations(Some(annotations));
    }
    spec.set_linux(Some(linux(inputs, &capabilities)?));
    Ok(spec)
}

/// A process of this container: the init's, and the pattern for those of `exec`.
///
/// # Errors
/// A limit has a name that the kernel does not know.
pub fn process(
    record: &ContainerRecord,
    capabilities: &[String],
    args: Vec<String>,
    env: Vec<String>,
    user: oci_spec::runtime::User,
) -> Result<Process> {
    let mut process = Process::default();
    let root = user.uid() == 0;
    process.set_user(user);
    process.set_args(Some(args));
    process.set_env(Some(env));
    process.set_capabilities(Some(capabilities::sets(capabilities, root)));
    process.set_no_new_privileges(Some(record.security.no_new_privileges));
    process.set_apparmor_profile(record.security.apparmor.clone());
    process.set_selinux_label(selinux_label(&record.security));
    let limits = record.limits.ulimits.iter().map(|limit| {
        let typ: PosixRlimitType = serde_json::from_value(serde_json::Value::String(format!(
            "RLIMIT_{}",
            limit.name.to_ascii_uppercase()
        )))
        .map_err(|_| Error::Invalid {
            what: "ulimit",
            value: limit.name.clone(),
            reason: "the kernel has no such limit".to_owned(),
        })?;
        Ok(PosixRlimitBuilder::default().typ(typ).soft(limit.soft).hard(limit.hard).build()?)
    });
    process.set_rlimits(Some(limits.collect::<Result<_>>()?).filter(|limits: &Vec<_>| !limits.is_empty()));
    Ok(process)
}

/// The label of `--security-opt label=...`: `user:role:type:level` as far as given.
fn selinux_label(security: &Security) -> Option<String> {
    (!security.selinux.is_empty() && security.selinux.iter().all(|option| option != "disable"))
        .then(|| security.selinux.join(","))
}

/// Capabilities of the container's processes, as `CAP_...`.
pub fn capability_names(record: &ContainerRecord, own_user_namespace: bool) -> Vec<String> {
    capabilities::names(&record.security, own_user_namespace)
}

/// The container's host name.
pub fn hostname(record: &ContainerRecord) -> &str {
    match record.process.hostname.as_str() {
        "" => ids::short(&record.id),
        name => name,
    }
}

/// An absolute working directory.
pub fn working_dir(wanted: &str) -> PathBuf {
    Path::new("/").join(wanted)
}

/// Docker's environment: PATH, HOSTNAME, TERM for a terminal, then `given`, later values winning, and HOME of the user unless given.
pub fn environment(record: &ContainerRecord, given: &[String], tty: bool, home: &str) -> Vec<String> {
    let mut env = vec![DEFAULT_PATH.to_owned(), format!("HOSTNAME={}", hostname(record))];
    if tty {
        env.push("TERM=xterm".to_owned());
    }
    merge_env(&mut env, given);
    if !env.iter().any(|variable| variable.starts_with("HOME=")) {
        env.push(format!("HOME={home}"));
    }
    env
}

/// Sets each variable of `more` in `env`, in place when it is there. A name without `=` removes the variable.
pub fn merge_env(env: &mut Vec<String>, more: &[String]) {
    for variable in more {
        let name = variable.split('=').next().unwrap_or_default();
        let same = |other: &String| other.split('=').next() == Some(name);
        if !variable.contains('=') {
            env.retain(|other| !same(other));
        } else if let Some(old) = env.iter_mut().find(|other| same(other)) {
            variable.clone_into(old);
        } else {
            env.push(variable.clone());
        }
    }
}

fn linux(inputs: &Inputs<'_>, capabilities: &[String]) -> Result<Linux> {
    let record = inputs.record;
    let security = &record.security;
    let mut linux = Linux::default();
    linux.set_namespaces(Some(namespaces(inputs)?));
    let parent = security.cgroup_parent.as_deref().unwrap_or("/rkvm");
    linux.set_cgroups_path(Some(Path::new("/").join(parent).join(&record.id)));
    let mut devices = match inputs.kernel {
        Kernel::Host => devices::devices(security)?,
        // It has devices of its own, and disks that stand for those of the host.
        Kernel::Own => devices::given(security)?,
    };
    let mut resources = resources::resources(&record.limits);
    resources.set_devices(Some(devices::rules(security, &devices)?));
    linux.set_resources(Some(resources));
    devices.retain(|device| mounts::moved_devices(inputs).all(|moved| moved.container != *device.path()));
    linux.set_devices(Some(devices));
    linux.set_sysctl(Some(sysctls(inputs)));
    linux.set_rootfs_propagation(None);
    let open = security.privileged || security.unmasked;
    let list = |paths: &[&str]| Some(paths.iter().map(|path| (*path).to_owned()).collect::<Vec<_>>());
    linux.set_masked_paths(if open { None } else { list(&MASKED) });
    linux.set_readonly_paths(if open { None } else { list(&READ_ONLY) });
    linux.set_seccomp(seccomp(inputs, capabilities)?);
    Ok(linux)
}

/// Paths that tell of the host or change it, hidden (Docker's list).
const MASKED: [&str; 12] = [
    "/proc/asound",
    "/proc/acpi",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/timer_list",
    "/proc/timer_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/sys/firmware",
    "/sys/devices/virtual/powercap",
];

/// Paths that change the host, read-only (Docker's list).
const READ_ONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

fn seccomp(inputs: &Inputs<'_>, capabilities: &[String]) -> Result<Option<LinuxSeccomp>> {
    let security = &inputs.record.security;
    match &security.seccomp {
        // Like Docker: a privileged container is unconfined unless it was given a profile.
        Seccomp::Default if security.privileged => Ok(None),
        Seccomp::Default => Ok(Some(crate::seccomp::default_profile(capabilities))),
        Seccomp::Unconfined => Ok(None),
        Seccomp::Profile(text) => Ok(Some(crate::seccomp::load_profile(text, capabilities)?)),
    }
}

fn sysctls(inputs: &Inputs<'_>) -> HashMap<String, String> {
    let record = inputs.record;
    let mut sysctls: HashMap<String, String> =
        record.security.sysctls.iter().map(|(name, value)| (name.clone(), value.clone())).collect();
    // As Docker: no capability is needed to listen on port 80 or to ping, in a network namespace that is the container's alone.
    if matches!(record.network.mode, NetworkMode::Bridge | NetworkMode::None) {
        sysctls.entry("net.ipv4.ip_unprivileged_port_start".to_owned()).or_insert_with(|| "0".to_owned());
        let groups = if inputs.uid_base.is_some() { "0 65535" } else { "0 2147483647" };
        sysctls.entry("net.ipv4.ping_group_range".to_owned()).or_insert_with(|| groups.to_owned());
    }
    sysctls
}

fn namespaces(inputs: &Inputs<'_>) -> Result<Vec<LinuxNamespace>> {
    let security = &inputs.record.security;
    let mut list = Vec::with_capacity(7);
    let mut push = |typ: LinuxNamespaceType, path: Option<PathBuf>| {
        let mut namespace = LinuxNamespace::default();
        namespace.set_typ(typ);
        namespace.set_path(path);
        list.push(namespace);
    };
    push(LinuxNamespaceType::Mount, None);
    if let Some(path) = &inputs.user_namespace {
        push(LinuxNamespaceType::User, Some(path.clone()));
    }
    if let Some(path) = &inputs.net_namespace {
        push(LinuxNamespaceType::Network, Some(path.clone()));
    } else if inputs.kernel == Kernel::Own {
        push(LinuxNamespaceType::Network, None);
    }
    for (typ, mode, name) in [
        (LinuxNamespaceType::Pid, &security.pid, "pid"),
        (LinuxNamespaceType::Ipc, &security.ipc, "ipc"),
        (LinuxNamespaceType::Uts, &security.uts, "uts"),
        (LinuxNamespaceType::Cgroup, &security.cgroupns, "cgroup"),
    ] {
        match mode {
            NamespaceMode::Private => push(typ, None),
            NamespaceMode::Host => {}
            NamespaceMode::Container(id) => {
                let pid = inputs.joined.get(id).ok_or_else(|| Error::NoSuchContainer(id.clone()))?;
                push(typ, Some(format!("/proc/{pid}/ns/{name}").into()));
            }
        }
    }
    Ok(list)
}

#[cfg(test)]
mod tests;
