//! What a measurement owns on the host, so that the next one can remove what a killed one left.

use std::fs::{self, File};
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use rkvm_oci::state::is_at;

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
            match File::open(&folder).map(|file| Flock::lock(file, FlockArg::LockExclusiveNonblock)) {
                Ok(Ok(lock)) if is_at(&lock, &folder).unwrap_or(false) => {
                    return Ok(Self { name, folder, lock: Some(lock) });
                }
                // Another measurement took it for a dead one in this moment, and removes it or has done so.
                Ok(_) => number += 1,
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => number += 1,
                Err(error) => return Err(Error::file("open", folder, error)),
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
        // Otherwise it has been forgotten in between, and what has its name now is another one's.
        is_at(&lock, &folder).unwrap_or(false).then_some(Dead { name, folder, _lock: lock })
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
    fn one_that_begins_is_not_taken_for_a_dead_one() {
        let parent = tempfile::tempdir().unwrap();
        let done = std::sync::atomic::AtomicBool::new(false);
        let lost = std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(|| {
                    while !done.load(std::sync::atomic::Ordering::Relaxed) {
                        for dead in dead(parent.path()) {
                            dead.forget().unwrap();
                        }
                    }
                });
            }
            let begun = (0..500).map(|_| Session::begin(parent.path()));
            let lost =
                begun.filter(|session| !session.as_ref().is_ok_and(|new| new.folder().exists())).count();
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            lost
        });
        assert_eq!(lost, 0);
    }

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
