//! `cp CONTAINER:PATH -` and `cp - CONTAINER:PATH`: tar archives on standard output and input.

use std::collections::HashMap;
use std::ffi::OsStr;
use std::io::{self, Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use nix::fcntl::OFlag;
use nix::sys::stat::Mode;
use nix::sys::time::TimeSpec;
use nix::unistd::{mkfifoat, symlinkat};
use tar::{Archive, Builder, EntryType, Header};

use super::object::{Kind, Object};
use super::root::Root;
use super::tree::{self, Attributes};
use super::{CopyError, Links, Ownership, Report, Result};

/// Writes `source` of tree `from` to `output` as a tar archive, whose names begin with the source's last part.
///
/// # Errors
/// What cannot be read, or the archive cannot be written.
pub fn pack(from: &Root, source: &Path, output: impl Write, links: Links) -> Result<Report> {
    let source = from.named(source)?;
    let object = tree::find_source(from, &source.path, links)?;
    if source.folder && !object.is_dir() {
        return Err(from.not_a_folder(&source.path));
    }
    let name = match source.path.file_name() {
        Some(name) if !source.contents => PathBuf::from(name),
        _ => PathBuf::from("."),
    };
    let mut packing =
        Packing { from, builder: Builder::new(output), report: Report::default(), packed: HashMap::new() };
    packing.object(&object, &source.path, &name)?;
    packing.builder.into_inner().and_then(|mut output| output.flush()).map_err(write_error)?;
    Ok(packing.report)
}

fn write_error(source: io::Error) -> CopyError {
    CopyError::Archive { action: "write", source }
}

struct Packing<'a, W: Write> {
    from: &'a Root,
    builder: Builder<W>,
    report: Report,
    /// Names in the archive of files with several names, by device and inode.
    packed: HashMap<(u64, u64), PathBuf>,
}

impl<W: Write> Packing<'_, W> {
    fn object(&mut self, object: &Object, path: &Path, name: &Path) -> Result<()> {
        let from = self.from;
        let read_error = |source| from.error("read", path, source);
        let stat = object.stat();
        let mut header = Header::new_gnu();
        let inside = |id: u32| u64::from(id.saturating_sub(from.base()));
        header.set_uid(inside(stat.st_uid));
        header.set_gid(inside(stat.st_gid));
        header.set_mode(object.mode());
        header.set_mtime(u64::try_from(stat.st_mtime).unwrap_or(0));
        header.set_size(0);
        match object.kind() {
            Kind::Special => {
                self.report.skipped.push(from.shown(path));
                Ok(())
            }
            Kind::Folder => {
                header.set_entry_type(EntryType::Directory);
                // Tar marks folders with a slash at the end.
                let mut marked = name.as_os_str().to_owned();
                marked.push("/");
                self.builder.append_data(&mut header, marked, io::empty()).map_err(write_error)?;
                for child_name in object.names().map_err(read_error)? {
                    let path = path.join(&child_name);
                    let child =
                        object.child(&child_name).map_err(|source| from.error("open", &path, source))?;
                    if let Some(child) = child {
                        self.object(&child, &path, &name.join(&child_name))?;
                    }
                }
                Ok(())
            }
            Kind::Link => {
                header.set_entry_type(EntryType::Symlink);
                let target = object.target().map_err(read_error)?;
                self.builder.append_link(&mut header, name, target).map_err(write_error)
            }
            Kind::Fifo => {
                header.set_entry_type(EntryType::Fifo);
                self.builder.append_data(&mut header, name, io::empty()).map_err(write_error)
            }
            Kind::File => {
                if let Some(identity) = object.identity() {
                    if let Some(first) = self.packed.get(&identity) {
                        header.set_entry_type(EntryType::Link);
                        return self.builder.append_link(&mut header, name, first).map_err(write_error);
                    }
                    self.packed.insert(identity, name.to_owned());
                }
                let size = u64::try_from(stat.st_size).unwrap_or(0);
                header.set_entry_type(EntryType::Regular);
                header.set_size(size);
                self.report.bytes += size;
                // A file that grows meanwhile is cut, and one that shrinks is filled up: the header is written first.
                let content = object.read().map_err(read_error)?.chain(io::repeat(0)).take(size);
                self.builder.append_data(&mut header, name, content).map_err(write_error)
            }
        }
    }
}

/// Unpacks the tar archive `input` into the folder `target` of tree `to`.
///
/// # Errors
/// `target` is no folder, the archive is not valid or has names with `..`, or something cannot be made; what was
/// unpacked before stays.
pub fn unpack(input: impl Read, to: &Root, target: &Path, ownership: Ownership) -> Result<Report> {
    let target = to.named(target)?.path;
    match to.open(&target, OFlag::empty())? {
        Some(folder) if folder.is_dir() => {}
        Some(_) => return Err(to.not_a_folder(&target)),
        None => return Err(to.not_found(&target)),
    }
    let read_error = |source| CopyError::Archive { action: "read", source };
    let mut unpacking = Unpacking { to, target, ownership, report: Report::default(), folders: vec![] };
    let mut archive = Archive::new(input);
    for entry in archive.entries().map_err(read_error)? {
        unpacking.entry(&mut entry.map_err(read_error)?)?;
    }
    // Last, since making things in a folder changes its time.
    for (path, attributes) in std::mem::take(&mut unpacking.folders).into_iter().rev() {
        unpacking.finish(&path, Kind::Folder, attributes)?;
    }
    // What follows the archive's end is read too, so that the writer of a pipe does not fail.
    io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(read_error)?;
    Ok(unpacking.report)
}

struct Unpacking<'a> {
    to: &'a Root,
    target: PathBuf,
    ownership: Ownership,
    report: Report,
    folders: Vec<(PathBuf, Attributes)>,
}

impl Unpacking<'_> {
    fn entry(&mut self, entry: &mut tar::Entry<'_, impl Read>) -> Result<()> {
        let read_error = |source| CopyError::Archive { action: "read", source };
        let bytes = entry.path_bytes().into_owned();
        let refused =
            |reason| CopyError::Entry { entry: String::from_utf8_lossy(&bytes).into_owned(), reason };
        let inside = self.inside(Path::new(OsStr::from_bytes(&bytes))).map_err(refused)?;
        let Some(path) = inside else { return Ok(()) };
        let attributes = self.attributes(entry.header()).map_err(read_error)?;
        let (parent, name) = self.place(&path)?;
        let to = self.to;
        match entry.header().entry_type() {
            EntryType::Directory => {
                tree::make_folder(to, &parent, &name, &path)?;
                self.folders.push((path, attributes));
                Ok(())
            }
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => {
                let mut file = tree::make_file(to, &parent, &name, &path)?;
                self.report.bytes +=
                    io::copy(entry, &mut file).map_err(|source| to.error("write", &path, source))?;
                tree::set_file_attributes(to, &file, &path, attributes)
            }
            EntryType::Symlink => {
                let target = entry.link_name_bytes().ok_or_else(|| refused("a link without a target"))?;
                tree::clear_place(to, &parent, &name, &path)?;
                tree::make(to, &path, || {
                    symlinkat(OsStr::from_bytes(&target), parent.fd(), name.as_os_str())
                })?;
                self.finish(&path, Kind::Link, attributes)
            }
            EntryType::Link => {
                let target = entry.link_name_bytes().ok_or_else(|| refused("a link without a target"))?;
                let first = self.inside(Path::new(OsStr::from_bytes(&target))).map_err(refused)?;
                let first = first.ok_or_else(|| refused("a hard link to a folder"))?;
                match tree::link(to, &first, &parent, &name, &path)? {
                    true => Ok(()),
                    false => Err(refused("a hard link to a file that is not in the archive")),
                }
            }
            EntryType::Fifo => {
                tree::clear_place(to, &parent, &name, &path)?;
                let mode = Mode::from_bits_truncate(0o600);
                tree::make(to, &path, || mkfifoat(parent.fd(), name.as_os_str(), mode))?;
                self.finish(&path, Kind::Fifo, attributes)
            }
            EntryType::Char | EntryType::Block => {
                self.report.skipped.push(to.shown(&path));
                Ok(())
            }
            EntryType::XGlobalHeader => Ok(()),
            _ => Err(refused("its type is not supported")),
        }
    }

    /// The path in the tree of an entry called `name`; `None` for the target folder itself.
    fn inside(&self, name: &Path) -> std::result::Result<Option<PathBuf>, &'static str> {
        let mut path = self.target.clone();
        let mut empty = true;
        for part in name.components() {
            match part {
                Component::Normal(part) => {
                    path.push(part);
                    empty = false;
                }
                Component::ParentDir => return Err("its name has `..`, which could lead out of the target"),
                Component::CurDir | Component::RootDir | Component::Prefix(_) => {}
            }
        }
        Ok((!empty).then_some(path))
    }

    /// The folder in which `path` is made, itself made where it is missing, and the name in it.
    fn place(&self, path: &Path) -> Result<(Object, std::ffi::OsString)> {
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(self.to.not_a_folder(path));
        };
        Ok((self.to.make_dirs(parent)?, name.to_owned()))
    }

    fn attributes(&self, header: &Header) -> io::Result<Attributes> {
        let id = |id: u64| u32::try_from(id).map_err(|_| io::Error::other("an owner's id beyond 32 bits"));
        let (uid, gid) = tree::owner(self.to, self.ownership, id(header.uid()?)?, id(header.gid()?)?);
        let modified = i64::try_from(header.mtime()?).unwrap_or(0);
        let mode = tree::permissions(header.mode()?, self.to, self.ownership);
        Ok(Attributes { uid, gid, mode, modified: TimeSpec::new(modified, 0) })
    }

    fn finish(&self, path: &Path, kind: Kind, attributes: Attributes) -> Result<()> {
        let (parent, name) = self.place(path)?;
        tree::set_attributes(self.to, &parent, &name, path, kind, attributes)
    }
}
