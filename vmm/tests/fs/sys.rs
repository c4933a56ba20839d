//! System calls of the cases that need `unsafe`, and mounts.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd;
use std::path::Path;

use rustix::mount::{MountPropagationFlags, UnmountFlags};

/// Leaves the mount namespace for one of our own, in which nothing propagates to the host.
pub fn private_mounts() -> io::Result<()> {
    // SAFETY: the program has one thread yet; no memory is concerned.
    if unsafe { libc::unshare(libc::CLONE_NEWNS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)?;
    Ok(())
}

/// Unmounts what a case has mounted below `folder`, so that it can be removed.
pub fn unmount_below(folder: &Path) {
    let mounts = std::fs::read_to_string("/proc/self/mounts").unwrap_or_default();
    for target in mounts.lines().rev().filter_map(|line| line.split(' ').nth(1)) {
        if Path::new(target).starts_with(folder) {
            let _ = rustix::mount::unmount(target, UnmountFlags::DETACH);
        }
    }
}

/// Whether a mapping's stores reach the file.
#[derive(Clone, Copy)]
pub enum Mapping {
    Shared,
    Private,
}

/// Maps the first `bytes` of `file`, which must not be truncated meanwhile, and lets `work` change them.
pub fn with_mapping<T>(file: &File, bytes: usize, how: Mapping, work: impl FnOnce(&mut [u8]) -> T) -> T {
    let flags = match how {
        Mapping::Shared => libc::MAP_SHARED,
        Mapping::Private => libc::MAP_PRIVATE,
    };
    let access = libc::PROT_READ | libc::PROT_WRITE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(std::ptr::null_mut(), bytes, access, flags, file.as_raw_fd(), 0) };
    assert_ne!(start, libc::MAP_FAILED, "mmap: {}", io::Error::last_os_error());
    // SAFETY: the mapping is `bytes` long, readable and writable; the cases that use it do not touch the file otherwise.
    let done = work(unsafe { std::slice::from_raw_parts_mut(start.cast(), bytes) });
    // SAFETY: the mapping made above, to which no reference is left.
    unsafe {
        libc::msync(start, bytes, libc::MS_SYNC);
        libc::munmap(start, bytes);
    }
    done
}

/// What to do with a write lease, which makes others' openings of the file wait.
#[derive(Clone, Copy)]
pub enum Lease {
    Take,
    GiveBack,
}

/// Takes or gives back a lease on `file`.
pub fn lease(file: &File, what: Lease) -> io::Result<()> {
    let kind = match what {
        Lease::Take => libc::F_WRLCK,
        Lease::GiveBack => libc::F_UNLCK,
    };
    // SAFETY: the signal of a broken lease is ignored for good; no memory is concerned.
    unsafe { libc::signal(libc::SIGIO, libc::SIG_IGN) };
    // SAFETY: as above.
    if unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETLEASE, kind) } != 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
