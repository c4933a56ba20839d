//! Keeps set-user-id, set-group-id and file capabilities through overlayfs' copy-up.
//!
//! A change of owner takes them away: the guest's kernel leaves that to us, and the host's kernel does it at every `chown(2)`. But
//! when overlayfs in the guest copies a program up, it sets capabilities, the size it has already, the mode, and then the owner,
//! and on a local file system each step keeps the others. Both send the same message. So what root has given a file is given back if root changes the
//! owner right afterwards and nothing else has happened to the file: root could as well have done it in the other order.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How far apart the steps of a copy-up may be; a user who changes mode and owner by hand is slower.
const LIMIT: Duration = Duration::from_secs(1);
/// Files that are remembered at once; more copy-ups at the same moment push each other out.
const PLACES: usize = 64;

/// What a file has been given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// The mode, if it has set-user-id or set-group-id.
    pub(super) mode: Option<u32>,
    /// The attribute `security.capability`.
    pub(super) capability: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Note {
    inode: u64,
    at: Instant,
    given: Given,
}

/// What root has given to files a moment ago.
#[derive(Debug)]
pub(super) struct Privileges {
    places: [Mutex<Option<Note>>; PLACES],
}

impl Privileges {
    /// Nothing has been given.
    pub(super) fn new() -> Self {
        Self { places: std::array::from_fn(|_| Mutex::new(None)) }
    }

    /// Root has set the mode of `inode`.
    pub(super) fn mode(&self, inode: u64, mode: u32) {
        let privileged = mode & (libc::S_ISUID | libc::S_ISGID) != 0;
        self.note(inode, |given| given.mode = privileged.then_some(mode & 0o7777));
    }

    /// Root has set the file capabilities of `inode`.
    pub(super) fn capability(&self, inode: u64, value: &[u8]) {
        self.note(inode, |given| given.capability = Some(value.to_vec()));
    }

    /// Something else has happened to `inode`, or its owner changes: what it has been given until now.
    pub(super) fn take(&self, inode: u64) -> Option<Given> {
        let mut place = self.place(inode);
        let note = place.take_if(|note| note.inode == inode)?;
        (note.at.elapsed() < LIMIT).then_some(note.given)
    }

    fn note(&self, inode: u64, change: impl FnOnce(&mut Given)) {
        let before = self.take(inode);
        let mut given = before.unwrap_or(Given { mode: None, capability: None });
        change(&mut given);
        if given.mode.is_some() || given.capability.is_some() {
            *self.place(inode) = Some(Note { inode, at: Instant::now(), given });
        }
    }

    fn place(&self, inode: u64) -> MutexGuard<'_, Option<Note>> {
        self.places[(inode % PLACES as u64) as usize].lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, reason = "tests")]
    use super::*;

    #[test]
    fn gives_back_once_and_only_to_the_same_file() {
        let privileges = Privileges::new();
        privileges.capability(7, b"capability");
        privileges.mode(7, 0o104_711);
        assert_eq!(privileges.take(7 + PLACES as u64), None, "another file in the same place");
        let given = Given { mode: Some(0o4711), capability: Some(b"capability".to_vec()) };
        assert_eq!(privileges.take(7), Some(given));
        assert_eq!(privileges.take(7), None);
    }

    #[test]
    fn a_mode_without_the_bits_takes_back_what_a_mode_with_them_gave() {
        let privileges = Privileges::new();
        privileges.mode(7, 0o4711);
        privileges.mode(7, 0o711);
        assert_eq!(privileges.take(7), None);
    }
}
