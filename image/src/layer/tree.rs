//! The folder that a layer is unpacked into: every name is resolved by the kernel beneath it, so that no symbolic link in the
//! archive leads out, and every file is made new, so that nothing that is there already is written through.

use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, FileType, Mode, OFlags, ResolveFlags, XattrFlags, mkdirat, openat, openat2, statat, unlinkat,
};
use rustix::io::Errno;

use crate::error::{EntryProblem, Error, Result};

/// Permission bits of folders that are still being filled; the final ones are set at the end.
const WORK_MODE: Mode = Mode::RWXU;

/// Why a folder could not be opened.
pub(super) enum Walk {
    /// It, or a folder above it, is missing.
    Missing,
    /// It cannot be used.
    Problem(EntryProblem),
}

/// The folder being filled, with the descriptor of the folder that was used last: archives list files folder by folder.
#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
    cached: Option<(Vec<u8>, OwnedFd)>,
}

impl Tree {
    pub(super) fn open(folder: &Path) -> Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let root = rustix::fs::open(folder, flags, Mode::empty())
            .map_err(|errno| Error::io("open", folder)(errno.into()))?;
        Ok(Self { root, cached: None })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// The folder `path`, relative to the root ("" is the root itself). Symbolic links in it are followed as long as
    /// they stay beneath the root.
    pub(super) fn folder(&self, path: &[u8]) -> Result<OwnedFd, Walk> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
        let path = if path.is_empty() { b"." } else { path };
        loop {
            return match openat2(&self.root, path, flags, Mode::empty(), resolve) {
                Ok(fd) => Ok(fd),
                // Something was renamed somewhere on the host while the kernel walked over `..`.
                Err(Errno::AGAIN | Errno::INTR) => continue,
                Err(Errno::NOENT) => Err(Walk::Missing),
                Err(Errno::XDEV) => Err(Walk::Problem(EntryProblem::ParentEscapes)),
                Err(Errno::NOTDIR | Errno::LOOP) => Err(Walk::Problem(EntryProblem::ParentNotFolder)),
                Err(errno) => Err(Walk::Problem(failed("open the folder of")(errno))),
            };
        }
    }

    /// The folder `path`; folders on the way that are missing are made, and `made` is told of each.
    pub(super) fn folder_or_make(
        &mut self,
        path: &[u8],
        mut made: impl FnMut(&[u8]),
    ) -> Result<BorrowedFd<'_>, EntryProblem> {
        let hit = self.cached.as_ref().is_some_and(|(cached, _)| cached == path);
        if !hit {
            let fd = match self.folder(path) {
                Ok(fd) => fd,
                Err(Walk::Missing) => self.make_folders(path, &mut made)?,
                Err(Walk::Problem(problem)) => return Err(problem),
            };
            self.cached = Some((path.to_vec(), fd));
        }
        Ok(self.cached.as_ref().map_or(self.root.as_fd(), |(_, fd)| fd.as_fd()))
    }

    fn make_folders(&self, path: &[u8], made: &mut impl FnMut(&[u8])) -> Result<OwnedFd, EntryProblem> {
        let mut parent =
            rustix::io::fcntl_dupfd_cloexec(&self.root, 0).map_err(failed("open the folder of"))?;
        let ends = path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at);
        let mut start = 0;
        for end in ends.chain([path.len()]) {
            let prefix = &path[..end];
            parent = match self.folder(prefix) {
                Ok(fd) => fd,
                Err(Walk::Problem(problem)) => return Err(problem),
                Err(Walk::Missing) => {
                    match mkdirat(&parent, &path[start..end], WORK_MODE) {
                        Ok(()) => made(prefix),
                        // A symbolic link to nowhere.
                        Err(Errno::EXIST) => return Err(EntryProblem::ParentNotFolder),
                        Err(errno) => return Err(failed("make the folder of")(errno)),
                    }
                    self.folder(prefix).map_err(|walk| match walk {
                        Walk::Missing => EntryProblem::ParentNotFolder,
                        Walk::Problem(problem) => problem,
                    })?
                }
            };
            start = end + 1;
        }
        Ok(parent)
    }

    /// Forgets the cached folder: something was replaced that may have been on its way.
    pub(super) fn forget(&mut self) {
        self.cached = None;
    }
}

/// Makes a folder; `false` if something has the name already.
pub(super) fn make_folder(parent: BorrowedFd<'_>, name: &[u8]) -> Result<bool, EntryProblem> {
    match mkdirat(parent, name, WORK_MODE) {
        Ok(()) => Ok(true),
        Err(Errno::EXIST) => Ok(false),
        Err(errno) => Err(failed("make")(errno)),
    }
}

/// Makes a new regular file; `None` if something has the name already.
pub(super) fn make_file(
    parent: BorrowedFd<'_>,
    name: &[u8],
    mode: Mode,
) -> Result<Option<OwnedFd>, EntryProblem> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    match openat(parent, name, flags, mode) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::EXIST) => Ok(None),
        Err(errno) => Err(failed("make")(errno)),
    }
}

/// What has the name `name`, links not followed.
pub(super) fn look(parent: BorrowedFd<'_>, name: &[u8]) -> Result<Option<rustix::fs::Stat>, EntryProblem> {
    match statat(parent, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(errno) => Err(failed("look at")(errno)),
    }
}

/// Whether `stat` is of a whiteout in overlayfs' form.
pub(super) fn is_whiteout(stat: &rustix::fs::Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && stat.st_rdev == 0
}

/// Removes what has the name `name`, a folder with all that is in it.
pub(super) fn remove(parent: BorrowedFd<'_>, name: &[u8]) -> Result<(), EntryProblem> {
    match unlinkat(parent, name, AtFlags::empty()) {
        Ok(()) | Err(Errno::NOENT) => Ok(()),
        Err(Errno::ISDIR) => {
            let source = std::fs::remove_dir_all(through(parent, name));
            source.map_err(|source| EntryProblem::Failed { action: "replace", source })
        }
        Err(errno) => Err(failed("replace")(errno)),
    }
}

/// Sets an attribute of something that cannot be opened: a link, a device or a fifo.
pub(super) fn set_xattr_unopened(
    parent: BorrowedFd<'_>,
    name: &[u8],
    attribute: &[u8],
    value: &[u8],
) -> rustix::io::Result<()> {
    rustix::fs::lsetxattr(through(parent, name), attribute, value, XattrFlags::empty())
}

/// A path for calls that have no form with a folder descriptor.
fn through(parent: BorrowedFd<'_>, name: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStrExt;
    let mut path = std::path::PathBuf::from(format!("/proc/self/fd/{}", parent.as_raw_fd()));
    path.push(std::ffi::OsStr::from_bytes(name));
    path
}

/// Writes all of `bytes`.
pub(super) fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let length = rustix::io::retry_on_intr(|| rustix::io::write(file, bytes))?;
        bytes = &bytes[length..];
    }
    Ok(())
}

/// Writes all of `bytes` at `offset`.
pub(super) fn write_all_at(file: &OwnedFd, mut bytes: &[u8], mut offset: u64) -> rustix::io::Result<()> {
    while !bytes.is_empty() {
        let length = rustix::io::retry_on_intr(|| rustix::io::pwrite(file, bytes, offset))?;
        bytes = &bytes[length..];
        offset += length as u64;
    }
    Ok(())
}

/// An entry's failed system call; for use in `map_err`.
pub(super) fn failed(action: &'static str) -> impl Fn(Errno) -> EntryProblem {
    move |errno| EntryProblem::Failed { action, source: io::Error::from(errno) }
}
