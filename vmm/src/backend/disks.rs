//! Block devices of the host that the configuration gives to the container: each becomes a disk of the machine.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType, Spec};
use rkvm_guest_protocol::Disk;
use rkvm_oci::{Error, Result};

use crate::Access;

/// A disk, open.
#[derive(Debug)]
pub struct Opened {
    /// What the guest is told.
    pub disk: Disk,
    /// Its device file on the host.
    pub path: PathBuf,
    /// The same, open.
    pub file: File,
    /// Whether the guest may write.
    pub access: Access,
}

/// Opens what `spec` lists, in the way that its rules for devices allow.
///
/// # Errors
/// One is not there, or cannot be opened in that way.
pub fn open(spec: &Spec) -> Result<Vec<Opened>> {
    let linux = spec.linux().as_ref();
    let rules = linux.and_then(|linux| linux.resources().as_ref()?.devices().as_deref()).unwrap_or_default();
    let listed = linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default();
    let disks = listed.iter().enumerate().filter(|(_, device)| device.typ() == LinuxDeviceType::B);
    disks.map(|(index, device)| open_one(index, device, rules)).collect()
}

fn open_one(index: usize, device: &LinuxDevice, rules: &[LinuxDeviceCgroup]) -> Result<Opened> {
    let (major, minor) = (device.major(), device.minor());
    let place = device.path().display();
    let failed = |source| {
        Error::failed(
            "attach to the microVM",
            format!("linux.devices[{index}] ({place}), block device {major}:{minor} of the host"),
            source,
        )
    };
    let path = device_file(major, minor).map_err(failed)?;
    let access = access(rules, major, minor);
    let opened = OpenOptions::new().read(true).write(access == Access::ReadWrite).open(&path);
    let file = opened.map_err(|source| Error::failed("attach to the microVM", path.display(), source))?;
    let about = file.metadata().map_err(failed)?;
    let number = (i64::from(libc::major(about.rdev())), i64::from(libc::minor(about.rdev())));
    if !about.file_type().is_block_device() || number != (major, minor) {
        return Err(failed(std::io::Error::from_raw_os_error(libc::ENXIO)));
    }
    let disk = Disk { serial: format!("rkvm-disk{index}"), major, minor };
    Ok(Opened { disk, path, file, access })
}

/// The device file that the kernel's device manager has made for a block device.
fn device_file(major: i64, minor: i64) -> std::io::Result<PathBuf> {
    let text = std::fs::read_to_string(format!("/sys/dev/block/{major}:{minor}/uevent"))?;
    let name = text.lines().find_map(|line| line.strip_prefix("DEVNAME="));
    name.map(|name| Path::new("/dev").join(name)).ok_or_else(|| std::io::ErrorKind::NotFound.into())
}

/// Whether `rules` let a container write to a block device; the last that concerns writing decides. Without any rule it may.
fn access(rules: &[LinuxDeviceCgroup], major: i64, minor: i64) -> Access {
    let concerns = |rule: &&LinuxDeviceCgroup| {
        matches!(rule.typ().unwrap_or_default(), LinuxDeviceType::A | LinuxDeviceType::B)
            && rule.major().is_none_or(|wanted| wanted == -1 || wanted == major)
            && rule.minor().is_none_or(|wanted| wanted == -1 || wanted == minor)
            && rule.access().as_deref().is_none_or(|access| access.contains('w'))
    };
    match rules.iter().rev().find(concerns) {
        Some(rule) if !rule.allow() => Access::ReadOnly,
        _ => Access::ReadWrite,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    #[test]
    fn the_last_rule_about_writing_decides() {
        let of = |rules: Value| access(&serde_json::from_value::<Vec<_>>(rules).unwrap(), 7, 3);
        let none = json!({ "allow": false, "access": "rwm" });
        assert_eq!(of(json!([])), Access::ReadWrite);
        assert_eq!(of(json!([none])), Access::ReadOnly);
        let read = json!({ "allow": true, "type": "b", "major": 7, "minor": 3, "access": "r" });
        assert_eq!(of(json!([none, read])), Access::ReadOnly);
        let write = json!({ "allow": true, "type": "b", "major": 7, "access": "rw" });
        assert_eq!(of(json!([none, write])), Access::ReadWrite);
        assert_eq!(
            of(json!([none, { "allow": true, "type": "b", "major": 8, "access": "rw" }])),
            Access::ReadOnly
        );
        assert_eq!(
            of(json!([none, { "allow": true, "type": "c", "major": 7, "access": "rw" }])),
            Access::ReadOnly
        );
    }
}
