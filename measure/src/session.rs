//! What a measurement owns on the host, so that the next one can remove what a killed one left.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};

use crate::error::{Error, Result};

/// Label of every container that a measurement makes; its value is the session's name.
pub const LABEL: &str = "io.rkvm.compare";

/// A measurement's folder, locked for as long as it lives.
#[derive(Debug)]
pub struct Session {
    name: String,
    folder: PathBuf,
    lock: Option<Flock<File>>,
}

/// A folder whose measurement has ended without removing it.
#[derive(Debug)]
pub struct Dead {
    /// Name of the session.
    pub name: String,
    /// Its folder.
    pub folder: PathBuf,
    _lock: Flock<File>,
}

impl Session {
    /// A new one below `parent`.
    ///
    /// # Errors
    /// The folder cannot be made.
    pub fn begin(parent: &Path) -> Result<Self> {
        fs::create_dir_all(parent).map_err(|error| Error::file("create", parent, error))?;
        let mut number = 0_u32;
        loop {
            let name = format!("{}-{number}", std::process::id());
            let folder = parent.join(&name);
            match fs::create_dir(&folder) {
                Ok(()) => {}
                Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {
                    number += 1;
                    continue;
                }
                Err(error) => return Err(Error::file("create", folder, error)),
            }
            let lock = File::open(&folder).map_err(|error| Error::file("open", &folder, error))?;
            match Flock::lock(lock, FlockArg::LockExclusiveNonblock) {
                Ok(lock) => return Ok(Self { name, folder, lock: Some(lock) }),
                // Another measurement took it for a dead one in this moment, and removes it.
                Err(_) => number += 1,
            }
        }
    }

    /// Its name, the value of [`LABEL`].
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its folder.
    pub fn folder(&self) -> &Path {
        &self.folder
    }
}

impl Drop for Session {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.folder);
        drop(self.lock.take());
    }
}

/// Sessions below `parent` whose process is gone. Whoever gets one removes what it owned, then calls [`Dead::forget`].
pub fn dead(parent: &Path) -> Vec<Dead> {
    let entries = fs::read_dir(parent).into_iter().flatten().flatten();
    let dead = entries.filter_map(|entry| {
        let folder = entry.path();
        let name = entry.file_name().into_string().ok()?;
        let lock = Flock::lock(File::open(&folder).ok()?, FlockArg::LockExclusiveNonblock).ok()?;
        Some(Dead { name, folder, _lock: lock })
    });
    dead.collect()
}

impl Dead {
    /// Removes its folder.
    ///
    /// # Errors
    /// Something in it cannot be removed.
    pub fn forget(self) -> Result<()> {
        fs::remove_dir_all(&self.folder).map_err(|error| Error::file("remove", &self.folder, error))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_sessions_without_a_process_are_dead() {
        let parent = tempfile::tempdir().unwrap();
        let session = Session::begin(parent.path()).unwrap();
        assert!(dead(parent.path()).is_empty());
        let folder = session.folder().to_owned();
        drop(session);
        assert!(!folder.exists());
        fs::create_dir(parent.path().join("4194304-0")).unwrap();
        let found = dead(parent.path());
        assert_eq!(found.len(), 1);
        assert!(dead(parent.path()).is_empty(), "only one finds it");
        for one in found {
            one.forget().unwrap();
        }
        assert_eq!(fs::read_dir(parent.path()).unwrap().count(), 0);
    }
}
