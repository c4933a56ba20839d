//! The first content of a volume: what the image has at the place where the volume is mounted (Docker's rule).

use std::fs::{self, File};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, fchown, lchown, symlink};
use std::path::{Path, PathBuf};

use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, SFlag, mknod};
use nix::sys::time::TimeSpec;

use super::VolumeStore;
use crate::error::{Error, Result};
use crate::namespaces::RANGE;
use crate::record::{ContainerRecord, MountKind};

/// Copies the image's content into every empty volume of `record`. `rootfs` gives the folder where the root filesystem is mounted, once there is
/// something to copy; its owners are the container's ids plus `uid_base`, those of a volume are the container's ids.
///
/// # Errors
/// Something cannot be read or written.
pub fn fill(
    volumes: &VolumeStore,
    record: &ContainerRecord,
    uid_base: Option<u32>,
    rootfs: impl FnOnce() -> Result<PathBuf>,
) -> Result<()> {
    let mut rootfs = Some(rootfs);
    let mut mounted = None;
    for mount in &record.mounts {
        let MountKind::Volume { name, no_copy: false, subpath, .. } = &mount.kind else { continue };
        if !subpath.is_empty() {
            continue;
        }
        // Made again if somebody removed its folder: the container still asks for it.
        volumes.create_or_get(name)?;
        let target = volumes.path(name);
        let empty =
            fs::read_dir(&target).map_err(|source| Error::file("read", &target, source))?.next().is_none();
        if !empty {
            continue;
        }
        if let Some(rootfs) = rootfs.take() {
            mounted = Some(rootfs()?);
        }
        let Some(rootfs) = &mounted else { continue };
        if let Some(source) = open_in(rootfs, &mount.target)? {
            let copier = Copier { uid_base: uid_base.unwrap_or(0) };
            copier
                .folder(&source, &target)
                .map_err(|source| Error::file("copy the image's content into", &target, source))?;
        }
    }
    Ok(())
}

/// The folder `path` of the container, never leaving its root whatever links there are.
fn open_in(rootfs: &Path, path: &str) -> Result<Option<OwnedFd>> {
    let root = File::open(rootfs).map_err(|source| Error::file("open", rootfs, source))?;
    let how = OpenHow::new()
        .flags(OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
    match openat2(&root, Path::new(path), how) {
        Ok(folder) => Ok(Some(folder)),
        Err(nix::errno::Errno::ENOENT | nix::errno::Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(Error::file("open", rootfs.join(path.trim_start_matches('/')), errno)),
    }
}

struct Copier {
    uid_base: u32,
}

impl Copier {
    fn id(&self, host: u32) -> u32 {
        host.checked_sub(self.uid_base).filter(|id| self.uid_base == 0 || *id < RANGE).unwrap_or(0)
    }

    /// Copies what is in `source`, and its owner and mode, to the folder `target`.
    fn folder(&self, source: &OwnedFd, target: &Path) -> io::Result<()> {
        // The container does not run yet, so nothing can change between looking at an entry and opening it.
        let from = PathBuf::from(format!("/proc/self/fd/{}", source.as_raw_fd()));
        for entry in fs::read_dir(&from)? {
            let entry = entry?;
            self.entry(&entry.path(), &target.join(entry.file_name()))?;
        }
        let metadata = fs::metadata(&from)?;
        self.owner(target, &metadata)?;
        fs::set_permissions(target, fs::Permissions::from_mode(metadata.mode() & 0o7777))
    }

    fn entry(&self, from: &Path, to: &Path) -> io::Result<()> {
        let metadata = fs::symlink_metadata(from)?;
        let kind = metadata.file_type();
        if kind.is_symlink() {
            symlink(fs::read_link(from)?, to)?;
            return lchown(to, Some(self.id(metadata.uid())), Some(self.id(metadata.gid())));
        }
        if kind.is_dir() {
            fs::create_dir(to)?;
            return self.folder(&File::open(from)?.into(), to);
        }
        if kind.is_file() {
            let mut copy = File::create_new(to)?;
            io::copy(&mut File::open(from)?, &mut copy)?;
            fchown(&copy, Some(self.id(metadata.uid())), Some(self.id(metadata.gid())))?;
        } else {
            let flag = if kind.is_fifo() {
                SFlag::S_IFIFO
            } else if kind.is_char_device() {
                SFlag::S_IFCHR
            } else if kind.is_block_device() {
                SFlag::S_IFBLK
            } else {
                // A socket without its process is of no use.
                return Ok(());
            };
            mknod(to, flag, Mode::from_bits_truncate(metadata.mode()), metadata.rdev())?;
        }
        self.owner(to, &metadata)?;
        fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))?;
        let stamp = |seconds, nanoseconds| TimeSpec::new(seconds, nanoseconds);
        nix::sys::stat::utimensat(
            nix::fcntl::AT_FDCWD,
            to,
            &stamp(metadata.atime(), metadata.atime_nsec()),
            &stamp(metadata.mtime(), metadata.mtime_nsec()),
            nix::sys::stat::UtimensatFlags::NoFollowSymlink,
        )?;
        Ok(())
    }

    fn owner(&self, to: &Path, metadata: &fs::Metadata) -> io::Result<()> {
        lchown(to, Some(self.id(metadata.uid())), Some(self.id(metadata.gid())))
    }
}
