//! A tree of files that is copied from or to: the host's, or a container's.

use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::{Mode, mkdirat};

use super::object::Object;
use super::{CopyError, Named, Result, Side};
use crate::sys;

/// A tree of files and the ids that its users have on the host.
#[derive(Debug)]
pub struct Root {
    dir: OwnedFd,
    side: Side,
    /// Host id of the tree's user and group 0; 0 where the ids are the host's.
    base: u32,
}

impl Root {
    /// The host's.
    ///
    /// # Errors
    /// `/` cannot be opened.
    pub fn host() -> Result<Self> {
        Self::open_at(Path::new("/"), Side::Host, 0)
    }

    /// A container's, whose root is at `path` of the host and whose user 0 is `base` there.
    ///
    /// # Errors
    /// `path` is no folder.
    pub fn container(path: &Path, base: u32) -> Result<Self> {
        Self::open_at(path, Side::Container, base)
    }

    fn open_at(path: &Path, side: Side, base: u32) -> Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let dir = open(path, flags, Mode::empty()).map_err(|errno| CopyError::Io {
            action: "open",
            side,
            path: path.to_owned(),
            source: errno.into(),
        })?;
        Ok(Self { dir, side, base })
    }

    /// Whose it is.
    pub fn side(&self) -> Side {
        self.side
    }

    pub(super) fn base(&self) -> u32 {
        self.base
    }

    /// `path` from the root: a relative path of the host begins at the working directory, one of a container at its root.
    pub(super) fn named(&self, path: &Path) -> Result<Named> {
        if self.side == Side::Container || path.is_absolute() {
            return Ok(Named::parse(path));
        }
        let here =
            std::env::current_dir().map_err(|source| self.error("find the folder of", path, source))?;
        let named = Named::parse(path);
        Ok(Named { path: Named::parse(&here).path.join(named.path), ..named })
    }

    /// What is at `path`, which is relative to the root; a link at its end is followed unless `flags` say otherwise.
    pub(super) fn open(&self, path: &Path, flags: OFlag) -> Result<Option<Object>> {
        let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
        // What /proc's magic links lead to is not in the container, whatever its root is.
        let resolve = match self.side {
            Side::Host => ResolveFlag::empty(),
            Side::Container => ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS,
        };
        let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC | flags).resolve(resolve);
        loop {
            return match openat2(&self.dir, path, how) {
                Ok(fd) => Object::new(fd).map(Some).map_err(|source| self.error("look at", path, source)),
                Err(Errno::ENOENT) => Ok(None),
                Err(Errno::ENOTDIR) if !flags.contains(OFlag::O_DIRECTORY) => Ok(None),
                // The kernel saw a rename elsewhere in the tree while it resolved `..` (openat2(2)).
                Err(Errno::EAGAIN) => continue,
                Err(errno) => Err(self.error("open", path, errno)),
            };
        }
    }

    /// The folder at `path`, made with its parents where it is missing.
    pub(super) fn make_dirs(&self, path: &Path) -> Result<Object> {
        if let Some(found) = self.open(path, OFlag::empty())? {
            return if found.is_dir() { Ok(found) } else { Err(self.not_a_folder(path)) };
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(self.not_a_folder(path));
        };
        let parent = self.make_dirs(parent)?;
        match self.as_owner(path, || mkdirat(parent.fd(), name, Mode::from_bits_truncate(0o755)))? {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(self.error("create", path, errno)),
        }
        match self.open(path, OFlag::empty())? {
            Some(found) if found.is_dir() => Ok(found),
            _ => Err(self.not_a_folder(path)),
        }
    }

    /// Runs `body`, which makes something in this tree, as the tree's own root: in a container with a user namespace the
    /// host's root does not exist and could own nothing.
    pub(super) fn as_owner<T>(&self, path: &Path, body: impl FnOnce() -> T) -> Result<T> {
        match self.base {
            0 => Ok(body()),
            base => sys::with_fs_owner(base, body).map_err(|source| self.error("create", path, source)),
        }
    }

    pub(super) fn error(&self, action: &'static str, path: &Path, source: impl Into<io::Error>) -> CopyError {
        CopyError::Io { action, side: self.side, path: self.shown(path), source: source.into() }
    }

    pub(super) fn not_a_folder(&self, path: &Path) -> CopyError {
        CopyError::NotAFolder { side: self.side, path: self.shown(path) }
    }

    pub(super) fn is_a_folder(&self, path: &Path) -> CopyError {
        CopyError::IsAFolder { side: self.side, path: self.shown(path) }
    }

    pub(super) fn not_found(&self, path: &Path) -> CopyError {
        CopyError::NotFound { side: self.side, path: self.shown(path) }
    }

    /// `path` as users write it.
    pub(super) fn shown(&self, path: &Path) -> PathBuf {
        Path::new("/").join(path)
    }
}

impl AsFd for Root {
    fn as_fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.dir.as_fd()
    }
}
