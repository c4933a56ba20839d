//! The state store: one folder a container, locked, written atomically.
//!
//! `ROOT/ID/state.json` is the record; the backend keeps its fifos and sockets beside it. The folder itself is the
//! lock (`flock` on its descriptor), so there is no lock file to leave behind. Nothing is synced to disk: the processes that a
//! record speaks of do not outlive a power cut either.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use oci_spec::runtime::Hooks;
use serde::{Deserialize, Serialize};

use crate::backend::Isolation;
use crate::error::{Error, Result};
use crate::lifecycle::Status;

/// What is known of one container between two commands.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// `ociVersion` of its config.json.
    pub oci_version: String,
    /// Its id.
    pub id: String,
    /// Its state when the record was written; [`crate::Workload::status`] knows the state now.
    pub status: Status,
    /// Process id of its init (or VMM) on the host; 0 while it is being created.
    pub pid: i32,
    /// Start time of that process in clock ticks since boot (`/proc/PID/stat` field 22): tells it from a later process
    /// that was given the same number.
    pub pid_start: u64,
    /// Absolute path of the bundle.
    pub bundle: PathBuf,
    /// Absolute path of the root filesystem.
    pub rootfs: PathBuf,
    /// When it was created, RFC 3339, UTC.
    pub created: String,
    /// Which backend made it.
    pub isolation: Isolation,
    /// Annotations of its config.json.
    #[serde(default, skip_serializing_if = "HashMap::is_empty")]
    pub annotations: HashMap<String, String>,
    /// Hooks of its config.json: those that run later must not depend on the bundle being unchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hooks: Option<Hooks>,
    /// User id of the process that created it.
    pub owner: u32,
    /// The backend's own part.
    #[serde(default)]
    pub backend: serde_json::Value,
}

/// A folder of container records.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
}

/// Name of the link to the bundle in a container's folder.
const BUNDLE: &str = "bundle";

/// A locked container folder. Dropping it unlocks.
#[derive(Debug)]
pub struct Entry {
    dir: PathBuf,
    _lock: Flock<File>,
}

/// Checks an id against the characters that paths and cgroup names can carry (runc's rule).
///
/// # Errors
/// [`Error::InvalidId`].
pub fn validate_id(id: &str) -> Result<()> {
    let legal = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '+' | '-' | '.');
    if id.is_empty() || id.len() > 1024 || id == "." || id == ".." || !id.chars().all(legal) {
        return Err(Error::InvalidId { id: id.to_owned() });
    }
    Ok(())
}

impl Store {
    /// The store at `root`, which is made when the first container is.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The store's folder.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Folder of container `id`, whether it exists or not.
    pub fn dir(&self, id: &str) -> PathBuf {
        self.root.join(id)
    }

    /// Makes and locks the folder of a new container.
    ///
    /// # Errors
    /// The id is not valid or is taken, or the folder cannot be made.
    pub fn create(&self, id: &str) -> Result<Entry> {
        validate_id(id)?;
        let dir = self.dir(id);
        let make = |source| Error::failed("create state folder", dir.display(), source);
        match fs::create_dir(&dir) {
            Ok(()) => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                fs::create_dir_all(&self.root).map_err(make)?;
                fs::create_dir(&dir).map_err(make)?;
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
                return Err(Error::AlreadyExists { id: id.to_owned() });
            }
            Err(error) => return Err(make(error)),
        }
        Self::lock(dir, id)
    }

    /// Locks the folder of an existing container, waiting for another command that holds it.
    ///
    /// # Errors
    /// There is no such container, or it was deleted while this waited.
    pub fn open(&self, id: &str) -> Result<Entry> {
        validate_id(id)?;
        Self::lock(self.dir(id), id)
    }

    fn lock(dir: PathBuf, id: &str) -> Result<Entry> {
        let file = File::open(&dir).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::NotFound { id: id.to_owned() },
            _ => Error::failed("open state folder", dir.display(), error),
        })?;
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::failed("lock", dir.display(), errno))?;
        // The holder before us may have deleted the folder, and another command may have made a new one.
        if !is_at(&lock, &dir).unwrap_or(false) {
            return Err(Error::NotFound { id: id.to_owned() });
        }
        Ok(Entry { dir, _lock: lock })
    }

    /// Reads a record without the lock: writes are atomic, so it is whole, and may be a moment old.
    ///
    /// # Errors
    /// There is no such container, or it is still being created, or its record cannot be parsed.
    pub fn peek(&self, id: &str) -> Result<Record> {
        validate_id(id)?;
        read_record(&self.dir(id), id)
    }

    /// Ids of all containers, sorted.
    ///
    /// # Errors
    /// The store's folder cannot be read; a missing one is an empty store.
    pub fn ids(&self) -> Result<Vec<String>> {
        let entries = match fs::read_dir(&self.root) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
            Err(error) => return Err(Error::failed("read", self.root.display(), error)),
        };
        let mut ids: Vec<String> = entries
            .filter_map(|entry| entry.ok())
            .filter(|entry| entry.path().join("state.json").exists())
            .filter_map(|entry| entry.file_name().into_string().ok())
            .collect();
        ids.sort();
        Ok(ids)
    }
}

impl Entry {
    /// The container's folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// The record.
    ///
    /// # Errors
    /// It is missing (the container is still being created) or cannot be parsed.
    pub fn read(&self) -> Result<Record> {
        let id = self.dir.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        read_record(&self.dir, id)
    }

    /// Keeps where the bundle is until there is a record: a create that is killed in between leaves a cgroup, which only the
    /// bundle names.
    ///
    /// # Errors
    /// The link cannot be made.
    pub fn name_bundle(&self, bundle: &Path) -> Result<()> {
        let link = self.dir.join(BUNDLE);
        std::os::unix::fs::symlink(bundle, &link)
            .map_err(|source| Error::failed("create", link.display(), source))
    }

    /// The bundle, if [`Entry::name_bundle`] was called.
    pub fn bundle(&self) -> Option<PathBuf> {
        fs::read_link(self.dir.join(BUNDLE)).ok()
    }

    /// Replaces the record atomically.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write(&self, record: &Record) -> Result<()> {
        let path = self.dir.join("state.json");
        let aside = self.dir.join("state.json.new");
        let text =
            serde_json::to_vec(record).map_err(|source| Error::Malformed { path: path.clone(), source })?;
        fs::write(&aside, text)
            .and_then(|()| fs::rename(&aside, &path))
            .map_err(|source| Error::failed("write", path.display(), source))
    }

    /// Removes the folder and all that is in it; the lock goes with it.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn remove(self) -> Result<()> {
        fs::remove_dir_all(&self.dir).map_err(|source| Error::failed("remove", self.dir.display(), source))
    }
}

/// Whether an open (and by now locked) folder is the one at `path`, not one that was there before: whoever held its lock may have removed it.
///
/// # Errors
/// Nothing is at `path`.
pub fn is_at(folder: &File, path: &Path) -> io::Result<bool> {
    let (held, named) = (folder.metadata()?, fs::metadata(path)?);
    Ok((held.dev(), held.ino()) == (named.dev(), named.ino()))
}

fn read_record(dir: &Path, id: &str) -> Result<Record> {
    let path = dir.join("state.json");
    let text = fs::read(&path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NotFound { id: id.to_owned() },
        _ => Error::failed("read", path.display(), error),
    })?;
    serde_json::from_slice(&text).map_err(|source| Error::Malformed { path, source })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_that_would_leave_the_store_are_refused() {
        for id in ["", ".", "..", "a/b", "a b", "\u{e9}", &"x".repeat(1025)] {
            assert!(validate_id(id).is_err(), "{id:?}");
        }
        for id in ["web", "a.b-c_d+e", "0"] {
            validate_id(id).unwrap();
        }
    }

    #[test]
    fn a_second_create_is_refused_and_a_deleted_one_is_not_found() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::new(folder.path().join("run"));
        let entry = store.create("a").unwrap();
        assert!(matches!(store.create("a"), Err(Error::AlreadyExists { .. })));
        assert!(matches!(entry.read(), Err(Error::NotFound { .. })));
        entry.remove().unwrap();
        assert!(matches!(store.open("a"), Err(Error::NotFound { .. })));
    }
}
