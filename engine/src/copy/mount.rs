//! Reaching a container's root filesystem.

use std::path::{Path, PathBuf};

use nix::fcntl::OFlag;
use nix::mount::{MsFlags, mount};
use rkvm_oci::RootfsForm;
use rkvm_oci::runtime::process_start;

use super::root::Root;
use super::{CopyError, Result};
use crate::engine::Engine;
use crate::error::Error;
use crate::record::{MountConfig, MountKind};
use crate::rootfs;
use crate::state::ContainerStatus;
use crate::store::{self, Container, Locked};

impl From<Error> for CopyError {
    fn from(error: Error) -> Self {
        Self::Engine(Box::new(error))
    }
}

/// The root of `container` as its own processes see it, with its volumes. One that does not run is mounted in a mount namespace
/// that this process moves into, and stays locked as long as the second value lives: the write layer must not be mounted twice.
///
/// # Errors
/// The container is gone, restarting or damaged, or cannot be mounted.
pub fn container_root(engine: &Engine, container: &Container) -> Result<(Root, Option<Locked>)> {
    match container.state.status {
        ContainerStatus::Running | ContainerStatus::Paused => Ok((root_of_process(container)?, None)),
        ContainerStatus::Restarting => Err(restarting(container).into()),
        ContainerStatus::Created | ContainerStatus::Exited | ContainerStatus::Dead => {
            let locked = store::lock(&engine.paths, container.id())?;
            // It may have been started while this waited for the lock.
            match locked.container.state.status {
                ContainerStatus::Running | ContainerStatus::Paused => {
                    Ok((root_of_process(&locked.container)?, None))
                }
                ContainerStatus::Restarting => Err(restarting(container).into()),
                _ => Ok((mounted(engine, &locked.container)?, Some(locked))),
            }
        }
    }
}

fn restarting(container: &Container) -> Error {
    Error::WrongState {
        verb: "copy files of",
        name: container.name().to_owned(),
        status: ContainerStatus::Restarting,
        hint: Some("wait until it runs, or stop it"),
    }
}

fn root_of_process(container: &Container) -> Result<Root> {
    let pid = container.state.pid;
    let before = process_start(pid);
    let root =
        Root::container(&PathBuf::from(format!("/proc/{pid}/root")), container.state.uid_base.unwrap_or(0))?;
    // The process may have ended, and its number have been given to another, before its root was opened.
    if before.is_none() || process_start(pid) != before {
        return Err(Error::NoSuchContainer(container.name().to_owned()).into());
    }
    Ok(root)
}

fn mounted(engine: &Engine, container: &Container) -> Result<Root> {
    rootfs::private_mounts()?;
    // Owners on disk are the container's own ids, so nothing has to be mapped.
    let layers = &container.record.image.layers;
    match engine.backend(container.record.isolation)?.needs().rootfs {
        RootfsForm::Mounted => rootfs::mount_overlay(&container.paths, layers, None)?,
        RootfsForm::Layers => rootfs::mount_guest_overlay(&container.paths, layers)?,
    }
    let root = Root::container(&container.paths.rootfs(), 0)?;
    for mount in &container.record.mounts {
        join(engine, &root, mount)?;
    }
    Ok(root)
}

/// Mounts a volume or host folder where the container has it. Memory of a container that does not run is gone.
fn join(engine: &Engine, root: &Root, config: &MountConfig) -> Result<()> {
    let source = match &config.kind {
        MountKind::Bind { source, .. } => source.clone(),
        MountKind::Volume { name, subpath, .. } => {
            engine.paths.volumes().join(name).join("_data").join(subpath.trim_start_matches('/'))
        }
        MountKind::Tmpfs { .. } => return Ok(()),
    };
    let target = root.named(Path::new(&config.target))?.path;
    let place = match root.open(&target, OFlag::empty())? {
        Some(place) => place,
        None if source.is_dir() => root.make_dirs(&target)?,
        // A file that is to be mounted gets its mount point at the next start.
        None => return Ok(()),
    };
    let path = format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&place.fd()));
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&source), path.as_str(), None::<&str>, flags, None::<&str>)
        .map_err(|errno| root.error("mount on", &target, errno))
}
