//! Disks that stand for block devices of the host: config.json calls them by the host's numbers.

use std::fs;

use oci_spec::runtime::{LinuxDeviceType, Spec};
use rkvm_guest_protocol::Disk;
use rkvm_oci::{Error, Result};

const BLOCK: &str = "/sys/block";

/// Rewrites devices and rules of `spec` to the numbers that this kernel has given the disks.
///
/// # Errors
/// A disk is not there.
pub fn renumber(disks: &[Disk], spec: &mut Spec) -> Result<()> {
    if disks.is_empty() {
        return Ok(());
    }
    let numbers = disks.iter().map(find).collect::<Result<Vec<_>>>()?;
    let Some(linux) = spec.linux_mut() else { return Ok(()) };
    let own = |typ: LinuxDeviceType, major: i64, minor: i64| {
        let index = disks.iter().position(|disk| (disk.major, disk.minor) == (major, minor))?;
        (typ == LinuxDeviceType::B).then(|| numbers[index])
    };
    for device in linux.devices_mut().iter_mut().flatten() {
        if let Some((major, minor)) = own(device.typ(), device.major(), device.minor()) {
            device.set_major(major);
            device.set_minor(minor);
        }
    }
    let rules = linux.resources_mut().as_mut().and_then(|resources| resources.devices_mut().as_mut());
    for rule in rules.into_iter().flatten() {
        let (Some(typ), Some(major), Some(minor)) = (rule.typ(), rule.major(), rule.minor()) else {
            continue;
        };
        if let Some((major, minor)) = own(typ, major, minor) {
            rule.set_major(Some(major));
            rule.set_minor(Some(minor));
        }
    }
    Ok(())
}

/// This kernel's numbers of a disk.
fn find(disk: &Disk) -> Result<(i64, i64)> {
    let failed = |source| Error::failed("find the disk", &disk.serial, source);
    for entry in fs::read_dir(BLOCK).map_err(failed)? {
        let path = entry.map_err(failed)?.path();
        if !fs::read_to_string(path.join("serial")).is_ok_and(|serial| serial.trim() == disk.serial) {
            continue;
        }
        let text = fs::read_to_string(path.join("dev")).map_err(failed)?;
        if let Some((major, minor)) = text.trim().split_once(':')
            && let (Ok(major), Ok(minor)) = (major.parse(), minor.parse())
        {
            return Ok((major, minor));
        }
    }
    Err(failed(std::io::Error::from_raw_os_error(libc::ENODEV)))
}
