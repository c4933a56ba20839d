//! The mount API of Linux 5.2 and later: a mount is a descriptor until it is attached.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use super::{c_path, c_string, check};

/// Attributes of one mount (mount_setattr(2)).
pub mod attr {
    /// Read-only.
    pub const RDONLY: u64 = 0x1;
    /// No set-user-ID.
    pub const NOSUID: u64 = 0x2;
    /// No device files.
    pub const NODEV: u64 = 0x4;
    /// No program execution.
    pub const NOEXEC: u64 = 0x8;
    /// The access-time settings, which exclude each other.
    pub const ATIME: u64 = 0x70;
    /// Access times relative to modification.
    pub const RELATIME: u64 = 0x0;
    /// No access times.
    pub const NOATIME: u64 = 0x10;
    /// Always update access times.
    pub const STRICTATIME: u64 = 0x20;
    /// No access times of folders.
    pub const NODIRATIME: u64 = 0x80;
    /// Ids are mapped.
    pub const IDMAP: u64 = 0x10_0000;
    /// Symlinks are not followed.
    pub const NOSYMFOLLOW: u64 = 0x20_0000;
}

/// Whether an operation takes the mounts below along.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// This mount alone.
    One,
    /// It and all below.
    Tree,
}

impl Depth {
    fn flag(self) -> libc::c_int {
        const AT_RECURSIVE: libc::c_int = 0x8000;
        match self {
            Self::One => 0,
            Self::Tree => AT_RECURSIVE,
        }
    }
}

/// `struct mount_attr` of mount_setattr(2).
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct MountAttr {
    /// Attributes to set.
    pub set: u64,
    /// Attributes to clear.
    pub clear: u64,
    /// Propagation type (`MS_SHARED`, ...), 0 to leave it.
    pub propagation: u64,
    /// User namespace for [`attr::IDMAP`].
    pub userns_fd: u64,
}

// SAFETY (callers): `result` comes from a system call that returns a new descriptor.
unsafe fn own(result: io::Result<libc::c_long>) -> io::Result<OwnedFd> {
    // SAFETY: passed on to the caller.
    result.map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// fsopen(2): begins a new file system of type `kind`.
///
/// # Errors
/// The kernel does not have it.
pub fn fsopen(kind: &str) -> io::Result<OwnedFd> {
    let kind = c_string(kind)?;
    // SAFETY: the string is NUL-terminated; 1 is FSOPEN_CLOEXEC; a descriptor comes back.
    unsafe { own(check(libc::syscall(libc::SYS_fsopen, kind.as_ptr(), 1))) }
}

fn fsconfig(fs: BorrowedFd<'_>, command: u32, key: Option<&str>, value: Option<&str>) -> io::Result<()> {
    let key = key.map(c_string).transpose()?;
    let value = value.map(c_string).transpose()?;
    // SAFETY: both strings are NUL-terminated or null, as the command wants them.
    check(unsafe {
        libc::syscall(
            libc::SYS_fsconfig,
            fs.as_raw_fd(),
            command,
            key.as_ref().map_or(std::ptr::null(), |key| key.as_ptr()),
            value.as_ref().map_or(std::ptr::null(), |value| value.as_ptr()),
            0,
        )
    })
    .map(drop)
}

/// fsconfig(2): option `key`, with or without a value (at most 255 bytes).
///
/// # Errors
/// The file system does not know the option.
pub fn fsconfig_set(fs: BorrowedFd<'_>, key: &str, value: Option<&str>) -> io::Result<()> {
    match value {
        None => fsconfig(fs, 0, Some(key), None),
        Some(_) => fsconfig(fs, 1, Some(key), value),
    }
}

/// Creates the superblock that has been described and gives its mount, not attached anywhere.
///
/// # Errors
/// The options do not fit, or a privilege is missing.
pub fn fsmount(fs: BorrowedFd<'_>, attributes: u64) -> io::Result<OwnedFd> {
    fsconfig(fs, 6, None, None)?;
    // SAFETY: no pointers; 1 is FSMOUNT_CLOEXEC; a descriptor comes back.
    unsafe { own(check(libc::syscall(libc::SYS_fsmount, fs.as_raw_fd(), 1, attributes))) }
}

/// What the kernel said about a file system context, to explain a failed [`fsmount`].
pub fn fs_log(fs: BorrowedFd<'_>) -> String {
    let mut text = String::new();
    let mut buffer = [0u8; 512];
    while let Ok(length) = nix::unistd::read(fs, &mut buffer) {
        if length == 0 {
            break;
        }
        if !text.is_empty() {
            text.push_str("; ");
        }
        text.push_str(String::from_utf8_lossy(&buffer[..length]).trim());
    }
    text
}

/// open_tree(2) with `OPEN_TREE_CLONE`: a copy of the mount at `path` (from `dir`), not attached anywhere.
///
/// # Errors
/// The path does not exist, or a privilege is missing.
pub fn clone_tree(dir: BorrowedFd<'_>, path: &Path, depth: Depth) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    let flags = 1 | libc::O_CLOEXEC | libc::AT_EMPTY_PATH | depth.flag();
    // SAFETY: the path is NUL-terminated; a descriptor comes back.
    unsafe { own(check(libc::syscall(libc::SYS_open_tree, dir.as_raw_fd(), path.as_ptr(), flags))) }
}

/// mount_setattr(2) on the mount that `mount` is the root of.
///
/// # Errors
/// A locked attribute would be cleared, or ids cannot be mapped.
pub fn set_attributes(mount: BorrowedFd<'_>, depth: Depth, attributes: &MountAttr) -> io::Result<()> {
    // SAFETY: the empty path is a literal; the structure has the size that is passed.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH | depth.flag(),
            attributes as *const MountAttr,
            size_of::<MountAttr>(),
        )
    })
    .map(drop)
}

/// move_mount(2): attaches the detached `mount` on `target`.
///
/// # Errors
/// One is a folder and the other is not, or `target` belongs to another mount namespace.
pub fn attach(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> io::Result<()> {
    // MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH
    const BOTH_EMPTY: libc::c_uint = 0x4 | 0x40;
    // SAFETY: the empty paths are literals.
    check(unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            target.as_raw_fd(),
            c"".as_ptr(),
            BOTH_EMPTY,
        )
    })
    .map(drop)
}

/// pivot_root(".", "."): the current directory becomes the root, the old root is mounted on top of it
/// (pivot_root(2), "pivot_root(".", ".")").
///
/// # Errors
/// The current directory is not a mount, or the root is an initramfs.
pub fn pivot_to_cwd() -> io::Result<()> {
    // SAFETY: both paths are literals.
    check(unsafe { libc::syscall(libc::SYS_pivot_root, c".".as_ptr(), c".".as_ptr()) }).map(drop)
}

/// Whether the kernel has all of this file's calls: mount_setattr(2), Linux 5.12, is the newest.
pub fn is_supported() -> bool {
    // SAFETY: a size of 0 is refused with EINVAL before anything is read.
    let result = check(unsafe { libc::syscall(libc::SYS_mount_setattr, -1, c"".as_ptr(), 0, 0, 0) });
    !matches!(result, Err(error) if error.raw_os_error() == Some(libc::ENOSYS))
}
