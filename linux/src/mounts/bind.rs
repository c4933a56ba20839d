//! Sources of bind mounts: opened by whoever may see them, as mounts that are not attached yet.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::fcntl::AT_FDCWD;
use rkvm_oci::{Error, Result};

use super::options::{IdMap, Plan, Source};
use super::submounts;
use crate::idmap;
use crate::sys::mount::{self, Depth, MountAttr, attr};

/// Copies the mount at the plan's source and gives the copy its attributes; `None` when the plan is no bind mount.
/// `userns` is the container's user namespace, when it is known already; without it [`IdMap::Container`] is left
/// to [`map_ids`]. With it, a mount below the source whose file system cannot be idmapped is shown as it is.
///
/// # Errors
/// The source does not exist or an attribute cannot be set.
pub fn open(plan: &Plan, userns: Option<BorrowedFd<'_>>) -> Result<Option<OwnedFd>> {
    let Source::Bind(source, depth) = &plan.source else { return Ok(None) };
    let mut tree = mount::clone_tree(AT_FDCWD, source, *depth).map_err(|error| {
        Error::failed(format!("open mounts[{}].source", plan.index), source.display(), error)
            .hint("a bind mount's source must exist on the host")
    })?;
    match &plan.idmap {
        None => {}
        Some(IdMap::Container(_)) => {
            if let Some(userns) = userns
                && let Err(error) = map_ids(plan, tree.as_fd(), userns)
            {
                // Something below it, such as `/proc`, cannot be mapped: everything else still can.
                tree = match plan.is_private_tree() {
                    true => submounts::mapped_where_possible(source, userns).map_err(|_| error)?,
                    false => return Err(error),
                };
            }
        }
        Some(IdMap::Explicit(uids, gids, depth)) => {
            set_ids(plan, tree.as_fd(), idmap::namespace(uids, gids)?.as_fd(), *depth)?;
        }
    }
    attributes(plan, tree.as_fd(), source)?;
    Ok(Some(tree))
}

/// Maps the ids of a mount that [`open`] made into the container's user namespace, where the plan asks for it.
///
/// # Errors
/// The file system cannot be idmapped.
pub fn map_ids(plan: &Plan, tree: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> Result<()> {
    match plan.idmap {
        Some(IdMap::Container(depth)) => set_ids(plan, tree, userns, depth),
        _ => Ok(()),
    }
}

fn set_ids(plan: &Plan, tree: BorrowedFd<'_>, userns: BorrowedFd<'_>, depth: Depth) -> Result<()> {
    use std::os::fd::AsRawFd;
    let attributes =
        MountAttr { set: attr::IDMAP, userns_fd: userns.as_raw_fd() as u64, ..MountAttr::default() };
    mount::set_attributes(tree, depth, &attributes).map_err(|source| {
        Error::failed(format!("map the ids of mounts[{}]", plan.index), plan.destination.display(), source)
            .hint("its file system cannot be idmapped; use a container without a user namespace (--userns=host)")
    })
}

fn attributes(plan: &Plan, tree: BorrowedFd<'_>, source: &Path) -> Result<()> {
    let failed =
        |error| Error::failed(format!("set the options of mounts[{}]", plan.index), source.display(), error);
    // Without an option the copy takes part in nothing that the container does, but sees what the host mounts later: it would
    // otherwise be a peer of the host's mount.
    let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
    if plan.propagation.is_empty() {
        mount::set_attributes(tree, Depth::Tree, &slave).map_err(failed)?;
    }
    apply(plan, tree).map_err(failed)
}

/// Sets the plan's attributes and propagation on a mount.
///
/// # Errors
/// An attribute is locked.
pub fn apply(plan: &Plan, tree: BorrowedFd<'_>) -> std::io::Result<()> {
    for (attributes, depth) in [(&plan.attributes, Depth::One), (&plan.recursive, Depth::Tree)] {
        if attributes.set | attributes.clear != 0 {
            mount::set_attributes(tree, depth, attributes)?;
        }
    }
    for (propagation, depth) in &plan.propagation {
        let attributes = MountAttr { propagation: *propagation, ..MountAttr::default() };
        mount::set_attributes(tree, *depth, &attributes)?;
    }
    Ok(())
}
