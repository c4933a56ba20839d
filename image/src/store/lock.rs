//! Locks between commands. All are `flock` on a file that stays, so a killed command leaves none held.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::path::Path;

use rustix::fs::{FlockOperation, flock};

use crate::error::{Error, Result};

/// A held lock; dropping it releases it.
#[derive(Debug)]
pub(crate) struct Lock {
    _file: File,
}

impl Lock {
    /// Waits for the lock beside others that share it.
    pub(crate) fn shared(path: &Path) -> Result<Self> {
        Self::wait(path, FlockOperation::LockShared)
    }

    /// Waits until nobody else holds it.
    pub(crate) fn exclusive(path: &Path) -> Result<Self> {
        Self::wait(path, FlockOperation::LockExclusive)
    }

    /// Takes it if nobody else holds it.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        let file = open(path)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Self { _file: file })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(errno) => Err(Error::io("lock", path)(errno.into())),
        }
    }

    fn wait(path: &Path, operation: FlockOperation) -> Result<Self> {
        let file = open(path)?;
        rustix::io::retry_on_intr(|| flock(&file, operation))
            .map_err(|errno| Error::io("lock", path)(errno.into()))?;
        Ok(Self { _file: file })
    }
}

fn open(path: &Path) -> Result<File> {
    let attempt = || OpenOptions::new().write(true).create(true).truncate(false).open(path);
    match attempt() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            let parent = path.parent().unwrap_or(Path::new("."));
            fs::create_dir_all(parent).map_err(Error::io("create", parent))?;
            attempt().map_err(Error::io("open", path))
        }
        other => other.map_err(Error::io("open", path)),
    }
}
