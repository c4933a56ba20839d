//! One file, folder or link, held by a descriptor, so that it stays what it is whatever happens to its name.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;

use nix::dir::Dir;
use nix::fcntl::{OFlag, open, openat, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat};

/// What an object is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Folder,
    File,
    Link,
    Fifo,
    /// A socket or device.
    Special,
}

/// An object that is held open with `O_PATH`: nothing of it has been read, no device has been touched.
#[derive(Debug)]
pub(super) struct Object {
    fd: OwnedFd,
    stat: FileStat,
}

impl Object {
    pub(super) fn new(fd: OwnedFd) -> io::Result<Self> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    pub(super) fn fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }

    pub(super) fn kind(&self) -> Kind {
        match SFlag::from_bits_truncate(self.stat.st_mode) & SFlag::S_IFMT {
            SFlag::S_IFDIR => Kind::Folder,
            SFlag::S_IFREG => Kind::File,
            SFlag::S_IFLNK => Kind::Link,
            SFlag::S_IFIFO => Kind::Fifo,
            _ => Kind::Special,
        }
    }

    pub(super) fn is_dir(&self) -> bool {
        self.kind() == Kind::Folder
    }

    pub(super) fn stat(&self) -> &FileStat {
        &self.stat
    }

    /// The permission bits, set-user-id and the like among them.
    pub(super) fn mode(&self) -> u32 {
        self.stat.st_mode & 0o7777
    }

    /// Device and inode, where the object has several names.
    pub(super) fn identity(&self) -> Option<(u64, u64)> {
        (self.kind() == Kind::File && self.stat.st_nlink > 1).then_some((self.stat.st_dev, self.stat.st_ino))
    }

    /// Opens the content of a file. Only for [`Kind::File`]: opening a device does things.
    pub(super) fn read(&self) -> io::Result<File> {
        self.reopen(OFlag::O_RDONLY)
    }

    /// Opens an existing file, emptied, for writing.
    pub(super) fn overwrite(&self) -> io::Result<File> {
        self.reopen(OFlag::O_WRONLY | OFlag::O_TRUNC)
    }

    fn reopen(&self, flags: OFlag) -> io::Result<File> {
        // The descriptor itself is opened again, so the name is not looked up a second time.
        let path = format!("/proc/self/fd/{}", self.fd.as_raw_fd());
        let flags = flags | OFlag::O_CLOEXEC | OFlag::O_NOCTTY | OFlag::O_NONBLOCK;
        Ok(File::from(open(path.as_str(), flags, Mode::empty())?))
    }

    /// What a link points to.
    pub(super) fn target(&self) -> io::Result<OsString> {
        Ok(readlinkat(&self.fd, "")?)
    }

    /// Names in a folder, sorted.
    pub(super) fn names(&self) -> io::Result<Vec<OsString>> {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let folder = openat(&self.fd, ".", flags, Mode::empty())?;
        let mut names = vec![];
        for entry in Dir::from_fd(folder)? {
            let name = entry?.file_name().to_bytes().to_vec();
            if name != b"." && name != b".." {
                names.push(OsString::from_vec(name));
            }
        }
        names.sort();
        Ok(names)
    }

    /// What `name` in this folder is, no link followed; `None` when it is not there (any more).
    pub(super) fn child(&self, name: &OsStr) -> io::Result<Option<Self>> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        match openat(&self.fd, name, flags, Mode::empty()) {
            Ok(fd) => Self::new(fd).map(Some),
            Err(nix::errno::Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }
}
