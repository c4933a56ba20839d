//! Copying between two trees.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{FchmodatFlags, FileStat, Mode, UtimensatFlags, fchmod, fchmodat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchownat, linkat, mkfifoat, symlinkat, unlinkat};

use super::object::{Kind, Object};
use super::root::Root;
use super::{CopyError, Links, Ownership, Report, Result, Side};

/// Copies `source` of tree `from` to `target` of tree `to`, by the rules of `docker cp`: a target that is a folder receives the
/// source under its own name, or only what is in the source when that ends with `/.`; a target that does not exist becomes
/// the copy.
///
/// # Errors
/// What cannot be read, made or replaced; what was copied before stays.
pub fn copy(
    from: &Root,
    source: &Path,
    to: &Root,
    target: &Path,
    ownership: Ownership,
    links: Links,
) -> Result<Report> {
    let (source, target) = (from.named(source)?, to.named(target)?);
    let object = find_source(from, &source.path, links)?;
    if source.folder && !object.is_dir() {
        return Err(from.not_a_folder(&source.path));
    }
    let mut copying = Copying { from, to, ownership, report: Report::default(), copied: HashMap::new() };
    let existing = to.open(&target.path, OFlag::empty())?;
    match existing {
        Some(folder) if folder.is_dir() => {
            if object.is_dir() && source.contents {
                copying.contents(&object, &source.path, &folder, &target.path)?;
            } else {
                let name = base_name(&source.path, from)?;
                copying.object(&object, &source.path, &folder, &name, &target.path.join(&name))?;
            }
        }
        Some(_) if object.is_dir() || target.folder => return Err(to.not_a_folder(&target.path)),
        // A link as target: what it leads to is replaced, as a name in that folder.
        Some(_) | None => {
            if target.folder && !object.is_dir() {
                return Err(CopyError::NoParent { side: to.side(), path: to.shown(&target.path) });
            }
            let (path, folder, name) = place(to, &target.path)?;
            copying.object(&object, &source.path, &folder, &name, &path)?;
        }
    }
    Ok(copying.report)
}

pub(super) fn find_source(from: &Root, path: &Path, links: Links) -> Result<Object> {
    let flags = match links {
        Links::Keep => OFlag::O_NOFOLLOW,
        Links::Follow => OFlag::empty(),
    };
    from.open(path, flags)?.ok_or_else(|| from.not_found(path))
}

/// The last part of `path`, under which it arrives in a folder.
fn base_name(path: &Path, root: &Root) -> Result<OsString> {
    path.file_name().map(OsStr::to_owned).ok_or_else(|| root.not_a_folder(path))
}

/// Most links followed at the end of a target, as the kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;

/// Where a target that is no folder is made: its path, folder and name, a link at its end followed to where it leads.
fn place(to: &Root, path: &Path) -> Result<(PathBuf, Object, OsString)> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        let name = base_name(&path, to)?;
        let parent = path.parent().unwrap_or(Path::new(""));
        let folder = to
            .open(parent, OFlag::empty())?
            .filter(Object::is_dir)
            .ok_or_else(|| CopyError::NoParent { side: to.side(), path: to.shown(&path) })?;
        let child = folder.child(&name).map_err(|source| to.error("look at", &path, source))?;
        match child {
            Some(link) if link.kind() == Kind::Link => {
                let target = link.target().map_err(|source| to.error("read", &path, source))?;
                // An absolute target replaces the whole path, which then is resolved from the tree's own root.
                path = parent.join(target);
                path = path.strip_prefix("/").map(Path::to_owned).unwrap_or(path);
            }
            _ => return Ok((path, folder, name)),
        }
    }
    Err(to.error("resolve", &path, Errno::ELOOP))
}

struct Copying<'a> {
    from: &'a Root,
    to: &'a Root,
    ownership: Ownership,
    report: Report,
    /// Copies of files with several names, by the original's device and inode.
    copied: HashMap<(u64, u64), PathBuf>,
}

impl Copying<'_> {
    /// Copies what is in folder `source` into folder `target`.
    fn contents(
        &mut self,
        source: &Object,
        source_path: &Path,
        target: &Object,
        target_path: &Path,
    ) -> Result<()> {
        let names = source.names().map_err(|error| self.from.error("read", source_path, error))?;
        for name in names {
            let path = source_path.join(&name);
            let child = source.child(&name).map_err(|error| self.from.error("open", &path, error))?;
            // What was removed since the folder was read is not there to be copied.
            if let Some(child) = child {
                self.object(&child, &path, target, &name, &target_path.join(&name))?;
            }
        }
        Ok(())
    }

    /// Copies `source` to `name` in the folder `parent`. The paths are for messages.
    fn object(
        &mut self,
        source: &Object,
        source_path: &Path,
        parent: &Object,
        name: &OsStr,
        path: &Path,
    ) -> Result<()> {
        match source.kind() {
            Kind::Folder => return self.folder(source, source_path, parent, name, path),
            Kind::Special => {
                self.report.skipped.push(self.from.shown(source_path));
                return Ok(());
            }
            Kind::File => return self.file(source, source_path, parent, name, path),
            Kind::Link => {
                clear_place(self.to, parent, name, path)?;
                let target = source.target().map_err(|error| self.from.error("read", source_path, error))?;
                make(self.to, path, || symlinkat(target.as_os_str(), parent.fd(), name))?;
            }
            Kind::Fifo => {
                clear_place(self.to, parent, name, path)?;
                make(self.to, path, || mkfifoat(parent.fd(), name, Mode::from_bits_truncate(0o600)))?;
            }
        }
        self.finish(source, parent, name, path)
    }

    fn folder(
        &mut self,
        source: &Object,
        source_path: &Path,
        parent: &Object,
        name: &OsStr,
        path: &Path,
    ) -> Result<()> {
        let (folder, made) = make_folder(self.to, parent, name, path)?;
        self.contents(source, source_path, &folder, path)?;
        if made || self.ownership == Ownership::Preserve {
            self.finish(source, parent, name, path)?;
        }
        Ok(())
    }

    fn file(
        &mut self,
        source: &Object,
        source_path: &Path,
        parent: &Object,
        name: &OsStr,
        path: &Path,
    ) -> Result<()> {
        if let Some(identity) = source.identity() {
            if let Some(first) = self.copied.get(&identity)
                && link(self.to, first, parent, name, path)?
            {
                return Ok(());
            }
            self.copied.insert(identity, path.to_owned());
        }
        let mut content = source.read().map_err(|error| self.from.error("read", source_path, error))?;
        let mut file = make_file(self.to, parent, name, path)?;
        self.report.bytes +=
            io::copy(&mut content, &mut file).map_err(|error| self.to.error("copy to", path, error))?;
        let attributes = Attributes::new(source.stat(), self.from, self.to, self.ownership);
        set_file_attributes(self.to, &file, path, attributes)
    }

    /// Gives what was made at `name` the source's attributes.
    fn finish(&self, source: &Object, parent: &Object, name: &OsStr, path: &Path) -> Result<()> {
        let attributes = Attributes::new(source.stat(), self.from, self.to, self.ownership);
        set_attributes(self.to, parent, name, path, source.kind(), attributes)
    }
}

/// Owner, permissions and time of a copy.
#[derive(Debug, Clone, Copy)]
pub(super) struct Attributes {
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) mode: u32,
    pub(super) modified: TimeSpec,
}

/// Owner of what belongs to nobody in the container (`overflowuid` of the kernel).
const NOBODY: u32 = 65_534;

impl Attributes {
    fn new(stat: &FileStat, from: &Root, to: &Root, ownership: Ownership) -> Self {
        let inside = |id: u32| id.checked_sub(from.base()).unwrap_or(NOBODY);
        let (uid, gid) = owner(to, ownership, inside(stat.st_uid), inside(stat.st_gid));
        Self {
            uid,
            gid,
            mode: permissions(stat.st_mode, to, ownership),
            modified: TimeSpec::new(stat.st_mtime, stat.st_mtime_nsec),
        }
    }
}

/// Host ids of the owner of a copy in `to`, whose original belongs to `uid` and `gid` inside its own tree.
pub(super) fn owner(to: &Root, ownership: Ownership, uid: u32, gid: u32) -> (u32, u32) {
    match (ownership, to.side()) {
        (Ownership::Preserve, _) => (to.base().saturating_add(uid), to.base().saturating_add(gid)),
        (Ownership::Destination, Side::Container) => (to.base(), to.base()),
        (Ownership::Destination, Side::Host) => {
            (nix::unistd::geteuid().as_raw(), nix::unistd::getegid().as_raw())
        }
    }
}

/// Permission bits of a copy in `to`. A program that a container has marked set-user-id would be one of the host's root:
/// the mark does not come along unless that was asked for.
pub(super) fn permissions(mode: u32, to: &Root, ownership: Ownership) -> u32 {
    match (ownership, to.side()) {
        (Ownership::Destination, Side::Host) => mode & 0o1777,
        _ => mode & 0o7777,
    }
}

/// Runs `body`, which makes something at `path`, as the tree's root.
pub(super) fn make<T>(to: &Root, path: &Path, body: impl FnOnce() -> nix::Result<T>) -> Result<T> {
    to.as_owner(path, body)?.map_err(|errno| to.error("create", path, errno))
}

/// Makes the folder `name` in `parent` or takes the one that is there; tells whether it was made.
pub(super) fn make_folder(to: &Root, parent: &Object, name: &OsStr, path: &Path) -> Result<(Object, bool)> {
    let made = match to.as_owner(path, || mkdirat(parent.fd(), name, Mode::from_bits_truncate(0o700)))? {
        Ok(()) => true,
        Err(Errno::EEXIST) => false,
        Err(errno) => return Err(to.error("create", path, errno)),
    };
    let folder = parent.child(name).map_err(|error| to.error("open", path, error))?;
    match folder {
        Some(folder) if folder.is_dir() => Ok((folder, made)),
        _ => Err(to.not_a_folder(path)),
    }
}

/// A new, empty file `name` in `parent`, which takes the place of what was there.
pub(super) fn make_file(to: &Root, parent: &Object, name: &OsStr, path: &Path) -> Result<File> {
    let existing = parent.child(name).map_err(|error| to.error("look at", path, error))?;
    if let Some(existing) = existing {
        if existing.is_dir() {
            return Err(to.is_a_folder(path));
        }
        match unlinkat(parent.fd(), name, UnlinkatFlags::NoRemoveDir) {
            Ok(()) | Err(Errno::ENOENT) => {}
            // Something is mounted on it, e.g. /etc/hosts of a container: write into that.
            Err(Errno::EBUSY) if existing.kind() == Kind::File => {
                return existing.overwrite().map_err(|error| to.error("write", path, error));
            }
            Err(errno) => return Err(to.error("replace", path, errno)),
        }
    }
    let flags = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    make(to, path, || openat(parent.fd(), name, flags, Mode::from_bits_truncate(0o600))).map(File::from)
}

/// Removes what stands at `name` in `parent`, unless it is a folder.
pub(super) fn clear_place(to: &Root, parent: &Object, name: &OsStr, path: &Path) -> Result<()> {
    match unlinkat(parent.fd(), name, UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => Ok(()),
        Err(Errno::EISDIR) => Err(to.is_a_folder(path)),
        Err(errno) => Err(to.error("replace", path, errno)),
    }
}

/// Gives the file at `first` the further name `name` in `parent`; `false` when it has gone or is on another file system.
pub(super) fn link(to: &Root, first: &Path, parent: &Object, name: &OsStr, path: &Path) -> Result<bool> {
    let Some(first) = to.open(first, OFlag::O_NOFOLLOW)?.filter(|first| first.kind() == Kind::File) else {
        return Ok(false);
    };
    clear_place(to, parent, name, path)?;
    match to.as_owner(path, || linkat(first.fd(), "", parent.fd(), name, AtFlags::AT_EMPTY_PATH))? {
        Ok(()) => Ok(true),
        Err(Errno::EXDEV | Errno::ENOENT) => Ok(false),
        Err(errno) => Err(to.error("create", path, errno)),
    }
}

/// Sets owner, permissions and time of an open file.
pub(super) fn set_file_attributes(to: &Root, file: &File, path: &Path, attributes: Attributes) -> Result<()> {
    let failed = |action| move |source| to.error(action, path, source);
    std::os::unix::fs::fchown(file, Some(attributes.uid), Some(attributes.gid))
        .map_err(failed("change the owner of"))?;
    // After the owner: changing that clears the set-user-id bit.
    fchmod(file, Mode::from_bits_truncate(attributes.mode))
        .map_err(|errno| failed("change the mode of")(errno.into()))?;
    let modified = attributes.modified;
    nix::sys::stat::futimens(file, &modified, &modified)
        .map_err(|errno| failed("change the time of")(errno.into()))
}

/// Sets owner, permissions and time of `name` in `parent`; a link is never followed.
pub(super) fn set_attributes(
    to: &Root,
    parent: &Object,
    name: &OsStr,
    path: &Path,
    kind: Kind,
    attributes: Attributes,
) -> Result<()> {
    let (uid, gid) = (Uid::from_raw(attributes.uid), Gid::from_raw(attributes.gid));
    fchownat(parent.fd(), name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
        .map_err(|errno| to.error("change the owner of", path, errno))?;
    if kind != Kind::Link {
        let mode = Mode::from_bits_truncate(attributes.mode);
        fchmodat(parent.fd(), name, mode, FchmodatFlags::NoFollowSymlink)
            .map_err(|errno| to.error("change the mode of", path, errno))?;
    }
    let modified = attributes.modified;
    utimensat(parent.fd(), name, &modified, &modified, UtimensatFlags::NoFollowSymlink)
        .map_err(|errno| to.error("change the time of", path, errno))
}
