//! Flags of volumes, host folders and tmpfs.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::{Result, bail};
use oci_spec::image::Config;
use rkvm_engine::record::{ContainerRecord, MountConfig, MountKind};
use rkvm_engine::volume::VolumeStore;
use rkvm_engine::{Engine, options};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct StorageFlags {
    /// Mount a host path or a volume: [SOURCE:]TARGET[:OPTIONS]
    #[arg(short, long = "volume", value_name = "VOLUME")]
    volumes: Vec<String>,
    /// Mount in long form: type=bind|volume|tmpfs,source=...,target=...[,readonly]
    #[arg(long = "mount", value_name = "MOUNT")]
    mounts: Vec<String>,
    /// Mount memory: TARGET[:OPTIONS]
    #[arg(long = "tmpfs", value_name = "TMPFS")]
    tmpfs: Vec<String>,
}

impl StorageFlags {
    /// All mounts: those of the flags, and an anonymous volume for each volume of the image that has none.
    pub(super) fn mounts(&self, image: &Config) -> Result<Vec<MountConfig>> {
        let mut mounts = Vec::new();
        for text in &self.volumes {
            let mount = options::volume(text)?;
            // As Docker: -v makes a missing host folder, --mount does not.
            if let MountKind::Bind { source, .. } = &mount.kind
                && !source.exists()
            {
                std::fs::create_dir_all(source)
                    .map_err(|cause| rkvm_engine::Error::file("create", source, cause))?;
            }
            mounts.push(mount);
        }
        for text in &self.mounts {
            let mount = options::mount(text)?;
            if let MountKind::Bind { source, .. } = &mount.kind
                && !source.exists()
            {
                bail!("--mount: {} does not exist on the host; make it first, or use -v", source.display());
            }
            mounts.push(mount);
        }
        for text in &self.tmpfs {
            mounts.push(options::tmpfs(text)?);
        }
        options::check_targets(&mounts)?;
        for target in image.volumes().iter().flatten() {
            let volume = options::volume(target)?;
            let same = |mount: &MountConfig| Path::new(&mount.target) == Path::new(&volume.target);
            if !mounts.iter().any(same) {
                mounts.push(volume);
            }
        }
        Ok(mounts)
    }
}

/// Makes the volumes that do not exist yet and names the anonymous ones. Names of those that were made for this container.
///
/// # Errors
/// A volume cannot be made; those made before it are anonymous, and go with `volume prune`.
pub(super) fn make_volumes(volumes: &VolumeStore, record: &mut ContainerRecord) -> Result<Vec<String>> {
    let mut made = Vec::new();
    for mount in &mut record.mounts {
        match &mut mount.kind {
            MountKind::Volume { name, anonymous: true, .. } => {
                *name = volumes.create_anonymous(BTreeMap::new())?.name;
                made.push(name.clone());
            }
            MountKind::Volume { name, .. } => {
                volumes.create_or_get(name)?;
            }
            _ => {}
        }
    }
    Ok(made)
}

/// Removes what [`make_volumes`] made for a container that was not created after all.
pub(super) fn remove_volumes(engine: &Engine, volumes: &VolumeStore, names: &[String]) {
    for name in names {
        // One that stays is anonymous and unused: `volume prune` removes it.
        let _ = volumes.remove(name, |name| engine.volume_users(name));
    }
}
