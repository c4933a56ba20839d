//! Sources of a container's mounts, opened by the runtime where the process could not.

use std::os::fd::{AsFd, OwnedFd};

use rkvm_linux::mounts::bind;
use rkvm_linux::mounts::options::Plan as MountPlan;
use rkvm_linux::namespaces::Namespaces;
use rkvm_oci::{Error, Result};

use crate::Binary;
use crate::create::is_privileged;
use crate::init::Context;

/// What `spec` wants to be mounted, each with its source where that is opened before the process exists.
///
/// # Errors
/// A mount makes no sense, or its source cannot be opened.
pub fn open(
    spec: &oci_spec::runtime::Spec,
    bundle: &std::path::Path,
    namespaces: &Namespaces,
    binary: Binary,
) -> Result<Vec<(MountPlan, Option<OwnedFd>)>> {
    let userns = namespaces.joined(libc::CLONE_NEWUSER).map(|joined| joined.fd.as_fd());
    // On a host: the mounts that the process sees take part in nothing of the host's any more, and in a user namespace it could not open
    // them at all. In a machine of its own it opens them itself, so that this process need not close them; but it has no root then in
    // which a namespace for the ids of a mount can be made.
    let elsewhere = binary == Binary::LetGo || namespaces.has(libc::CLONE_NEWUSER);
    let privileged = is_privileged();
    spec.mounts()
        .iter()
        .flatten()
        .enumerate()
        .map(|(index, mount)| {
            let plan = MountPlan::new(index, mount, bundle)?;
            if plan.idmap.is_some() && !namespaces.has(libc::CLONE_NEWUSER) && plan.wants_container_ids() {
                return Err(Error::invalid_spec(
                    format!("mounts[{index}].options"),
                    "`idmap` without uidMappings needs a user namespace to take the mapping from",
                ));
            }
            let here = privileged && (elsewhere || plan.idmap.is_some());
            let tree = if here { bind::open(&plan, userns)? } else { None };
            Ok((plan, tree))
        })
        .collect()
}

/// Mounts whose ids are mapped once the new user namespace has its mappings: the same mounts, by descriptors of their own.
///
/// # Errors
/// No descriptor is free.
pub fn idmapped(context: &Context<'_>) -> Result<Vec<(MountPlan, OwnedFd)>> {
    if context.namespaces.new & libc::CLONE_NEWUSER == 0 {
        return Ok(vec![]);
    }
    let wanted = context.mounts.iter().filter(|(plan, _)| plan.wants_container_ids());
    wanted
        .filter_map(|(plan, tree)| Some((plan, tree.as_ref()?)))
        .map(|(plan, tree)| {
            let copy = tree
                .try_clone()
                .map_err(|source| Error::failed("keep open", plan.destination.display(), source))?;
            Ok((plan.clone(), copy))
        })
        .collect()
}
