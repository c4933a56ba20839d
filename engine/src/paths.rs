//! Where everything of one engine instance lies.

use std::path::{Path, PathBuf};

/// Folders of one engine instance.
#[derive(Debug, Clone)]
pub struct Paths {
    /// State that ends with the host's uptime.
    pub run: PathBuf,
    /// Images, containers, volumes.
    pub lib: PathBuf,
}

impl Paths {
    /// The instance with these two folders.
    pub fn new(run: impl Into<PathBuf>, lib: impl Into<PathBuf>) -> Self {
        Self { run: run.into(), lib: lib.into() }
    }

    /// Folder of all container records.
    pub fn containers(&self) -> PathBuf {
        self.lib.join("containers")
    }

    /// Files of one container.
    pub fn container(&self, id: &str) -> ContainerPaths {
        ContainerPaths { dir: self.containers().join(id) }
    }

    /// Folder with one symbolic link a name, to the id that has it.
    pub fn names(&self) -> PathBuf {
        self.lib.join("names")
    }

    /// Folder of all volumes.
    pub fn volumes(&self) -> PathBuf {
        self.lib.join("volumes")
    }

    /// Folder in which a monitor keeps its lock and socket while it lives.
    pub fn monitor(&self, id: &str) -> PathBuf {
        self.monitors().join(id)
    }

    /// Folder of the folders of all monitors.
    pub fn monitors(&self) -> PathBuf {
        self.run.join("monitor")
    }

    /// Folder with one symbolic link a user id range in use, to the id of the container that has it.
    pub fn uid_ranges(&self) -> PathBuf {
        self.run.join("uidranges")
    }

    /// The runtime's state store.
    pub fn runtime(&self) -> rkvm_oci::Store {
        rkvm_oci::Store::new(&self.run)
    }
}

/// Files of one container.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerPaths {
    dir: PathBuf,
}

impl ContainerPaths {
    /// The folder that holds all of them.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// What was asked for.
    pub fn record(&self) -> PathBuf {
        self.dir.join("record.json")
    }

    /// What became of it.
    pub fn state(&self) -> PathBuf {
        self.dir.join("state.json")
    }

    /// The OCI bundle; config.json is written at each start.
    pub fn bundle(&self) -> PathBuf {
        self.dir.join("bundle")
    }

    /// Where the monitor mounts the root filesystem, in a mount namespace of its own: an empty folder on the host.
    pub fn rootfs(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// The write layer, with its `upper` and `work`.
    pub fn overlay(&self) -> PathBuf {
        self.dir.join("overlay")
    }

    /// Folder through which files are copied to and from a microVM that runs; empty otherwise.
    pub fn transfer(&self) -> PathBuf {
        self.dir.join("transfer")
    }

    /// The current log file, json lines; older ones end in `.1`, `.2`, ...
    pub fn log(&self) -> PathBuf {
        self.dir.join("json.log")
    }

    /// File bound to /etc/hostname.
    pub fn hostname(&self) -> PathBuf {
        self.dir.join("hostname")
    }

    /// File bound to /etc/hosts.
    pub fn hosts(&self) -> PathBuf {
        self.dir.join("hosts")
    }

    /// File bound to /etc/resolv.conf.
    pub fn resolv_conf(&self) -> PathBuf {
        self.dir.join("resolv.conf")
    }
}
