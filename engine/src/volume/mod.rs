//! Named volumes: folders that outlive the containers which mount them.
//!
//! `lib/volumes/NAME/` holds `volume.json` and the volume's content in `_data`. A volume is made aside and renamed into
//! place, and renamed away before it is emptied, so a half-made or half-removed one is never seen under its name,
//! whenever a command is killed. Commands in parallel: making, and mounting ([`VolumeStore::hold`]), takes a shared lock
//! of the store's folder; removing takes it alone, so no volume disappears between "nobody uses it" and "removed".

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::io::{self, Read, Write};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

pub mod copy_up;
#[cfg(test)]
mod tests;
mod users;

/// Folder of a volume in which its content is.
const DATA: &str = "_data";
/// File of a volume in which its [`Volume`] is.
const META: &str = "volume.json";
/// Longest name: what a file system takes as one path component, less the prefixes used while making and removing.
const MAX_NAME_BYTES: usize = 200;

/// Result of any operation on volumes.
pub type Result<T, E = VolumeError> = std::result::Result<T, E>;

/// What went wrong with a volume.
#[derive(Debug, thiserror::Error)]
pub enum VolumeError {
    /// No volume has this name.
    #[error("no such volume: {name}; `rkvm volume ls` shows those that exist")]
    NotFound {
        /// The name asked for.
        name: String,
    },
    /// The name cannot be a volume's.
    #[error(
        "{name:?} is not a volume name: use letters, digits, `_`, `.` and `-`, beginning with a letter or digit, \
         2 to {MAX_NAME_BYTES} of them (a host folder needs an absolute path)"
    )]
    InvalidName {
        /// The name given.
        name: String,
    },
    /// A container, running or not, mounts it.
    #[error("volume {name} is in use by container {}; remove the container first", users.join(", "))]
    InUse {
        /// The volume.
        name: String,
        /// Ids of the containers that mount it.
        users: Vec<String>,
    },
    /// Volumes are kept in folders of this host; there are no other drivers.
    #[error("volume driver {driver:?} is not supported; only `local` is")]
    UnknownDriver {
        /// The driver asked for.
        driver: String,
    },
    /// What stands under the volume's name is no volume of ours.
    #[error("{path} is not a volume: {reason}; move it away")]
    Foreign {
        /// The path.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Its `volume.json` cannot be understood.
    #[error("{path} is not valid; remove the volume's folder, or correct the file")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// The verb phrase.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
}

/// Whether a person named the volume.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Naming {
    /// The user chose the name: `prune` spares it unless told to take all.
    Named,
    /// 64 random hex digits, made for `-v /path` or an image's `VOLUME`.
    Anonymous,
}

/// What is known of a volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made, RFC 3339, UTC.
    pub created: String,
    /// The user's labels.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Who chose the name.
    pub naming: Naming,
}

/// The volumes of one engine instance.
#[derive(Debug, Clone)]
pub struct VolumeStore {
    root: PathBuf,
}

/// While this lives no volume is removed. See [`VolumeStore::hold`].
#[derive(Debug)]
pub struct Hold {
    _lock: Flock<File>,
}

/// Checks a name against Docker's rule for volumes.
///
/// # Errors
/// [`VolumeError::InvalidName`].
pub fn validate_name(name: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '-');
    let first = name.chars().next().is_some_and(|c| c.is_ascii_alphanumeric());
    if !first || !(2..=MAX_NAME_BYTES).contains(&name.len()) || !name.chars().all(legal) {
        return Err(VolumeError::InvalidName { name: name.to_owned() });
    }
    Ok(())
}

impl VolumeStore {
    /// The volumes below `lib_dir` (`lib_dir/volumes`); the folder is made when it is first needed.
    pub fn new(lib_dir: &Path) -> Self {
        Self { root: lib_dir.join("volumes") }
    }

    /// Folder with the content of volume `name`, whether it exists or not. Give only validated names.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name).join(DATA)
    }

    /// Keeps every volume from being removed until the value is dropped. Whoever mounts volumes holds this from before
    /// [`VolumeStore::create_or_get`] until the container's record, which names them, is on disk: from then on `prune`
    /// sees the user.
    ///
    /// # Errors
    /// The store's folder cannot be made or locked.
    pub fn hold(&self) -> Result<Hold> {
        Ok(Hold { _lock: self.lock(FlockArg::LockShared)? })
    }

    /// The volume `name`, made now if there is none.
    ///
    /// # Errors
    /// The name is not valid, or the folder cannot be made.
    pub fn create_or_get(&self, name: &str) -> Result<Volume> {
        self.create(name, BTreeMap::new())
    }

    /// As [`VolumeStore::create_or_get`], with labels, which a volume that exists already does not get (Docker's rule).
    ///
    /// # Errors
    /// The name is not valid, or the folder cannot be made.
    pub fn create(&self, name: &str, labels: BTreeMap<String, String>) -> Result<Volume> {
        self.make(name, labels, Naming::Named)
    }

    /// A new volume with a name of 64 random hex digits.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn create_anonymous(&self, labels: BTreeMap<String, String>) -> Result<Volume> {
        self.make(&random_hex()?, labels, Naming::Anonymous)
    }

    fn make(&self, name: &str, labels: BTreeMap<String, String>, naming: Naming) -> Result<Volume> {
        validate_name(name)?;
        let _lock = self.lock(FlockArg::LockShared)?;
        match self.get(name) {
            Err(VolumeError::NotFound { .. }) => {}
            known => return known,
        }
        let created = rkvm_oci::runtime::rfc3339(SystemTime::now());
        let volume = Volume { name: name.to_owned(), created, labels, naming };
        let aside = self.root.join(format!(".new-{}", &random_hex()?[..16]));
        let made = self.fill(&aside, &volume).and_then(|()| {
            let place = self.root.join(name);
            fs::rename(&aside, &place).map_err(io_error("create volume", &place))
        });
        match made {
            Ok(()) => {
                sync_folder(&self.root)?;
                Ok(volume)
            }
            Err(error) => {
                let _ = fs::remove_dir_all(&aside);
                // Another command may have made the same volume since the look above.
                self.get(name).map_err(|_| error)
            }
        }
    }

    /// Makes the whole folder of `volume` at `aside`, on disk when this returns.
    fn fill(&self, aside: &Path, volume: &Volume) -> Result<()> {
        fs::DirBuilder::new().mode(0o700).create(aside).map_err(io_error("create", aside))?;
        let data = aside.join(DATA);
        fs::create_dir(&data).map_err(io_error("create", &data))?;
        // Not through `mkdir`'s mode: the umask must not change what containers see.
        let everyone_reads = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs::set_permissions(&data, everyone_reads).map_err(io_error("set the mode of", &data))?;
        let path = aside.join(META);
        let text = serde_json::to_vec(volume)
            .map_err(|source| VolumeError::Malformed { path: path.clone(), source })?;
        let mut file = File::create(&path).map_err(io_error("create", &path))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(io_error("write", &path))?;
        sync_folder(aside)
    }

    /// The volume `name`.
    ///
    /// # Errors
    /// There is none, or what is there is no volume: a symbolic link is never followed.
    pub fn get(&self, name: &str) -> Result<Volume> {
        validate_name(name)?;
        let dir = self.root.join(name);
        for path in [dir.clone(), dir.join(DATA)] {
            match fs::symlink_metadata(&path) {
                Ok(metadata) if metadata.is_dir() => {}
                Ok(_) => return Err(VolumeError::Foreign { path, reason: "no folder" }),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {
                    return Err(VolumeError::NotFound { name: name.to_owned() });
                }
                Err(error) => return Err(io_error("look at", &path)(error)),
            }
        }
        let path = dir.join(META);
        let text = fs::read(&path).map_err(io_error("read", &path))?;
        serde_json::from_slice(&text).map_err(|source| VolumeError::Malformed { path, source })
    }

    /// All volumes, sorted by name.
    ///
    /// # Errors
    /// The store's folder or a volume cannot be read.
    pub fn list(&self) -> Result<Vec<Volume>> {
        let mut volumes = vec![];
        for name in self.names()? {
            match self.get(&name) {
                Ok(volume) => volumes.push(volume),
                // Removed since the folder was read.
                Err(VolumeError::NotFound { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        volumes.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(volumes)
    }

    /// Removes a volume with its content. `users` gives the ids of the containers that mount it, asked while no new user
    /// can come.
    ///
    /// # Errors
    /// There is no such volume, a container uses it, or it cannot be removed.
    pub fn remove<E: From<VolumeError>>(
        &self,
        name: &str,
        users: impl FnOnce(&str) -> Result<Vec<String>, E>,
    ) -> Result<(), E> {
        let _lock = self.lock(FlockArg::LockExclusive)?;
        self.get(name)?;
        let users = users(name)?;
        if !users.is_empty() {
            return Err(VolumeError::InUse { name: name.to_owned(), users }.into());
        }
        Ok(self.discard(name)?)
    }

    /// Removes every volume that `wanted` chooses and no container mounts; gives each with the bytes that it held, and
    /// sweeps up what killed commands left half made. `users` as for [`VolumeStore::remove`].
    ///
    /// # Errors
    /// A volume cannot be read or removed.
    pub fn prune<E: From<VolumeError>>(
        &self,
        wanted: impl Fn(&Volume) -> bool,
        users: impl Fn(&str) -> Result<Vec<String>, E>,
    ) -> Result<Vec<(Volume, u64)>, E> {
        let _lock = self.lock(FlockArg::LockExclusive)?;
        self.sweep()?;
        let mut removed = vec![];
        for volume in self.list()? {
            if wanted(&volume) && users(&volume.name)?.is_empty() {
                let bytes = crate::usage::disk_bytes(&self.path(&volume.name));
                self.discard(&volume.name)?;
                removed.push((volume, bytes));
            }
        }
        Ok(removed)
    }

    /// Bytes on disk of a volume's content.
    pub fn size_bytes(&self, name: &str) -> u64 {
        crate::usage::disk_bytes(&self.path(name))
    }

    fn discard(&self, name: &str) -> Result<()> {
        let place = self.root.join(name);
        let aside = self.root.join(format!(".old-{}", &random_hex()?[..16]));
        fs::rename(&place, &aside).map_err(io_error("remove", &place))?;
        // `remove_dir_all` opens each folder without following links, so content cannot lead it elsewhere.
        fs::remove_dir_all(&aside).map_err(io_error("remove", &aside))
    }

    /// Removes what killed commands left. Only under the exclusive lock: nobody is making a volume then.
    fn sweep(&self) -> Result<()> {
        for entry in fs::read_dir(&self.root).map_err(io_error("read", &self.root))?.flatten() {
            let name = entry.file_name();
            let name = name.to_string_lossy();
            if name.starts_with(".new-") || name.starts_with(".old-") {
                fs::remove_dir_all(entry.path()).map_err(io_error("remove", &entry.path()))?;
            }
        }
        Ok(())
    }

    fn names(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(io_error("read", &self.root)(error)),
        };
        let names = entries.flatten().filter_map(|entry| entry.file_name().into_string().ok());
        Ok(names.filter(|name| validate_name(name).is_ok()).collect())
    }

    fn lock(&self, how: FlockArg) -> Result<Flock<File>> {
        let make = || fs::DirBuilder::new().recursive(true).mode(0o711).create(&self.root);
        make().map_err(io_error("create", &self.root))?;
        let folder = File::open(&self.root).map_err(io_error("open", &self.root))?;
        Flock::lock(folder, how).map_err(|(_, errno)| io_error("lock", &self.root)(errno.into()))
    }
}

fn random_hex() -> Result<String> {
    let path = Path::new("/dev/urandom");
    let mut bytes = [0; 32];
    File::open(path).and_then(|mut source| source.read_exact(&mut bytes)).map_err(io_error("read", path))?;
    Ok(crate::ids::hex(&bytes))
}

fn io_error(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> VolumeError {
    let path = path.to_owned();
    move |source| VolumeError::Io { action, path, source }
}

fn sync_folder(path: &Path) -> Result<()> {
    File::open(path).and_then(|folder| folder.sync_all()).map_err(io_error("sync", path))
}
