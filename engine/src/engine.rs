//! One engine instance: finds containers and tells the truth about them.

use std::sync::{Arc, OnceLock};

use rkvm_net::Network;
use rkvm_oci::lifecycle::Verb;
use rkvm_oci::runtime::{self, Opened};
use rkvm_oci::{Backend, Isolation};

use crate::error::{Error, Result};
use crate::liveness;
use crate::paths::Paths;
use crate::record::{ImageUse, MountKind};
use crate::state::{ContainerState, ContainerStatus};
use crate::store::{self, Container, Locked};
use crate::volume::{VolumeError, VolumeStore};

/// Gives the backend of an isolation; only the command lines know both.
pub type BackendFn = fn(Isolation) -> rkvm_oci::Result<Box<dyn Backend>>;

/// Exit code of a container whose monitor was killed: what was left of it got SIGKILL.
pub const EXIT_MONITOR_LOST: u8 = 137;

/// What becomes of the volumes that were made for a container alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AnonymousVolumes {
    /// They stay.
    Keep,
    /// They go with it, unless another container uses them (`rm -v`, `--rm`).
    Remove,
}

/// One engine instance.
#[derive(Debug, Clone)]
pub struct Engine {
    /// Where everything lies.
    pub paths: Paths,
    backend: BackendFn,
    network: Arc<OnceLock<Network>>,
}

impl Engine {
    /// The instance with these folders.
    pub fn new(paths: Paths, backend: BackendFn) -> Self {
        Self { paths, backend, network: Arc::default() }
    }

    /// The instance's bridge network. One for the life of the process: it keeps its sockets.
    pub fn network(&self) -> &Network {
        self.network.get_or_init(|| Network::open(&self.paths.lib))
    }

    /// The backend of `isolation`.
    ///
    /// # Errors
    /// This build does not have it.
    pub fn backend(&self, isolation: Isolation) -> Result<Box<dyn Backend>> {
        Ok((self.backend)(isolation)?)
    }

    /// The file system of a container's image, made if this is the first microVM of it.
    ///
    /// # Errors
    /// As [`rkvm_image::Store::erofs`].
    pub fn image_file(&self, image: &ImageUse) -> Result<std::path::PathBuf> {
        Ok(rkvm_image::Store::open(&self.paths.lib).erofs(&image.id.parse()?)?)
    }

    /// The container that `reference` means (id, name or beginning of an id), its state true.
    ///
    /// # Errors
    /// There is none, or there are several, or what a killed monitor left cannot be cleaned up.
    pub fn find(&self, reference: &str) -> Result<Container> {
        self.truth(store::peek(&self.paths, &store::resolve(&self.paths, reference)?)?)
    }

    /// Like [`Engine::find`], locked.
    ///
    /// # Errors
    /// As [`Engine::find`].
    pub fn find_locked(&self, reference: &str) -> Result<Locked> {
        let container = self.find(reference)?;
        store::lock(&self.paths, container.id())
    }

    /// All containers, the newest first, their states true. Damaged records are given apart.
    ///
    /// # Errors
    /// The folder cannot be read.
    pub fn list(&self) -> Result<(Vec<Container>, Vec<Error>)> {
        let mut containers = Vec::new();
        let mut damaged = Vec::new();
        for id in store::ids(&self.paths)? {
            match store::peek(&self.paths, &id).and_then(|container| self.truth(container)) {
                Ok(container) => containers.push(container),
                // Removed since the folder was read.
                Err(Error::NoSuchContainer(_)) => {}
                Err(error) => damaged.push(error),
            }
        }
        containers.sort_by(|a, b| b.record.created.cmp(&a.record.created));
        Ok((containers, damaged))
    }

    /// The runtime's handle of a container that has processes, locked for one operation.
    ///
    /// # Errors
    /// It does not run.
    pub fn open(&self, container: &Container) -> Result<Opened> {
        let backend = self.backend(container.record.isolation)?;
        Ok(runtime::open(backend.as_ref(), &self.paths.runtime(), container.id())?)
    }

    /// Whether a monitor of the container with this full id lives.
    ///
    /// # Errors
    /// Its lock cannot be asked.
    pub fn has_monitor(&self, id: &str) -> Result<bool> {
        Ok(liveness::holder(&self.paths.monitor(id))?.is_some())
    }

    /// Removes what there is of a container whose record cannot be read. `id` must be its full id.
    ///
    /// # Errors
    /// It has a monitor, or something cannot be removed.
    pub fn remove_damaged(&self, id: &str) -> Result<()> {
        let files = self.paths.container(id);
        if id.len() != 64 || !files.dir().is_dir() || self.has_monitor(id)? {
            return Err(Error::NoSuchContainer(id.to_owned()));
        }
        self.clean(id)?;
        std::fs::remove_dir_all(files.dir()).map_err(|source| Error::file("remove", files.dir(), source))?;
        Ok(rkvm_image::Store::open(&self.paths.lib).release(id)?)
    }

    /// Cleans up after every monitor that was killed. Costs one folder listing when there is none.
    ///
    /// # Errors
    /// Something cannot be cleaned up; the message names it.
    pub fn reconcile(&self) -> Result<()> {
        let Ok(entries) = std::fs::read_dir(self.paths.monitors()) else { return Ok(()) };
        for id in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
            if liveness::holder(&self.paths.monitor(&id))?.is_none() {
                self.repair(&id)?;
            }
        }
        Ok(())
    }

    /// Removes a container that does not run, its write layer and its hold on the image.
    ///
    /// # Errors
    /// Something cannot be removed; doing it again goes on.
    pub fn remove(&self, locked: Locked, volumes: AnonymousVolumes) -> Result<()> {
        self.forget(&locked, volumes)?;
        locked.remove(&self.paths)
    }

    /// The part of [`Engine::remove`] that others can notice: the container, its hold on the image and its anonymous volumes are
    /// gone, its own files may still be there. They are many, and whoever waits for the container need not wait for them.
    ///
    /// # Errors
    /// Something cannot be removed.
    pub fn forget(&self, locked: &Locked, volumes: AnonymousVolumes) -> Result<()> {
        let record = &locked.container.record;
        locked.forget(&self.paths)?;
        rkvm_image::Store::open(&self.paths.lib).release(&record.id)?;
        if volumes == AnonymousVolumes::Keep {
            return Ok(());
        }
        let store = VolumeStore::new(&self.paths.lib);
        for mount in &record.mounts {
            let MountKind::Volume { name, anonymous: true, .. } = &mount.kind else { continue };
            match store.remove(name, |name| self.volume_users(name)) {
                // Somebody else uses it by now, or removed it.
                Ok(()) | Err(Error::Volume(VolumeError::InUse { .. } | VolumeError::NotFound { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Corrects a state that needs a monitor where there is none: the monitor was killed or the host restarted.
    fn truth(&self, container: Container) -> Result<Container> {
        let folder = self.paths.monitor(container.id());
        let remains = container.state.status.is_active() || folder.exists();
        if !remains || liveness::holder(&folder)?.is_some() {
            return Ok(container);
        }
        self.repair(container.id())?;
        store::peek(&self.paths, container.id())
    }

    fn repair(&self, id: &str) -> Result<()> {
        let folder = self.paths.monitor(id);
        let locked = match store::lock(&self.paths, id) {
            Ok(locked) => Some(locked),
            Err(Error::NoSuchContainer(_)) => None,
            Err(error) => return Err(error),
        };
        // Monitors begin and end under the container's lock, so this is the last word.
        if liveness::holder(&folder)?.is_some() {
            return Ok(());
        }
        self.clean(id)?;
        if let Some(mut locked) = locked {
            let auto_remove = locked.container.record.auto_remove;
            let state = &mut locked.container.state;
            if state.status.is_active() {
                mark_lost(state);
                locked.write_state()?;
            }
            // A start that was cut short leaves `created`.
            if auto_remove {
                self.remove(locked, AnonymousVolumes::Remove)?;
            }
        }
        match std::fs::remove_dir_all(&folder) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove", folder, error))
            }
            _ => Ok(()),
        }
    }

    /// Ends what still runs of container `id` and removes every trace outside its own folder: processes, cgroup, link, port rules,
    /// user id range. Works on a half-made one too, and a second time.
    ///
    /// # Errors
    /// Something cannot be removed; the message names it.
    pub fn clean(&self, id: &str) -> Result<()> {
        self.clean_with(id, Network::release)
    }

    /// As [`Engine::clean`] but for the link and the address, which take tens of milliseconds: whoever calls this releases them
    /// ([`Network::release_own`]) when nobody waits any more.
    ///
    /// # Errors
    /// As [`Engine::clean`].
    pub fn clean_quickly(&self, id: &str) -> Result<()> {
        self.clean_with(id, Network::close_ports)
    }

    fn clean_with(
        &self,
        id: &str,
        network: impl FnOnce(&Network, &str) -> rkvm_net::Result<()>,
    ) -> Result<()> {
        let runtime = self.clean_runtime(id);
        let network = network(self.network(), id);
        crate::namespaces::UidRange::free(&self.paths, id);
        runtime?;
        Ok(network?)
    }

    /// Cleans up after a start that was killed before the runtime's record was written.
    fn clean_unrecorded(&self, id: &str) -> Result<()> {
        let dir = self.paths.runtime().dir(id);
        if !dir.exists() {
            return Ok(());
        }
        // The bundle is written before the runtime is called, so without one there is nothing to find. Once the record is
        // gone too, it is the end of a removal that was killed.
        let record = store::peek(&self.paths, id);
        let bundle = rkvm_oci::Bundle::load(&self.paths.container(id).bundle());
        if let (Ok(container), Ok(bundle)) = (record, bundle) {
            self.backend(container.record.isolation)?.clean(id, &bundle)?;
        }
        match std::fs::remove_dir_all(&dir) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove", dir, error))
            }
            _ => Ok(()),
        }
    }

    fn clean_runtime(&self, id: &str) -> Result<()> {
        let runtime_store = self.paths.runtime();
        let record = match runtime_store.peek(id) {
            Ok(record) => record,
            Err(rkvm_oci::Error::NotFound { .. }) => return self.clean_unrecorded(id),
            Err(error) => return Err(error.into()),
        };
        let backend = self.backend(record.isolation)?;
        runtime::open(backend.as_ref(), &runtime_store, id)?.delete(Verb::ForceDelete)?;
        Ok(())
    }
}

fn mark_lost(state: &mut ContainerState) {
    state.status = ContainerStatus::Exited;
    state.exit_code = EXIT_MONITOR_LOST;
    state.error = "its monitor was killed or the host restarted".to_owned();
    state.pid = 0;
    state.monitor_pid = 0;
    state.network = None;
    state.uid_base = None;
    state.finished_at = Some(rkvm_oci::runtime::rfc3339(std::time::SystemTime::now()));
}
