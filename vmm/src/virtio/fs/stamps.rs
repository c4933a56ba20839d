//! Whether a file has changed since the guest last opened it.

use std::sync::{Mutex, PoisonError};

use virtiofsd::fuse::Attr;

/// Files that are remembered; those that fall on the same place push each other out, which costs the guest a re-read.
const PLACES: usize = 4096;

/// What changes when a file's content does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    mtime: (u64, u32),
    ctime: (u64, u32),
}

/// The stamps of the files that were opened last, in bounded memory.
#[derive(Debug)]
pub(super) struct Stamps {
    places: Vec<Mutex<Option<Stamp>>>,
}

impl Stamps {
    /// No file has been opened.
    pub(super) fn new() -> Self {
        Self { places: std::iter::repeat_with(Mutex::default).take(PLACES).collect() }
    }

    /// Notes that `inode`, which looks like `attr`, is opened: whether it looked the same at the opening before, so that what the guest
    /// has read since is still right. Inode numbers of the server are never used twice.
    pub(super) fn same_as_before(&self, inode: u64, attr: &Attr) -> bool {
        let stamp = Stamp {
            inode,
            size: attr.size,
            mtime: (attr.mtime, attr.mtimensec),
            ctime: (attr.ctime, attr.ctimensec),
        };
        let place = &self.places[(inode % PLACES as u64) as usize];
        let before = place.lock().unwrap_or_else(PoisonError::into_inner).replace(stamp);
        before == Some(stamp)
    }
}
