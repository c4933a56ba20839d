//! Makes an archive's entries in a folder.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::BufRead;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use rustix::fs::{
    AtFlags, FileType, Gid, Mode, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat, fchmod, fchown,
    fsetxattr, ftruncate, futimens, linkat, mknodat, symlinkat, utimensat,
};
use rustix::io::Errno;

use super::archive::{Entry, Kind, Reader};
use super::path::{clean, join, split};
use super::tree::{self, Tree, Walk, failed, write_all, write_all_at};
use crate::error::{EntryProblem, Error, Result};
use crate::limits::Limits;

const WHITEOUT_PREFIX: &[u8] = b".wh.";
const OPAQUE_MARKER: &[u8] = b".wh..wh..opq";
/// Names that AUFS kept for itself; Docker passes over them.
const AUFS_PREFIX: &[u8] = b".wh..wh.";
const OVERLAY_ATTRIBUTES: &[u8] = b"trusted.overlay.";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// Permission bits of folders that have no entry of their own.
const IMPLIED_MODE: u32 = 0o755;
const SET_ID_BITS: u32 = 0o6000;

/// What was made.
#[derive(Debug, Default)]
pub(super) struct Done {
    pub(super) size: u64,
    pub(super) entries: u64,
    pub(super) implied: Vec<PathBuf>,
}

/// Where extraction failed.
pub(super) struct Failure {
    pub(super) error: Error,
    /// Name of the last entry that was begun.
    at: String,
}

impl Failure {
    /// The error to report when the stream itself broke with `cause`: the cause, with the entry that it broke in.
    pub(super) fn caused_by(self, cause: Error) -> Error {
        match cause {
            Error::Archive { reason, .. } => Error::Archive { after: self.at, reason },
            other => other,
        }
    }
}

/// Attributes of a folder, set when all is in it: making a file in it changes its time.
struct Folder {
    mode: u32,
    uid: u32,
    gid: u32,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    implied: bool,
}

struct Extractor {
    tree: Tree,
    folders: BTreeMap<Vec<u8>, Folder>,
    umask: u32,
    done: Done,
}

/// Makes all entries of `archive` in `folder`.
pub(super) fn extract<R: BufRead>(
    mut archive: Reader<R>,
    folder: &Path,
    limits: &Limits,
) -> Result<Done, Failure> {
    let run = |archive: &mut Reader<R>| {
        let mut extractor = Extractor {
            tree: Tree::open(folder)?,
            folders: BTreeMap::from([(vec![], Folder::implied())]),
            umask: umask(),
            done: Done::default(),
        };
        while let Some(entry) = archive.next()? {
            extractor.done.entries += 1;
            if extractor.done.entries > limits.layer_entries {
                return Err(Error::Limit {
                    what: "the layer".to_owned(),
                    limit: limits.layer_entries,
                    unit: "entries",
                    hint: "each costs an inode; no image is known to need that many",
                });
            }
            extractor.entry(entry, archive)?;
        }
        extractor.finish()
    };
    run(&mut archive).map_err(|error| Failure { error, at: archive.last().to_owned() })
}

impl Extractor {
    fn entry<R: BufRead>(&mut self, entry: Entry, archive: &mut Reader<R>) -> Result<()> {
        let named =
            |problem| Error::Entry { entry: String::from_utf8_lossy(&entry.path).into_owned(), problem };
        let path = clean(&entry.path).map_err(named)?;
        if let Some((name, _)) = entry.xattrs.iter().find(|(name, _)| name.starts_with(OVERLAY_ATTRIBUTES)) {
            return Err(named(EntryProblem::OverlayAttribute(String::from_utf8_lossy(name).into_owned())));
        }
        if path.is_empty() {
            if entry.kind != Kind::Folder {
                return Err(named(EntryProblem::Escapes("only a folder can be the layer's root")));
            }
            return self.folder(path, &entry).map_err(named);
        }
        let (parent, name) = split(&path);
        if name.starts_with(WHITEOUT_PREFIX) {
            return self.whiteout(parent, name).map_err(named);
        }
        match entry.kind {
            Kind::Folder => self.folder(path, &entry).map_err(named),
            Kind::File => self.file(parent, name, &entry, archive),
            Kind::HardLink => self.hard_link(parent, name, &entry).map_err(named),
            Kind::Symlink | Kind::CharDevice | Kind::BlockDevice | Kind::Fifo => {
                self.special(parent, name, &entry).map_err(named)
            }
        }
    }

    fn folder(&mut self, path: Vec<u8>, entry: &Entry) -> Result<(), EntryProblem> {
        let mut xattrs = entry.xattrs.clone();
        if !path.is_empty() {
            let (parent, name) = split(&path);
            let fd = self.parent(parent)?;
            if !tree::make_folder(fd, name)? {
                let there = tree::look(fd, name)?;
                let is_folder =
                    there.is_some_and(|s| FileType::from_raw_mode(s.st_mode) == FileType::Directory);
                if !is_folder {
                    // A folder where the archive had a whiteout before hides what the layers below have in it.
                    if there.as_ref().is_some_and(tree::is_whiteout) {
                        xattrs.push((OPAQUE_ATTRIBUTE.into(), b"y".to_vec()));
                    }
                    self.replace(parent, name)?;
                    tree::make_folder(self.parent(parent)?, name)?;
                }
            }
        }
        let folder = Folder {
            mode: entry.mode,
            uid: entry.uid,
            gid: entry.gid,
            mtime: Some(entry.mtime),
            xattrs,
            implied: false,
        };
        self.folders.insert(path, folder);
        Ok(())
    }

    fn file<R: BufRead>(
        &mut self,
        parent: &[u8],
        name: &[u8],
        entry: &Entry,
        archive: &mut Reader<R>,
    ) -> Result<()> {
        let named =
            |problem| Error::Entry { entry: String::from_utf8_lossy(&entry.path).into_owned(), problem };
        self.done.size += archive.remaining();
        let file = self.new_file(parent, name, entry.mode).map_err(named)?;
        match &entry.sparse {
            None => archive.data(|bytes| write_all(&file, bytes).map_err(failed("write")).map_err(named))?,
            Some(sparse) => {
                let mut pieces = sparse.pieces.iter().copied().filter(|piece| piece.length > 0);
                let mut piece = pieces.next();
                archive.data(|mut bytes| {
                    while let (Some(at), false) = (&mut piece, bytes.is_empty()) {
                        let length = usize::try_from(at.length).unwrap_or(usize::MAX).min(bytes.len());
                        write_all_at(&file, &bytes[..length], at.offset)
                            .map_err(failed("write"))
                            .map_err(named)?;
                        bytes = &bytes[length..];
                        at.offset += length as u64;
                        at.length -= length as u64;
                        if at.length == 0 {
                            piece = pieces.next();
                        }
                    }
                    Ok(())
                })?;
                ftruncate(&file, sparse.real_size).map_err(failed("set the size of")).map_err(named)?;
            }
        }
        self.finish_file(&file, entry).map_err(named)
    }

    fn new_file(&mut self, parent: &[u8], name: &[u8], mode: u32) -> Result<OwnedFd, EntryProblem> {
        let mode = Mode::from_raw_mode(mode);
        if let Some(file) = tree::make_file(self.parent(parent)?, name, mode)? {
            return Ok(file);
        }
        self.replace(parent, name)?;
        tree::make_file(self.parent(parent)?, name, mode)?.ok_or_else(|| failed("make")(Errno::EXIST))
    }

    fn finish_file(&self, file: &OwnedFd, entry: &Entry) -> Result<(), EntryProblem> {
        let owned = entry.uid != 0 || entry.gid != 0;
        if owned {
            fchown(file, uid(entry.uid), gid(entry.gid)).map_err(failed("change the owner of"))?;
        }
        // The file was made with its mode; only what the umask took or chown(2) cleared is missing.
        if entry.mode & self.umask != 0 || (owned && entry.mode & SET_ID_BITS != 0) {
            fchmod(file, Mode::from_raw_mode(entry.mode)).map_err(failed("change the mode of"))?;
        }
        for (name, value) in &entry.xattrs {
            fsetxattr(file, name.as_slice(), value, XattrFlags::empty())
                .map_err(failed("set an attribute of"))?;
        }
        futimens(file, &times(entry.mtime)).map_err(failed("set the time of"))
    }

    fn hard_link(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<(), EntryProblem> {
        let refused = |reason| EntryProblem::HardLink {
            target: String::from_utf8_lossy(&entry.link).into_owned(),
            reason,
        };
        let target = clean(&entry.link).map_err(|_| refused("it leaves the layer"))?;
        if target.is_empty() {
            return Err(refused("it is the layer's root"));
        }
        let (target_parent, target_name) = split(&target);
        let from = self.tree.folder(target_parent).map_err(|walk| match walk {
            Walk::Missing | Walk::Problem(EntryProblem::ParentNotFolder) => {
                refused("there is no such file in this layer")
            }
            Walk::Problem(EntryProblem::ParentEscapes) => {
                refused("a folder on its way leads out of the layer")
            }
            Walk::Problem(other) => other,
        })?;
        if target_parent == parent && target_name == name {
            return Err(refused("it is itself"));
        }
        for retry in [false, true] {
            let to = self.parent(parent)?;
            match linkat(&from, target_name, to, name, AtFlags::empty()) {
                Ok(()) => return Ok(()),
                Err(Errno::EXIST) if !retry => self.replace(parent, name)?,
                Err(Errno::NOENT) => return Err(refused("there is no such file in this layer")),
                Err(Errno::PERM) => return Err(refused("it is a folder")),
                Err(errno) => return Err(failed("link")(errno)),
            }
        }
        Err(failed("link")(Errno::EXIST))
    }

    fn special(&mut self, parent: &[u8], name: &[u8], entry: &Entry) -> Result<(), EntryProblem> {
        for retry in [false, true] {
            let fd = self.parent(parent)?;
            match make_special(fd, name, entry) {
                Ok(()) => break,
                Err(Errno::EXIST) if !retry => self.replace(parent, name)?,
                Err(errno) => return Err(failed("make")(errno)),
            }
        }
        let umask = self.umask;
        let fd = self.parent(parent)?;
        if entry.uid != 0 || entry.gid != 0 {
            chownat(fd, name, uid(entry.uid), gid(entry.gid), AtFlags::SYMLINK_NOFOLLOW)
                .map_err(failed("change the owner of"))?;
        }
        if entry.kind != Kind::Symlink && (entry.mode & umask != 0 || entry.mode & SET_ID_BITS != 0) {
            chmodat(fd, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
                .map_err(failed("change the mode of"))?;
        }
        for (attribute, value) in &entry.xattrs {
            match tree::set_xattr_unopened(fd, name, attribute, value) {
                Ok(()) => {}
                // Linux has user attributes only on files and folders (xattr(7)); archives from elsewhere may have more.
                Err(Errno::PERM) if attribute.starts_with(b"user.") => {}
                Err(errno) => return Err(failed("set an attribute of")(errno)),
            }
        }
        utimensat(fd, name, &times(entry.mtime), AtFlags::SYMLINK_NOFOLLOW).map_err(failed("set the time of"))
    }

    /// `.wh.NAME` hides NAME of the layers below; `.wh..wh..opq` hides all that they have in the folder (image-spec, layer.md).
    fn whiteout(&mut self, parent: &[u8], name: &[u8]) -> Result<(), EntryProblem> {
        let hidden = &name[WHITEOUT_PREFIX.len()..];
        if name == OPAQUE_MARKER {
            return mark_opaque(self.parent(parent)?);
        }
        if name.starts_with(AUFS_PREFIX) {
            return Ok(());
        }
        if matches!(hidden, b"" | b"." | b"..") {
            return Err(EntryProblem::Escapes("its whiteout hides no file in its folder"));
        }
        let fd = self.parent(parent)?;
        match tree::look(fd, hidden)? {
            Some(there) if FileType::from_raw_mode(there.st_mode) == FileType::Directory => {
                let path = join(parent, hidden);
                match self.tree.folder(&path) {
                    Ok(fd) => mark_opaque(fd.as_fd()),
                    Err(Walk::Problem(problem)) => Err(problem),
                    Err(Walk::Missing) => Ok(()),
                }
            }
            // A file of this layer hides what is below it already.
            Some(_) => Ok(()),
            None => mknodat(fd, hidden, FileType::CharacterDevice, Mode::empty(), 0).map_err(failed("make")),
        }
    }

    fn parent(&mut self, path: &[u8]) -> Result<BorrowedFd<'_>, EntryProblem> {
        let folders = &mut self.folders;
        self.tree.folder_or_make(path, |made| {
            folders.insert(made.to_vec(), Folder::implied());
        })
    }

    /// Removes what is at `parent/name`, as a later entry takes its place.
    fn replace(&mut self, parent: &[u8], name: &[u8]) -> Result<(), EntryProblem> {
        tree::remove(self.parent(parent)?, name)?;
        self.tree.forget();
        let path = join(parent, name);
        let below = join(&path, b"");
        self.folders.retain(|folder, _| *folder != path && !folder.starts_with(&below));
        Ok(())
    }

    /// Sets the folders' attributes.
    fn finish(mut self) -> Result<Done> {
        for (path, folder) in &self.folders {
            let named = |problem| Error::Entry { entry: String::from_utf8_lossy(path).into_owned(), problem };
            let opened;
            let fd = if path.is_empty() {
                self.tree.root()
            } else {
                match self.tree.folder(path) {
                    Ok(fd) => opened = fd,
                    // Reached over a symbolic link that a later entry replaced.
                    Err(Walk::Missing) => continue,
                    Err(Walk::Problem(problem)) => return Err(named(problem)),
                }
                opened.as_fd()
            };
            fchown(fd, uid(folder.uid), gid(folder.gid))
                .map_err(failed("change the owner of"))
                .map_err(named)?;
            fchmod(fd, Mode::from_raw_mode(folder.mode))
                .map_err(failed("change the mode of"))
                .map_err(named)?;
            for (name, value) in &folder.xattrs {
                fsetxattr(fd, name.as_slice(), value, XattrFlags::empty())
                    .map_err(failed("set an attribute of"))
                    .map_err(named)?;
            }
            if let Some(mtime) = folder.mtime {
                futimens(fd, &times(mtime)).map_err(failed("set the time of")).map_err(named)?;
            }
            if folder.implied {
                self.done.implied.push(PathBuf::from(OsString::from_vec(path.clone())));
            }
        }
        Ok(self.done)
    }
}

impl Folder {
    fn implied() -> Self {
        Self { mode: IMPLIED_MODE, uid: 0, gid: 0, mtime: None, xattrs: vec![], implied: true }
    }
}

fn make_special(parent: BorrowedFd<'_>, name: &[u8], entry: &Entry) -> rustix::io::Result<()> {
    let mode = Mode::from_raw_mode(entry.mode);
    let device = rustix::fs::makedev(entry.device.0, entry.device.1);
    match entry.kind {
        Kind::Symlink => symlinkat(entry.link.as_slice(), parent, name),
        Kind::CharDevice => mknodat(parent, name, FileType::CharacterDevice, mode, device),
        Kind::BlockDevice => mknodat(parent, name, FileType::BlockDevice, mode, device),
        _ => mknodat(parent, name, FileType::Fifo, mode, 0),
    }
}

fn mark_opaque(folder: BorrowedFd<'_>) -> Result<(), EntryProblem> {
    fsetxattr(folder, OPAQUE_ATTRIBUTE, b"y", XattrFlags::empty())
        .map_err(failed("mark the folder opaque for"))
}

fn uid(id: u32) -> Option<Uid> {
    Some(Uid::from_raw(id))
}

fn gid(id: u32) -> Option<Gid> {
    Some(Gid::from_raw(id))
}

fn times((seconds, nanos): (i64, u32)) -> Timestamps {
    let time = Timespec { tv_sec: seconds, tv_nsec: nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}

/// The process' umask, read without changing it (umask(2) can only be read by setting it, for all threads). Unknown counts
/// as taking everything, which only costs a chmod.
fn umask() -> u32 {
    std::fs::read_to_string("/proc/self/status")
        .ok()
        .and_then(|status| {
            let line = status.lines().find_map(|line| line.strip_prefix("Umask:").map(str::to_owned))?;
            u32::from_str_radix(line.trim(), 8).ok()
        })
        .unwrap_or(0o777)
}
