//! The flags that `run` and `create` share, with Docker's names and grammars, and the record that they make.

mod boot;
pub mod limits;
mod network;
mod process;
pub mod pull;
mod security;
mod storage;

use std::path::PathBuf;
use std::time::SystemTime;

use anyhow::{Result, bail};
use rkvm_engine::record::{
    ContainerRecord, ImageUse, Limits, MountKind, NamespaceMode, NetworkConfig, NetworkMode, ProcessConfig,
    RestartPolicy, Security,
};
use rkvm_engine::{Engine, Locked, options, store, volume::VolumeStore};
use rkvm_image::Image;
use rkvm_oci::runtime::rfc3339;
use rkvm_oci::{Isolation, Kernel, RootfsForm};

use crate::pulling::Show;
use pull::PullPolicy;

/// Flags of `run` and `create`.
#[derive(Debug, clap::Args)]
pub struct ContainerFlags {
    /// Name of the container; one is made up without
    #[arg(long)]
    name: Option<String>,
    /// How the container is kept apart: container | vm
    #[arg(long, default_value = "container")]
    isolation: Isolation,
    /// Pull the image before: always | missing | never
    #[arg(long, default_value = "missing", value_name = "POLICY")]
    pub pull: PullPolicy,
    /// Write the container's id to this file, which must not exist
    #[arg(long, value_name = "FILE")]
    cidfile: Option<PathBuf>,
    /// Remove the container, and its anonymous volumes, when it ends
    #[arg(long)]
    rm: bool,
    /// Start it again when it ends: no | on-failure[:N] | always | unless-stopped
    #[arg(long, default_value = "no", value_name = "POLICY")]
    restart: String,
    /// Set a label, NAME=value
    #[arg(short, long = "label", value_name = "LABEL")]
    labels: Vec<String>,
    /// Read labels from a file
    #[arg(long = "label-file", value_name = "FILE")]
    label_files: Vec<PathBuf>,
    /// Set an annotation of config.json, NAME=value
    #[arg(long = "annotation", value_name = "ANNOTATION")]
    annotations: Vec<String>,
    /// Log driver: json-file | none
    #[arg(long, value_name = "DRIVER")]
    log_driver: Option<String>,
    /// Log rotation: max-size=10m, max-file=5
    #[arg(long = "log-opt", value_name = "OPTION")]
    log_options: Vec<String>,
    // No doc comment: clap would take it for the help of what is flattened.
    #[allow(missing_docs)]
    #[command(flatten)]
    pub process: process::ProcessFlags,
    #[command(flatten)]
    network: network::NetworkFlags,
    #[command(flatten)]
    storage: storage::StorageFlags,
    #[command(flatten)]
    limits: limits::LimitFlags,
    #[command(flatten)]
    boot: boot::BootFlags,
    #[command(flatten)]
    security: security::SecurityFlags,
    /// Show this help
    #[arg(long, action = clap::ArgAction::Help)]
    help: Option<bool>,
    /// Image, and what to run in place of its command
    #[arg(required = true, trailing_var_arg = true, value_names = ["IMAGE", "COMMAND"])]
    image_and_command: Vec<String>,
}

/// Whether a client stays attached, which decides what becomes of standard input.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attachment {
    /// A client feeds and reads the container from its start.
    Foreground,
    /// Nobody does.
    Detached,
}

/// The flags alone, for a command line that is not the process' own.
#[derive(clap::Parser)]
#[command(disable_help_flag = true)]
struct Alone {
    #[command(flatten)]
    flags: ContainerFlags,
}

impl ContainerFlags {
    /// The flags in `words`, the first of which is skipped.
    ///
    /// # Errors
    /// They cannot be understood.
    pub fn parse_words(words: &[&str]) -> Result<Self> {
        Ok(<Alone as clap::Parser>::try_parse_from(words)?.flags)
    }

    /// The image's name.
    pub fn image(&self) -> &str {
        self.image_and_command.first().map(String::as_str).unwrap_or_default()
    }

    /// The image, pulled if need be and in the form that the isolation wants. Whether the host can isolate so is checked before.
    ///
    /// # Errors
    /// The isolation is not available, or the image is not.
    pub fn fetch(&self, engine: &Engine, show: Show) -> Result<Image> {
        let backend = engine.backend(self.isolation)?;
        let store = rkvm_image::Store::open(&engine.paths.lib);
        let image = pull::image(&store, self.image(), self.pull, show)?;
        if backend.needs().rootfs == RootfsForm::Layers {
            store.erofs(&image.id)?;
        }
        Ok(image)
    }

    /// Whether the container is removed when it ends.
    pub fn auto_remove(&self) -> bool {
        self.rm
    }

    /// Makes the container with this id: checks every flag, then makes its volumes and its record.
    ///
    /// # Errors
    /// A flag makes no sense, the name is taken, or something cannot be written; nothing is left behind then.
    pub fn create(
        &self,
        engine: &Engine,
        image: &Image,
        attachment: Attachment,
        id: String,
    ) -> Result<Locked> {
        if let Some(path) = &self.cidfile
            && path.exists()
        {
            bail!("--cidfile {} exists already: remove it or choose another file", path.display());
        }
        let mut record = self.record(engine, image, attachment, id)?;
        // No volume is pruned between its making and the record that names it.
        let volumes = VolumeStore::new(&engine.paths.lib);
        let held = if record.mounts.iter().any(|mount| matches!(mount.kind, MountKind::Volume { .. })) {
            Some(volumes.hold()?)
        } else {
            None
        };
        let made = storage::make_volumes(&volumes, &mut record)?;
        let locked = match store::create(&engine.paths, record, self.name.as_deref()) {
            Ok(locked) => locked,
            Err(error) => {
                drop(held);
                storage::remove_volumes(engine, &volumes, &made);
                return Err(error.into());
            }
        };
        drop(held);
        let id = locked.container.id().to_owned();
        let finished = rkvm_image::Store::open(&engine.paths.lib)
            .hold(image, &id)
            .map_err(anyhow::Error::from)
            .and_then(|()| self.write_cidfile(&id));
        if let Err(error) = finished {
            engine.remove(locked, rkvm_engine::engine::AnonymousVolumes::Remove)?;
            return Err(error);
        }
        Ok(locked)
    }

    fn write_cidfile(&self, id: &str) -> Result<()> {
        use std::io::Write;
        let Some(path) = &self.cidfile else { return Ok(()) };
        let written = std::fs::File::create_new(path).and_then(|mut file| file.write_all(id.as_bytes()));
        written.map_err(|source| rkvm_engine::Error::file("write", path, source).into())
    }

    /// The record that these flags make, for a container with this id.
    ///
    /// # Errors
    /// A flag makes no sense.
    pub fn record(
        &self,
        engine: &Engine,
        image: &Image,
        attachment: Attachment,
        id: String,
    ) -> Result<ContainerRecord> {
        let restart = options::restart(&self.restart)?;
        if self.rm && restart != RestartPolicy::No {
            bail!("--rm and --restart {restart} contradict each other: leave one out");
        }
        let config = image.config.config().clone().unwrap_or_default();
        let mut labels: std::collections::BTreeMap<String, String> =
            config.labels().clone().unwrap_or_default().into_iter().collect();
        for file in &self.label_files {
            labels.extend(options::labels(&options::env_file(file)?, "label")?);
        }
        labels.extend(options::labels(&self.labels, "label")?);
        let mut record = ContainerRecord {
            name: String::new(),
            created: rfc3339(SystemTime::now()),
            image: ImageUse {
                reference: self.image().to_owned(),
                id: image.id.to_string(),
                manifest: image.manifest.to_string(),
                // overlayfs wants the topmost first.
                layers: image.layers.iter().rev().cloned().collect(),
            },
            isolation: self.isolation,
            process: ProcessConfig::default(),
            network: NetworkConfig::default(),
            mounts: vec![],
            limits: Limits::default(),
            boot: self.boot.boot()?,
            security: Security::default(),
            restart,
            auto_remove: self.rm,
            log: options::log_options(self.log_driver.as_deref(), &self.log_options)?,
            labels,
            annotations: options::labels(&self.annotations, "annotation")?,
            id,
        };
        let command = self.image_and_command.get(1..).unwrap_or_default();
        self.process.apply(&mut record.process, &config, command, attachment)?;
        self.network.apply(engine, &mut record.network, &config)?;
        record.mounts = self.storage.mounts(&config)?;
        self.limits.apply(&mut record.limits)?;
        self.security.apply(engine, &mut record)?;
        let kernel = engine.backend(record.isolation)?.needs().kernel;
        options::check_kernel(&record, kernel)?;
        check_together(&mut record, kernel)?;
        Ok(record)
    }
}

/// What depends on several flags.
fn check_together(record: &mut ContainerRecord, kernel: Kernel) -> Result<()> {
    let shares_network = matches!(record.network.mode, NetworkMode::Host | NetworkMode::Container(_));
    if shares_network && !record.network.requested.is_empty() && record.network.mode != NetworkMode::Host {
        bail!("-p has no effect with --network container: publish the ports of that container");
    }
    if !record.process.hostname.is_empty() && record.security.uts == NamespaceMode::Host {
        bail!("--hostname and --uts host contradict each other: leave one out");
    }
    // A user namespace of its own has no rights over namespaces that belong to the host. What is privileged on a kernel of its own
    // needs none of the host's.
    let security = &mut record.security;
    let host = (security.privileged && kernel == Kernel::Host)
        || record.network.mode == NetworkMode::Host
        || security.pid == NamespaceMode::Host
        || security.ipc == NamespaceMode::Host;
    if host {
        security.userns = NamespaceMode::Host;
    }
    Ok(())
}
