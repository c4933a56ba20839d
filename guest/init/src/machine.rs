//! The machine as a whole: first mounts, cgroups, power.

use std::fs;
use std::io;
use std::path::Path;

use rkvm_guest_protocol::marker;
use rkvm_oci::{Error, Result};

use crate::sys;

/// What every file system of init is mounted with.
const STRICT: u64 = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// Mounts /dev, which the marker and the devices of the container need, before anything else.
///
/// # Errors
/// The kernel lacks the file system.
pub fn first_mounts() -> Result<()> {
    mount("devtmpfs", "/dev", libc::MS_NOSUID | libc::MS_NOEXEC, "mode=0755")
}

/// Mounts what init needs to make a container, and puts a mount under everything that can be pivoted away from: the initramfs itself
/// cannot, and a container that only had its root moved could leave it with a second chroot(2).
///
/// # Errors
/// The kernel lacks a file system.
pub fn further_mounts() -> Result<()> {
    mount("proc", "/proc", STRICT, "")?;
    mount("sysfs", "/sys", STRICT, "")?;
    mount("cgroup2", "/sys/fs/cgroup", STRICT, "")?;
    mount("tmpfs", "/run", libc::MS_NOSUID | libc::MS_NODEV, "mode=0755")?;
    sys::cover_root().map_err(|source| Error::failed("put a mount under", "/", source))
}

fn mount(kind: &str, target: &str, flags: u64, data: &str) -> Result<()> {
    let failed = |source: io::Error| Error::failed("mount", target, source);
    if !Path::new(target).is_dir() {
        fs::create_dir_all(target).map_err(failed)?;
    }
    match sys::mount(kind, Path::new(target), kind, flags, data) {
        // The kernel may have mounted /dev already.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        other => other.map_err(failed),
    }
}

/// Writes everything to the devices and ends the machine.
pub fn power_off() -> ! {
    sys::sync();
    sys::Marker::open().mark(marker::POWER_OFF);
    // Where nothing listens to the marker port (a run of this kernel in another machine).
    sys::reboot()
}
