//! What a workload with a kernel of its own cannot be given.

use std::os::unix::fs::FileTypeExt;
use std::path::Path;

use rkvm_oci::{Error as Unsupported, Kernel};

use crate::error::Result;
use crate::record::{Boot, ContainerRecord, MountKind, NamespaceMode, NetworkMode};

/// Checks that what `record` asks for makes sense on such a kernel.
///
/// # Errors
/// [`rkvm_oci::Error::Unsupported`], naming the flag and what to do in its place.
pub fn check_kernel(record: &ContainerRecord, kernel: Kernel) -> Result<()> {
    match kernel {
        Kernel::Host if record.boot == Boot::default() => Ok(()),
        Kernel::Host => Err(Unsupported::unsupported(
            "--kernel, --initrd or --cmdline",
            "a container runs on the host's kernel; use --isolation=vm",
        )
        .into()),
        Kernel::Own => check_own(record),
    }
}

fn check_own(record: &ContainerRecord) -> Result<()> {
    let security = &record.security;
    let refuse = |flag: String, reason: &str| Err(Unsupported::unsupported(flag, reason).into());
    match &record.network.mode {
        NetworkMode::Bridge | NetworkMode::None => {}
        NetworkMode::Host => {
            return refuse(
                "--network host of a microVM".to_owned(),
                "it has a network stack of its own; publish its ports with -p",
            );
        }
        NetworkMode::Container(_) => {
            return refuse(
                "--network container: of a microVM".to_owned(),
                "it has a network stack of its own; on the bridge it reaches every container by address",
            );
        }
    }
    for (flag, mode) in [
        ("--pid", &security.pid),
        ("--ipc", &security.ipc),
        ("--uts", &security.uts),
        ("--cgroupns", &security.cgroupns),
    ] {
        let name = match mode {
            NamespaceMode::Private => continue,
            NamespaceMode::Host => "host",
            NamespaceMode::Container(_) => "container:",
        };
        let reason = "it has a kernel of its own, which shares no namespace; use --isolation=container";
        return refuse(format!("{flag} {name} of a microVM"), reason);
    }
    let is_disk = |path: &Path| path.metadata().is_ok_and(|there| there.file_type().is_block_device());
    if let Some(device) = security.devices.iter().find(|device| !is_disk(&device.host)) {
        let reason =
            "of the host's devices it can have disks (block devices) only; use --isolation=container";
        return refuse(format!("--device {} of a microVM", device.host.display()), reason);
    }
    if !security.device_rules.is_empty() {
        let reason = "they concern devices of the host, which do not exist in it; use --isolation=container";
        return refuse("--device-cgroup-rule of a microVM".to_owned(), reason);
    }
    if security.apparmor.as_deref().is_some_and(|profile| profile != "unconfined") {
        let reason = "the guest's kernel has no such module; seccomp=FILE and --cap-drop work";
        return refuse("--security-opt apparmor= of a microVM".to_owned(), reason);
    }
    let spreads = |kind: &MountKind| matches!(kind, MountKind::Bind { propagation, .. } if propagation.ends_with("slave"));
    if record.mounts.iter().any(|mount| spreads(&mount.kind)) {
        let reason = "what the host mounts later does not reach it; leave the propagation out";
        return refuse("mount propagation slave or rslave of a microVM".to_owned(), reason);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{DeviceMapping, Seccomp};
    use crate::view::ps::tests::container;

    type Change = fn(&mut ContainerRecord);

    #[test]
    fn what_a_microvm_cannot_have_is_refused_and_the_rest_is_not() {
        let record = container("web").record;
        assert!(check_kernel(&record, Kernel::Own).is_ok());
        assert!(check_kernel(&record, Kernel::Host).is_ok());
        let changes: [(&str, Change); 8] = [
            ("--network host", |record| record.network.mode = NetworkMode::Host),
            ("--network container:", |record| record.network.mode = NetworkMode::Container("x".into())),
            ("--pid host", |record| record.security.pid = NamespaceMode::Host),
            ("--ipc container:", |record| record.security.ipc = NamespaceMode::Container("x".into())),
            ("--uts host", |record| record.security.uts = NamespaceMode::Host),
            ("--device", |record| {
                record.security.devices.push(DeviceMapping {
                    host: "/dev/fuse".into(),
                    container: "/dev/fuse".into(),
                    permissions: "rwm".into(),
                });
            }),
            ("apparmor", |record| record.security.apparmor = Some("mine".into())),
            ("--device-cgroup-rule", |record| record.security.device_rules.push("c 1:3 r".into())),
        ];
        for (named, change) in changes {
            let mut record = record.clone();
            change(&mut record);
            let error = check_kernel(&record, Kernel::Own).unwrap_err().to_string();
            assert!(error.contains(named) && error.contains("microVM"), "{named}: {error}");
            assert!(check_kernel(&record, Kernel::Host).is_ok(), "{named}");
        }
        let mut own = record;
        own.security.privileged = true;
        own.security.seccomp = Seccomp::Unconfined;
        own.boot.cmdline = Some("quiet".to_owned());
        assert!(check_kernel(&own, Kernel::Own).is_ok());
        assert!(check_kernel(&own, Kernel::Host).unwrap_err().to_string().contains("--isolation=vm"));
    }
}
