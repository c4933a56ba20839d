//! The root of the jail.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use nix::fcntl::{OFlag, open, openat};
use nix::mount::{MntFlags, umount2};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};
use rkvm_linux::sys::mount::{self, Depth, MountAttr, attr};
use rkvm_oci::{Error, Result};

use super::Share;

fn failed<E: Into<rkvm_oci::error::Source>>(action: &'static str, target: &str) -> impl Fn(E) -> Error {
    move |source| Error::failed(action, target, source)
}

fn slash() -> Result<OwnedFd> {
    open("/", OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(failed("open", "/"))
}

/// Has nothing that happens in this mount namespace reach the host; what the host mounts later arrives here until the pivot.
pub(super) fn loosen() -> Result<()> {
    let slash = slash()?;
    for (propagation, depth) in [(libc::MS_SLAVE, Depth::Tree), (libc::MS_PRIVATE, Depth::One)] {
        let attributes = MountAttr { propagation, ..MountAttr::default() };
        mount::set_attributes(slash.as_fd(), depth, &attributes)
            .map_err(failed("set the propagation of", "/"))?;
    }
    Ok(())
}

/// Attaches a share where hooks look for it.
pub(super) fn show(share: &Share) -> Result<()> {
    let Some(place) = &share.place else { return Ok(()) };
    let error = |errno: nix::Error| Error::failed("attach", place.display(), errno);
    let target = open(place.as_path(), OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(error)?;
    mount::attach(share.tree.as_fd(), target.as_fd())
        .map_err(|source| Error::failed("attach", place.display(), source))
}

/// Takes a share that [`show`] has attached again, with what has been mounted below it meanwhile.
pub(super) fn take_back(share: &mut Share) -> Result<()> {
    let Some(place) = &share.place else { return Ok(()) };
    share.tree = mount::clone_tree(share.tree.as_fd(), Path::new(""), Depth::Tree)
        .map_err(|source| Error::failed("copy the mounts of", place.display(), source))?;
    Ok(())
}

/// Makes an empty tmpfs with `shares` in it the root of this process, and detaches everything else.
pub(super) fn build(shares: Vec<Share>) -> Result<()> {
    let slash = slash()?;
    let root = tmpfs().map_err(failed("make", "the root of the jail"))?;
    mount::attach(root.as_fd(), slash.as_fd()).map_err(failed("attach", "the root of the jail"))?;
    shares.iter().try_for_each(|share| attach(&root, share))?;
    let read_only = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
    mount::set_attributes(root.as_fd(), Depth::One, &read_only)
        .map_err(failed("make read-only", "the root of the jail"))?;
    nix::unistd::fchdir(&root).map_err(failed("enter", "the root of the jail"))?;
    mount::pivot_to_cwd().map_err(failed("pivot into", "the root of the jail"))?;
    // The old root lies on top of the new one now; its mounts are slaves, so nothing of this reaches the host.
    umount2(".", MntFlags::MNT_DETACH).map_err(failed("detach", "the host's root"))?;
    nix::unistd::chdir("/").map_err(failed("enter", "the root of the jail"))
}

fn tmpfs() -> std::io::Result<OwnedFd> {
    let context = mount::fsopen("tmpfs")?;
    for (key, value) in [("size", "64k"), ("mode", "0755")] {
        mount::fsconfig_set(context.as_fd(), key, Some(value))?;
    }
    mount::fsmount(context.as_fd(), attr::NOSUID | attr::NODEV | attr::NOEXEC)
}

fn attach(root: &OwnedFd, share: &Share) -> Result<()> {
    let error = |errno: nix::Error| Error::failed("share", &share.name, errno);
    let name = Path::new(&share.name);
    let kind = SFlag::from_bits_truncate(fstat(&share.tree).map_err(error)?.st_mode & libc::S_IFMT);
    if kind == SFlag::S_IFDIR {
        mkdirat(root, name, Mode::from_bits_truncate(0o755)).map_err(error)?;
    } else {
        let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
        openat(root, name, flags, Mode::from_bits_truncate(0o644)).map_err(error)?;
    }
    let target = openat(root, name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()).map_err(error)?;
    mount::attach(share.tree.as_fd(), target.as_fd())
        .map_err(|source| Error::failed("share", &share.name, source))
}
