//! Places inside the root filesystem, found or made without ever leaving it.
//!
//! An image can hold any symlink, and another container that shares a volume can change one at any moment; so nothing
//! here looks a path up twice: the kernel resolves it inside the root, and the mount goes onto the descriptor.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Component, Path, PathBuf};

use nix::fcntl::{OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, mkdirat};
use rkvm_oci::{Error, Result};

use rkvm_linux::sys::fs::open_in_root;

/// What is made when the place does not exist.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// A folder.
    Folder,
    /// An empty file.
    File,
}

/// Most symlinks on one path, the kernel's own limit.
const MAX_LINKS: usize = 40;

/// Opens `path` inside `root` (`O_PATH`); `None` when it does not exist.
///
/// # Errors
/// As open(2).
pub fn find(root: BorrowedFd<'_>, path: &Path) -> Result<Option<OwnedFd>> {
    match open_in_root(root, path, libc::O_PATH) {
        Ok(fd) => Ok(Some(fd)),
        Err(error) if matches!(error.raw_os_error(), Some(libc::ENOENT | libc::ENOTDIR)) => Ok(None),
        Err(error) => Err(Error::failed("open in the container", path.display(), error)),
    }
}

/// Opens `path` inside `root` (`O_PATH`), made with its parent folders when it does not exist.
///
/// # Errors
/// The file system is read-only, or a parent is not a folder.
pub fn ensure(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> Result<OwnedFd> {
    match open_in_root(root, path, libc::O_PATH) {
        Ok(fd) => Ok(fd),
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            make(root, path, kind).map_err(|source| Error::failed("make mount point", path.display(), source))
        }
        Err(error) => Err(Error::failed("open mount point", path.display(), error)),
    }
}

/// Opens folder `path` inside `root` for its entries, made when it does not exist.
///
/// # Errors
/// As [`ensure`].
pub fn ensure_folder(root: BorrowedFd<'_>, path: &Path) -> Result<OwnedFd> {
    let open = || open_in_root(root, path, libc::O_PATH | libc::O_DIRECTORY);
    let opened = match open() {
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            drop(ensure(root, path, Kind::Folder)?);
            open()
        }
        other => other,
    };
    opened.map_err(|source| Error::failed("open folder in the container", path.display(), source))
}

/// Makes the last component of `path`, and folders above it that are missing, where that is all there is to it: what the walk of [`make`]
/// does in a third of the system calls. `None`: it is not, or something (a symlink that leads nowhere, say) has the name.
fn make_last(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> io::Result<Option<OwnedFd>> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
    let folder = match open_in_root(root, parent, libc::O_PATH | libc::O_DIRECTORY) {
        Ok(folder) => folder,
        Err(error) if error.raw_os_error() == Some(libc::ENOENT) => {
            let Some(made) = make_last(root, parent, Kind::Folder)? else { return Ok(None) };
            made
        }
        Err(_) => return Ok(None),
    };
    match make_entry(folder.as_fd(), Path::new(name), kind) {
        Ok(Some(file)) => Ok(Some(file)),
        // By the kernel again: whoever shares the folder may have put something else there by now.
        Ok(None) => open_in_root(root, path, libc::O_PATH).map(Some),
        Err(nix::Error::EEXIST) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Makes `name` in `folder`; a file is open then. What has the name already is an error (`EEXIST`), whatever it is.
fn make_entry(folder: BorrowedFd<'_>, name: &Path, kind: Kind) -> nix::Result<Option<OwnedFd>> {
    match kind {
        Kind::Folder => mkdirat(folder, name, Mode::from_bits_truncate(0o755)).map(|()| None),
        Kind::File => {
            // Not to write: it stays open for a while, and the mount that it is on may be made read-only meanwhile.
            let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_RDONLY | OFlag::O_CLOEXEC;
            openat(folder, name, create, Mode::from_bits_truncate(0o644)).map(Some)
        }
    }
}

/// Makes `path` one component after the other. A symlink that leads nowhere is followed as the container would follow it: its
/// target is made.
fn make(root: BorrowedFd<'_>, path: &Path, kind: Kind) -> io::Result<OwnedFd> {
    if let Some(made) = make_last(root, path, kind)? {
        return Ok(made);
    }
    let mut left: Vec<PathBuf> = components(path);
    let mut done = PathBuf::from("/");
    let mut links = 0;
    let mut folder = open_in_root(root, &done, libc::O_PATH | libc::O_DIRECTORY)?;
    while let Some(name) = left.pop() {
        if name.as_os_str() == ".." {
            done.pop();
            folder = open_in_root(root, &done, libc::O_PATH | libc::O_DIRECTORY)?;
            continue;
        }
        let last = left.is_empty();
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let found = match openat(folder.as_fd(), &name, flags, Mode::empty()) {
            Err(nix::Error::ENOENT) => {
                match make_entry(folder.as_fd(), &name, if last { kind } else { Kind::Folder }) {
                    Ok(_) | Err(nix::Error::EEXIST) => {}
                    Err(errno) => return Err(errno.into()),
                }
                openat(folder.as_fd(), &name, flags, Mode::empty())?
            }
            other => other?,
        };
        let mode = nix::sys::stat::fstat(found.as_fd())?.st_mode & libc::S_IFMT;
        if mode == libc::S_IFLNK {
            links += 1;
            if links > MAX_LINKS {
                return Err(io::Error::from_raw_os_error(libc::ELOOP));
            }
            let target = PathBuf::from(readlinkat(folder.as_fd(), &name)?);
            if target.is_absolute() {
                done = PathBuf::from("/");
                folder = open_in_root(root, &done, libc::O_PATH | libc::O_DIRECTORY)?;
            }
            left.extend(components(&target));
            continue;
        }
        if last {
            // By the kernel again, so that what is mounted over the last component is seen.
            return open_in_root(root, &done.join(&name), libc::O_PATH);
        }
        done.push(&name);
        folder = open_in_root(root, &done, libc::O_PATH | libc::O_DIRECTORY)?;
    }
    Ok(folder)
}

/// The components of `path`, the first one last.
fn components(path: &Path) -> Vec<PathBuf> {
    path.components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(PathBuf::from(name)),
            Component::ParentDir => Some(PathBuf::from("..")),
            _ => None,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn symlinks_never_lead_out_and_dangling_ones_are_made_inside() {
        let outside = tempfile::tempdir().unwrap();
        let root = tempfile::tempdir().unwrap();
        let path = root.path();
        symlink(outside.path(), path.join("absolute")).unwrap();
        symlink("../../../../../../../../tmp", path.join("relative")).unwrap();
        symlink("loop", path.join("loop")).unwrap();
        let fd = File::open(path).unwrap();
        let inside = path.join(outside.path().strip_prefix("/").unwrap());
        ensure(fd.as_fd(), Path::new("/absolute/made/deep"), Kind::Folder).unwrap();
        assert!(inside.join("made/deep").is_dir());
        ensure(fd.as_fd(), Path::new("/relative/file"), Kind::File).unwrap();
        assert!(path.join("tmp/file").is_file());
        // All but the last component is there, by way of links, and the last is a link that leads nowhere.
        ensure(fd.as_fd(), Path::new("/absolute/made/deep/er"), Kind::Folder).unwrap();
        assert!(inside.join("made/deep/er").is_dir());
        symlink("../dangling", inside.join("made/deep/link")).unwrap();
        ensure(fd.as_fd(), Path::new("/absolute/made/deep/link"), Kind::File).unwrap();
        assert!(inside.join("made/dangling").is_file());
        symlink("/dangling", inside.join("made/deep/out")).unwrap();
        ensure(fd.as_fd(), Path::new("/absolute/made/deep/out"), Kind::Folder).unwrap();
        assert!(path.join("dangling").is_dir());
        ensure(fd.as_fd(), Path::new("/plain/made/deep/file"), Kind::File).unwrap();
        assert!(path.join("plain/made/deep/file").is_file());
        ensure(fd.as_fd(), Path::new("/../../up"), Kind::Folder).unwrap();
        assert!(path.join("up").is_dir());
        assert!(ensure(fd.as_fd(), Path::new("/loop/x"), Kind::Folder).is_err());
        assert!(ensure(fd.as_fd(), Path::new("/up/../tmp/file/x"), Kind::Folder).is_err());
        assert_eq!(fs::read_dir(outside.path()).unwrap().count(), 0);
    }
}
