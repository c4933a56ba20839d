//! Device files and the rules that let a container use them.

use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceCgroup, LinuxDeviceType};

use crate::error::{Error, Result};
use crate::record::Security;

/// Devices beyond the default ones, which every runtime makes: those of `--device`, and all of the host's for `--privileged`.
pub fn devices(security: &Security) -> Result<Vec<LinuxDevice>> {
    let mut devices = Vec::new();
    if security.privileged {
        for path in walk(Path::new("/dev")) {
            if let Some(device) = device(&path, &path) {
                devices.push(device);
            }
        }
    }
    for device in given(security)? {
        devices.retain(|other: &LinuxDevice| other.path() != device.path());
        devices.push(device);
    }
    Ok(devices)
}

/// Those of `--device`.
pub fn given(security: &Security) -> Result<Vec<LinuxDevice>> {
    let mut devices: Vec<LinuxDevice> = Vec::new();
    for mapping in &security.devices {
        let found = if mapping.host.is_dir() {
            walk(&mapping.host)
                .into_iter()
                .filter_map(|path| {
                    let inside = mapping.container.join(path.strip_prefix(&mapping.host).ok()?);
                    device(&path, &inside)
                })
                .collect()
        } else {
            device(&mapping.host, &mapping.container).into_iter().collect::<Vec<_>>()
        };
        if found.is_empty() {
            return Err(Error::Invalid {
                what: "device",
                value: mapping.host.display().to_string(),
                reason: "there is no device file (and no folder of them) on the host".to_owned(),
            });
        }
        for device in found {
            devices.retain(|other| other.path() != device.path());
            devices.push(device);
        }
    }
    Ok(devices)
}

/// Rules of the device cgroup: nothing but what is listed.
pub fn rules(security: &Security, devices: &[LinuxDevice]) -> Result<Vec<LinuxDeviceCgroup>> {
    if security.privileged {
        return Ok(vec![rule(true, None, None, None, "rwm")]);
    }
    let mut rules = vec![
        rule(false, None, None, None, "rwm"),
        // Making a device file is harmless; opening it is what the rules below are about.
        rule(true, Some(LinuxDeviceType::C), None, None, "m"),
        rule(true, Some(LinuxDeviceType::B), None, None, "m"),
    ];
    // null, zero, full, random, urandom, tty, ptmx, and every pts.
    for (major, minor) in [
        (1, Some(3)),
        (1, Some(5)),
        (1, Some(7)),
        (1, Some(8)),
        (1, Some(9)),
        (5, Some(0)),
        (5, Some(2)),
        (136, None),
    ] {
        rules.push(rule(true, Some(LinuxDeviceType::C), Some(major), minor, "rwm"));
    }
    for device in devices {
        let permissions = security
            .devices
            .iter()
            .find(|mapping| device.path().starts_with(&mapping.container))
            .map_or("rwm", |mapping| &mapping.permissions);
        rules.push(rule(true, Some(device.typ()), Some(device.major()), Some(device.minor()), permissions));
    }
    for text in &security.device_rules {
        rules.push(parse_rule(text)?);
    }
    Ok(rules)
}

/// Parses a `--device-cgroup-rule`: `TYPE MAJOR:MINOR ACCESS`, e.g. `c 10:* rw`.
///
/// # Errors
/// The text has another form.
pub fn parse_rule(text: &str) -> Result<LinuxDeviceCgroup> {
    let error = || Error::Invalid {
        what: "device cgroup rule",
        value: text.to_owned(),
        reason: "the form is `TYPE MAJOR:MINOR ACCESS`, e.g. `c 10:* rwm`".to_owned(),
    };
    let mut words = text.split_whitespace();
    let (Some(typ), Some(numbers), Some(access), None) =
        (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(error());
    };
    let typ = match typ {
        "a" => None,
        "b" => Some(LinuxDeviceType::B),
        "c" => Some(LinuxDeviceType::C),
        _ => return Err(error()),
    };
    let number = |text: &str| match text {
        "*" => Ok(None),
        digits => digits.parse::<u32>().map(|number| Some(i64::from(number))).map_err(|_| error()),
    };
    let (major, minor) = numbers.split_once(':').ok_or_else(error)?;
    if access.is_empty() || !access.chars().all(|c| "rwm".contains(c)) {
        return Err(error());
    }
    Ok(rule(true, typ, number(major)?, number(minor)?, access))
}

fn rule(
    allow: bool,
    typ: Option<LinuxDeviceType>,
    major: Option<i64>,
    minor: Option<i64>,
    access: &str,
) -> LinuxDeviceCgroup {
    let mut rule = LinuxDeviceCgroup::default();
    rule.set_allow(allow);
    rule.set_typ(typ);
    rule.set_major(major);
    rule.set_minor(minor);
    rule.set_access(Some(access.to_owned()));
    rule
}

fn device(host: &Path, inside: &Path) -> Option<LinuxDevice> {
    let metadata = fs::metadata(host).ok()?;
    let typ = if metadata.file_type().is_char_device() {
        LinuxDeviceType::C
    } else if metadata.file_type().is_block_device() {
        LinuxDeviceType::B
    } else {
        return None;
    };
    let mut device = LinuxDevice::default();
    device.set_path(inside.to_owned());
    device.set_typ(typ);
    device.set_major(i64::from(libc::major(metadata.rdev())));
    device.set_minor(i64::from(libc::minor(metadata.rdev())));
    device.set_file_mode(Some(metadata.mode() & 0o7777));
    device.set_uid(Some(metadata.uid()));
    device.set_gid(Some(metadata.gid()));
    Some(device)
}

/// Files below `folder`, without what a container has of its own (/dev/pts, /dev/shm, /dev/mqueue, /dev/fd, /dev/console).
fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = fs::read_dir(&folder) else { continue };
        for entry in entries.filter_map(Result::ok) {
            let name = entry.file_name();
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() {
                if !["pts", "shm", "mqueue", "fd", ".lxc", ".lxd-mounts", ".udev"]
                    .iter()
                    .any(|own| name == *own)
                {
                    folders.push(entry.path());
                }
            } else if name != "console" && !kind.is_symlink() {
                files.push(entry.path());
            }
        }
    }
    files.sort();
    files
}
