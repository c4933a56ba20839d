//! What config.json asks for and this backend or host cannot do: refused before anything is made.

use oci_spec::runtime::{Process, Spec};
use rkvm_oci::{Error, Result};

use crate::init::kernel::{Module, sysctl_path};
use rkvm_linux::mounts::options;
use rkvm_linux::namespaces::Namespaces;

/// Checks a whole configuration.
///
/// # Errors
/// The first field that cannot be honoured, named.
pub fn check(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    for (field, set) in [
        ("solaris", spec.solaris().is_some()),
        ("windows", spec.windows().is_some()),
        ("vm", spec.vm().is_some()),
        ("zos", spec.zos().is_some()),
    ] {
        if set {
            return Err(Error::unsupported(field, "it is for another platform than a Linux container"));
        }
    }
    for (field, set, flag) in [
        ("hostname", spec.hostname().is_some(), libc::CLONE_NEWUTS),
        ("domainname", spec.domainname().is_some(), libc::CLONE_NEWUTS),
    ] {
        if set && !namespaces.has(flag) {
            return Err(Error::invalid_spec(
                field,
                "set without a uts namespace; it would change the host's",
            ));
        }
    }
    hooks(spec)?;
    let Some(linux) = spec.linux() else { return Ok(()) };
    let given = |list: Option<usize>| list.is_some_and(|length| length > 0);
    if given(linux.net_devices().as_ref().map(|devices| devices.len())) {
        return Err(Error::unsupported(
            "linux.netDevices",
            "move the device into the network namespace beforehand",
        ));
    }
    if linux.intel_rdt().is_some() {
        return Err(Error::unsupported("linux.intelRdt", "resource director technology is not built"));
    }
    if linux.mount_label().as_ref().is_some_and(|label| !label.is_empty()) && !Module::Selinux.is_there() {
        return Err(Error::unsupported("linux.mountLabel", "this host's kernel runs without SELinux"));
    }
    mappings(spec, namespaces)?;
    time_offsets(spec, namespaces)?;
    if let Some(text) = linux.rootfs_propagation().as_deref().filter(|text| !text.is_empty())
        && options::propagation(text).is_none()
    {
        return Err(Error::invalid_spec(
            "linux.rootfsPropagation",
            format!("{text:?} is none of [r]shared, [r]slave, [r]private, [r]unbindable"),
        ));
    }
    for name in linux.sysctl().iter().flat_map(|sysctls| sysctls.keys()) {
        sysctl(name, namespaces)?;
    }
    if !namespaces.has(libc::CLONE_NEWNS) {
        let read_only = spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false);
        for (field, set) in [
            ("mounts", given(spec.mounts().as_ref().map(Vec::len))),
            ("linux.maskedPaths", given(linux.masked_paths().as_ref().map(Vec::len))),
            ("linux.readonlyPaths", given(linux.readonly_paths().as_ref().map(Vec::len))),
            ("linux.rootfsPropagation", linux.rootfs_propagation().is_some()),
            ("root.readonly", read_only),
        ] {
            if set {
                return Err(Error::invalid_spec(
                    field,
                    "set without a mount namespace; it would change the host",
                ));
            }
        }
    }
    Ok(())
}

/// Checks what is only for a process that is executed later.
///
/// # Errors
/// The first field that cannot be honoured, named.
pub fn check_init_process(process: &Process) -> Result<()> {
    if process.exec_cpu_affinity().is_some() {
        return Err(Error::invalid_spec(
            "process.execCPUAffinity",
            "it is for processes started by `exec`; use linux.resources.cpu.cpus for the container",
        ));
    }
    Ok(())
}

fn hooks(spec: &Spec) -> Result<()> {
    let Some(hooks) = spec.hooks() else { return Ok(()) };
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
            let field = |name: &str| format!("hooks.{kind}[{index}].{name}");
            if !hook.path().is_absolute() {
                return Err(Error::invalid_spec(field("path"), "it must be an absolute path"));
            }
            if hook.timeout().is_some_and(|seconds| seconds <= 0) {
                return Err(Error::invalid_spec(field("timeout"), "it must be above 0 seconds"));
            }
        }
    }
    Ok(())
}

fn mappings(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let Some(linux) = spec.linux() else { return Ok(()) };
    let user = libc::CLONE_NEWUSER;
    for (field, list) in
        [("linux.uidMappings", linux.uid_mappings()), ("linux.gidMappings", linux.gid_mappings())]
    {
        let set = list.as_ref().is_some_and(|list| !list.is_empty());
        if set && !namespaces.has(user) {
            return Err(Error::invalid_spec(field, "set without a user namespace"));
        }
        if !set && namespaces.new & user != 0 {
            return Err(Error::invalid_spec(field, "missing, and a new user namespace needs it"));
        }
    }
    Ok(())
}

fn time_offsets(spec: &Spec, namespaces: &Namespaces) -> Result<()> {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let Some(offsets) = offsets.filter(|offsets| !offsets.is_empty()) else { return Ok(()) };
    if namespaces.new & libc::CLONE_NEWTIME == 0 {
        return Err(Error::invalid_spec("linux.timeOffsets", "set without a new time namespace"));
    }
    match offsets.keys().find(|clock| !matches!(clock.as_str(), "monotonic" | "boottime")) {
        None => Ok(()),
        Some(clock) => Err(Error::invalid_spec(
            "linux.timeOffsets",
            format!("{clock:?} is neither `monotonic` nor `boottime`"),
        )),
    }
}

/// Only settings of the container's own namespaces may be changed (sysctl(7), namespaces(7)).
fn sysctl(name: &str, namespaces: &Namespaces) -> Result<()> {
    const IPC: [&str; 9] = [
        "kernel/msgmax",
        "kernel/msgmnb",
        "kernel/msgmni",
        "kernel/sem",
        "kernel/shmall",
        "kernel/shmmax",
        "kernel/shmmni",
        "kernel/shm_rmid_forced",
        "kernel/auto_msgmni",
    ];
    let path = sysctl_path(name);
    let refuse = |reason: &str| Err(Error::invalid_spec(format!("linux.sysctl {name}"), reason));
    if path.split('/').any(|part| part.is_empty() || part == "..") {
        return refuse("not a name of a sysctl");
    }
    let namespace = if IPC.contains(&path.as_str()) || path.starts_with("fs/mqueue/") {
        libc::CLONE_NEWIPC
    } else if path.starts_with("net/") {
        libc::CLONE_NEWNET
    } else if path == "kernel/domainname" {
        libc::CLONE_NEWUTS
    } else if path == "kernel/hostname" {
        return refuse("set `hostname` instead");
    } else if path.starts_with("user/") {
        libc::CLONE_NEWUSER
    } else {
        return refuse("it belongs to no namespace and would change the host");
    };
    if !namespaces.has(namespace) {
        return refuse("set without a namespace of its kind; it would change the host's");
    }
    Ok(())
}
