//! Idmapped copies of trees in which not every file system can be idmapped: `-v /:/host` has `/proc` and `/sys` in it.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};
use std::thread;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;

use crate::sys::mount::{self, Depth, MountAttr, attr};

/// A copy of the mount at `source` and of all below. The first is idmapped by `userns`, and so is each below it whose file system
/// can be; the others are as they are: their files belong to nobody in there, and are open to whom they are open to anybody.
///
/// A mount below another can be given no ids while it is part of a tree (mount_setattr(2), "EINVAL"), so each is copied
/// and mapped by itself, and the tree is joined in a mount namespace that ends with this call.
///
/// # Errors
/// The file system at `source` itself cannot be idmapped, or a privilege is missing.
pub(super) fn mapped_where_possible(source: &Path, userns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let source = fs::canonicalize(source)?;
    // A thread of its own has a mount namespace of its own.
    thread::scope(|scope| scope.spawn(|| joined(&source, userns)).join())
        .unwrap_or_else(|_| Err(io::Error::other("the thread that copies mounts has failed")))
}

fn joined(source: &Path, userns: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let places = below(&fs::read("/proc/self/mountinfo")?, source);
    let top = copy(source)?;
    map(&top, userns)?;
    // Copied before anything is attached: the copies could hide each other.
    let mut copies = vec![];
    for place in places {
        // What is hidden beneath another mount, or has gone meanwhile, has nothing to show.
        let Ok(tree) = copy(&place) else { continue };
        match map(&tree, userns) {
            // EINVAL: its file system cannot. EPERM: it is mapped already.
            Ok(()) => {}
            Err(error) if matches!(error.raw_os_error(), Some(libc::EINVAL | libc::EPERM)) => {}
            Err(error) => return Err(error),
        }
        copies.push((place, tree));
    }
    unshare(CloneFlags::CLONE_NEWNS)?;
    let slash = at(AT_FDCWD, Path::new("/"))?;
    mount::set_attributes(slash.as_fd(), Depth::Tree, &propagation(libc::MS_PRIVATE))?;
    mount::attach(top.as_fd(), at(AT_FDCWD, source)?.as_fd())?;
    for (place, tree) in copies {
        let Ok(relative) = place.strip_prefix(source) else { continue };
        // A mount that hid another's place was copied above; what has lost its place meanwhile is left out.
        if let Ok(target) = at(top.as_fd(), relative) {
            mount::attach(tree.as_fd(), target.as_fd())?;
        }
    }
    mount::clone_tree(top.as_fd(), Path::new(""), Depth::Tree)
}

/// A copy of one mount, that sees what is mounted on the original later, and gives nothing back.
fn copy(place: &Path) -> io::Result<OwnedFd> {
    let tree = mount::clone_tree(AT_FDCWD, place, Depth::One)?;
    mount::set_attributes(tree.as_fd(), Depth::One, &propagation(libc::MS_SLAVE))?;
    Ok(tree)
}

fn map(tree: &OwnedFd, userns: BorrowedFd<'_>) -> io::Result<()> {
    let attributes =
        MountAttr { set: attr::IDMAP, userns_fd: userns.as_raw_fd() as u64, ..MountAttr::default() };
    mount::set_attributes(tree.as_fd(), Depth::One, &attributes)
}

fn propagation(kind: u64) -> MountAttr {
    MountAttr { propagation: kind, ..MountAttr::default() }
}

fn at(dir: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd, Errno> {
    openat(dir, path, OFlag::O_PATH | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW, Mode::empty())
}

/// Places of mounts below `source`, each once, a mount before those on it (proc_pid_mountinfo(5), the fifth field).
fn below(mountinfo: &[u8], source: &Path) -> Vec<PathBuf> {
    let mut places: Vec<PathBuf> = mountinfo
        .split(|byte| *byte == b'\n')
        .filter_map(|line| line.split(|byte| *byte == b' ').nth(4))
        .map(|field| PathBuf::from(OsString::from_vec(unescaped(field))))
        .filter(|place| place != source && place.starts_with(source))
        .collect();
    places.sort_by_key(|place| (place.components().count(), place.clone()));
    places.dedup();
    places
}

/// Blanks, tabs, line ends and backslashes are octal numbers of three digits.
fn unescaped(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let [first, tail @ ..] = rest {
        let (byte, behind) = match (first, tail) {
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', behind @ ..]) => {
                ((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'), behind)
            }
            _ => (*first, tail),
        };
        bytes.push(byte);
        rest = behind;
    }
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_what_is_mounted_below() {
        let mountinfo = b"22 1 8:1 / / rw shared:1 - ext4 /dev/vda rw\n\
            30 22 0:5 / /a/b\\040c rw - tmpfs x rw\n\
            31 22 0:5 / /a rw - tmpfs x rw\n\
            32 31 0:5 / /a rw - tmpfs x rw\n\
            33 22 0:5 / /ab rw - tmpfs x rw\n\
            34 22 0:5 / /a/\\134x rw - tmpfs x rw\n";
        let found = |source| below(mountinfo, Path::new(source));
        assert_eq!(found("/a"), [Path::new("/a/\\x"), Path::new("/a/b c")]);
        assert_eq!(found("/"), [Path::new("/a"), Path::new("/ab"), Path::new("/a/\\x"), Path::new("/a/b c")]);
        assert_eq!(found("/ab"), [] as [&Path; 0]);
    }
}
