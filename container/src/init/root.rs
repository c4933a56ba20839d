//! The root filesystem: attached, its paths masked, made the process's root.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, OFlag};
use nix::mount::{MntFlags, umount2};
use rkvm_oci::{Error, Result};

use super::leftovers::Leftovers;
use crate::mounts::target;
use rkvm_linux::sys::mount::{self, Depth, MountAttr, attr};
use rkvm_linux::sys::{fs, mount as api};

fn failed(action: &'static str, target: &str) -> impl Fn(std::io::Error) -> Error {
    move |error| Error::failed(action, target, error)
}

/// Opens the root filesystem as a mount of its own, not attached yet, that takes part in nothing of the host.
///
/// # Errors
/// It does not exist.
pub fn open(rootfs: &Path) -> Result<OwnedFd> {
    let error = |source| {
        Error::failed("open root.path", rootfs.display(), source)
            .hint("the bundle's root filesystem must be a folder that exists")
    };
    let tree = api::clone_tree(AT_FDCWD, rootfs, Depth::Tree).map_err(error)?;
    let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
    api::set_attributes(tree.as_fd(), Depth::Tree, &slave).map_err(error)?;
    Ok(tree)
}

fn open_folder(path: &Path) -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open(path, flags, nix::sys::stat::Mode::empty())
        .map_err(|errno| Error::failed("open", path.display(), errno))
}

/// Attaches the root on top of `/` of this mount namespace, where it needs no place in the host's tree that the
/// container's user could not reach; or at its own path, where hooks look for it.
///
/// # Errors
/// A privilege is missing.
pub fn attach(tree: BorrowedFd<'_>, path: Option<&Path>) -> Result<()> {
    let slash = open_folder(Path::new("/"))?;
    let error = failed("attach the root filesystem on", "/");
    // Nothing that happens here may reach the host; what the host mounts later may arrive here until the pivot.
    for (propagation, depth) in [(libc::MS_SLAVE, Depth::Tree), (libc::MS_PRIVATE, Depth::One)] {
        let attributes = MountAttr { propagation, ..MountAttr::default() };
        api::set_attributes(slash.as_fd(), depth, &attributes).map_err(&error)?;
    }
    match path {
        None => api::attach(tree, slash.as_fd()).map_err(error),
        Some(path) => api::attach(tree, open_folder(path)?.as_fd()).map_err(error),
    }
}

/// Moves the attached root on top of `/`, so that the host's tree is covered even without a pivot.
///
/// # Errors
/// Its parent mount is shared.
pub fn move_to_slash(root: BorrowedFd<'_>) -> Result<()> {
    let slash = open_folder(Path::new("/"))?;
    api::attach(root, slash.as_fd()).map_err(failed("move the root filesystem to", "/"))
}

/// How the root becomes the root.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switch {
    /// pivot_root(2): the host's tree is gone from the namespace.
    Pivot,
    /// chroot(2) only, where the host's root is an initramfs (`--no-pivot`) or there is no mount namespace.
    Chroot,
}

/// Makes `root` this process's root and current directory.
///
/// # Errors
/// `Pivot` on an initramfs.
pub fn switch(root: BorrowedFd<'_>, how: Switch) -> Result<()> {
    nix::unistd::fchdir(root).map_err(|errno| failed("enter", "the root filesystem")(errno.into()))?;
    match how {
        Switch::Pivot => {
            api::pivot_to_cwd().map_err(|error| {
                failed("pivot into", "the root filesystem")(error)
                    .hint("on a host whose root is an initramfs use --no-pivot")
            })?;
            // The old root lies on top of the new one now; its mounts are slaves, so nothing of this reaches the host.
            umount2(".", MntFlags::MNT_DETACH)
                .map_err(|errno| failed("detach", "the host's root")(errno.into()))?;
        }
        Switch::Chroot => {
            nix::unistd::chroot(".")
                .map_err(|errno| failed("change root to", "the root filesystem")(errno.into()))?;
        }
    }
    nix::unistd::chdir("/").map_err(|errno| failed("enter", "/")(errno.into()))
}

/// Hides `paths`: files behind the null device, folders behind an empty read-only tmpfs. Those that do not exist need
/// nothing.
///
/// # Errors
/// One cannot be covered.
pub fn mask(root: BorrowedFd<'_>, paths: &[String], left: &Leftovers) -> Result<()> {
    let (mut folders, mut files) = (vec![], vec![]);
    for path in paths {
        let Some(target) = target::find(root, Path::new(path))? else { continue };
        let mode = nix::sys::stat::fstat(target.as_fd())
            .map_err(|errno| Error::failed("mask", path, errno))?
            .st_mode;
        let list = if mode & libc::S_IFMT == libc::S_IFDIR { &mut folders } else { &mut files };
        list.push((path, target));
    }
    cover(folders, left, || {
        // One superblock serves all of them: it is empty and stays so.
        let context = mount::fsopen("tmpfs")?;
        for (key, value) in [("nr_blocks", Some("1")), ("nr_inodes", Some("1")), ("ro", None)] {
            mount::fsconfig_set(context.as_fd(), key, value)?;
        }
        let mount = mount::fsmount(context.as_fd(), attr::RDONLY)?;
        left.add(context);
        Ok(mount)
    })?;
    cover(files, left, || {
        let null = mount::clone_tree(AT_FDCWD, Path::new("/dev/null"), Depth::One)?;
        if fs::is_device(null.as_fd(), 1, 3)? { Ok(null) } else { Err(Errno::ENODEV.into()) }
    })
}

/// Attaches the mount that `make` gives on the first of `targets`, and copies of it on the others: kernels before 6.15 copy no mount that
/// is not attached, and closing one that never was waits for an RCU grace period.
fn cover(
    targets: Vec<(&String, OwnedFd)>,
    left: &Leftovers,
    make: impl FnOnce() -> std::io::Result<OwnedFd>,
) -> Result<()> {
    let Some(((first, first_target), others)) = targets.split_first() else { return Ok(()) };
    let error = |path: &String| {
        let path = path.clone();
        move |source: std::io::Error| Error::failed("mask", path, source)
    };
    let mask = make().map_err(error(first))?;
    mount::attach(mask.as_fd(), first_target.as_fd()).map_err(error(first))?;
    for (path, target) in others {
        let copy = mount::clone_tree(mask.as_fd(), Path::new(""), Depth::One).map_err(error(path))?;
        mount::attach(copy.as_fd(), target.as_fd()).map_err(error(path))?;
        left.add(copy);
    }
    left.add(mask);
    targets.into_iter().for_each(|(_, target)| left.add(target));
    Ok(())
}

/// Makes `paths` read-only with everything below. Those that do not exist need nothing.
///
/// # Errors
/// One cannot be made so.
pub fn make_read_only(root: BorrowedFd<'_>, paths: &[String], left: &Leftovers) -> Result<()> {
    let read_only = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
    for path in paths {
        let Some(target) = target::find(root, Path::new(path))? else { continue };
        let error = |source| Error::failed("make read-only", path, source);
        let copy = mount::clone_tree(target.as_fd(), Path::new(""), Depth::Tree).map_err(error)?;
        mount::set_attributes(copy.as_fd(), Depth::Tree, &read_only).map_err(error)?;
        mount::attach(copy.as_fd(), target.as_fd()).map_err(error)?;
        left.add(copy);
        left.add(target);
    }
    Ok(())
}
