//! What the host's side of a disk reports to the host: a guest sees only that a request failed.

use std::io::{self, Write as _};
use std::path::PathBuf;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

/// Reports of one disk, ever: the guest can cause as many errors as it likes.
const MAX_REPORTS: u32 = 8;

/// A failure of the medium, with what to do about it.
#[derive(Debug, thiserror::Error)]
pub enum DiskTrouble {
    /// The host's file system, or the owner's share of it, is full.
    #[error("the host has no space left for the disk {disk}: the guest's writes fail until there is some")]
    Full {
        /// The disk's file.
        disk: PathBuf,
        /// What the host says.
        #[source]
        source: io::Error,
    },
    /// The file has become shorter than it was when the machine started.
    #[error("the disk {disk} has been cut off while it was in use: reading its end fails")]
    CutOff {
        /// The disk's file.
        disk: PathBuf,
    },
    /// Any other failure.
    #[error("the disk {disk} fails: the guest sees I/O errors")]
    Failed {
        /// The disk's file.
        disk: PathBuf,
        /// What the host says.
        #[source]
        source: io::Error,
    },
}

/// Who is told of [`DiskTrouble`].
pub type OnTrouble = Box<dyn Fn(DiskTrouble) + Send + Sync>;

pub(crate) struct Reports {
    disk: PathBuf,
    left: AtomicU32,
    tell: OnceLock<OnTrouble>,
}

impl std::fmt::Debug for Reports {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Reports").field("disk", &self.disk).finish_non_exhaustive()
    }
}

impl Reports {
    pub(super) fn new(disk: PathBuf) -> Self {
        Self { disk, left: AtomicU32::new(MAX_REPORTS), tell: OnceLock::new() }
    }

    pub(super) fn tell_to(&self, tell: OnTrouble) {
        let _ = self.tell.set(tell);
    }

    /// Reports `error` of a request that was in order.
    pub(super) fn report(&self, source: io::Error) {
        let left = self.left.try_update(Ordering::Relaxed, Ordering::Relaxed, |left| left.checked_sub(1));
        if left.is_err() {
            return;
        }
        let disk = self.disk.clone();
        let trouble = match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => DiskTrouble::Full { disk, source },
            io::ErrorKind::UnexpectedEof => DiskTrouble::CutOff { disk },
            _ => DiskTrouble::Failed { disk, source },
        };
        match self.tell.get() {
            Some(tell) => tell(trouble),
            None => {
                let _ = writeln!(io::stderr(), "{trouble}");
            }
        }
    }
}
