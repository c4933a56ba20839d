//! The mounts of a container: Docker's defaults, the engine's files, then what the user asked for.

use std::path::{Path, PathBuf};

use oci_spec::runtime::Mount;
use rkvm_oci::Kernel;

use super::{DEFAULT_SHM_BYTES, INIT_PATH, Inputs};
use crate::agent::AGENT_DIR;
use crate::record::{DeviceMapping, MountConfig, MountKind, NamespaceMode};

/// All mounts, in the order in which they are made.
pub fn mounts(inputs: &Inputs<'_>) -> Vec<Mount> {
    let record = inputs.record;
    let taken = |target: &str| record.mounts.iter().any(|mount| same_path(&mount.target, target));
    let mut mounts = defaults(inputs);
    mounts.retain(|mount| !taken(&mount.destination().to_string_lossy()));
    for (target, source) in [
        ("/etc/resolv.conf", inputs.files.resolv_conf()),
        ("/etc/hostname", inputs.files.hostname()),
        ("/etc/hosts", inputs.files.hosts()),
    ] {
        if !taken(target) && inputs.network_files {
            mounts.push(bind(inputs, &source, target, &["bind", "rprivate"]));
        }
    }
    for device in moved_devices(inputs) {
        mounts.push(mount("bind", &device.host, &device.container.to_string_lossy(), &["bind", "rprivate"]));
    }
    if record.process.init {
        mounts.push(bind(
            inputs,
            inputs.init_program,
            INIT_PATH,
            &["bind", "ro", "nosuid", "nodev", "rprivate"],
        ));
    }
    if inputs.kernel == Kernel::Own {
        // On the tmpfs of /dev, so that it shows neither in the image nor in the write layer.
        let options = ["bind", "ro", "nosuid", "nodev", "rprivate"];
        mounts.push(bind(inputs, inputs.init_program, &format!("{AGENT_DIR}/agent"), &options));
        let options = ["bind", "ro", "nosuid", "nodev", "noexec", "rprivate"];
        mounts.push(bind(inputs, &inputs.files.transfer(), &format!("{AGENT_DIR}/transfer"), &options));
    }
    let mut wanted: Vec<&MountConfig> = record.mounts.iter().collect();
    // A mount within another one must come after it.
    wanted.sort_by_key(|mount| Path::new(&mount.target).components().count());
    mounts.extend(wanted.into_iter().map(|mount| user_mount(inputs, mount)));
    mounts
}

/// Devices that are to have another path inside. In a user namespace no device file can be made, so the host's own is bound there.
pub(super) fn moved_devices<'a>(inputs: &'a Inputs<'_>) -> impl Iterator<Item = &'a DeviceMapping> {
    let devices = &inputs.record.security.devices;
    devices.iter().filter(|device| {
        inputs.kernel == Kernel::Host
            && inputs.uid_base.is_some()
            && device.host != device.container
            && !device.host.is_dir()
    })
}

fn same_path(a: &str, b: &str) -> bool {
    Path::new(a).components().eq(Path::new(b).components())
}

fn mount(kind: &str, source: &Path, target: &str, options: &[&str]) -> Mount {
    let mut mount = Mount::default();
    mount.set_destination(target.into());
    mount.set_typ(Some(kind.to_owned()));
    mount.set_source(Some(source.to_owned()));
    mount.set_options(Some(options.iter().map(|option| (*option).to_owned()).collect()));
    mount
}

fn defaults(inputs: &Inputs<'_>) -> Vec<Mount> {
    let record = inputs.record;
    let special = |kind: &str, target: &str, options: &[&str]| mount(kind, Path::new(kind), target, options);
    let access = if record.security.privileged { "rw" } else { "ro" };
    let shm = format!("size={}", record.limits.shm_size.unwrap_or(DEFAULT_SHM_BYTES));
    let mut mounts = vec![
        special("proc", "/proc", &["nosuid", "noexec", "nodev"]),
        special("tmpfs", "/dev", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        special(
            "devpts",
            "/dev/pts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        special("sysfs", "/sys", &["nosuid", "noexec", "nodev", access]),
        special("cgroup", "/sys/fs/cgroup", &[access, "nosuid", "noexec", "nodev"]),
        special("mqueue", "/dev/mqueue", &["nosuid", "noexec", "nodev"]),
    ];
    mounts.push(match &record.security.ipc {
        NamespaceMode::Private => {
            special("tmpfs", "/dev/shm", &["nosuid", "noexec", "nodev", "mode=1777", &shm])
        }
        NamespaceMode::Host => mount("bind", Path::new("/dev/shm"), "/dev/shm", &["rbind", "rprivate"]),
        NamespaceMode::Container(id) => {
            let pid = inputs.joined.get(id).copied().unwrap_or_default();
            let source = PathBuf::from(format!("/proc/{pid}/root/dev/shm"));
            mount("bind", &source, "/dev/shm", &["rbind", "rprivate"])
        }
    });
    mounts
}

/// A bind mount that shows on-disk owners as the container's ids: mapped by its own user namespace, so no mapping is given.
fn bind(inputs: &Inputs<'_>, source: &Path, target: &str, options: &[&str]) -> Mount {
    let mut options = options.to_vec();
    if inputs.uid_base.is_some() {
        options.push(if options.contains(&"rbind") { "ridmap" } else { "idmap" });
    }
    mount("bind", source, target, &options)
}

fn user_mount(inputs: &Inputs<'_>, wanted: &MountConfig) -> Mount {
    match &wanted.kind {
        MountKind::Bind { source, propagation, recursive } => {
            let mut options = vec![if *recursive { "rbind" } else { "bind" }, propagation.as_str()];
            if wanted.read_only {
                options.push(if *recursive { "rro" } else { "ro" });
            }
            bind(inputs, source, &wanted.target, &options)
        }
        MountKind::Volume { name, subpath, .. } => {
            let mut options = vec!["rbind", "rprivate"];
            if wanted.read_only {
                options.push("ro");
            }
            bind(inputs, &(inputs.volume_path)(name).join(subpath), &wanted.target, &options)
        }
        MountKind::Tmpfs { options } => {
            let mut all = vec!["noexec", "nosuid", "nodev"];
            for option in options {
                // The user's word replaces the default one: `exec` that of `noexec`.
                all.retain(|other| other.strip_prefix("no") != Some(option.as_str()) && other != option);
                all.push(option);
            }
            if wanted.read_only {
                all.push("ro");
            }
            mount("tmpfs", Path::new("tmpfs"), &wanted.target, &all)
        }
    }
}
