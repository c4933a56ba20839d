//! Keeps set-user-id, set-group-id and file capabilities through overlayfs' copy-up.
//!
//! A change of owner takes them away: the guest's kernel leaves that to us, and the host's kernel does it at every `chown(2)`. But
//! when overlayfs in the guest copies a program up, it sets capabilities, the size it has already, the mode, and then the owner,
//! and on a local file system each step keeps the others. Both send the same messages. What tells them apart is the file: overlayfs
//! makes it with MKNOD, which no program uses for regular files, under a name that begins with `#`, and moves it to its place when
//! it is complete. Until then it keeps what root gives it.

use std::collections::VecDeque;
use std::ffi::{CStr, CString};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

/// Copies that are remembered at once; a guest that makes more loses the bits of the oldest.
const LIMIT: usize = 64;

/// What a file has been given.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Given {
    /// The mode, if it has set-user-id or set-group-id.
    pub(super) mode: Option<u32>,
    /// The attribute `security.capability`.
    pub(super) capability: Option<Vec<u8>>,
}

#[derive(Debug)]
struct Copy {
    inode: u64,
    parent: u64,
    name: CString,
    given: Given,
}

/// Files that an overlay in the guest is copying up.
#[derive(Debug, Default)]
pub(super) struct Privileges {
    copies: Mutex<VecDeque<Copy>>,
    /// How many there are; almost always none, which then costs nothing.
    count: AtomicUsize,
}

impl Privileges {
    /// Root has made `inode` as `name` in `parent`, with MKNOD.
    pub(super) fn made(&self, inode: u64, parent: u64, name: &CStr, mode: u32) {
        if mode & libc::S_IFMT != libc::S_IFREG || !is_temporary(name) {
            return;
        }
        let mut copies = self.lock();
        copies.retain(|copy| copy.inode != inode);
        if copies.len() == LIMIT {
            copies.pop_front();
        }
        copies.push_back(Copy { inode, parent, name: name.to_owned(), given: Given::default() });
        self.count.store(copies.len(), Ordering::Release);
    }

    /// Root has set the mode of `inode`.
    pub(super) fn mode(&self, inode: u64, mode: u32) {
        let privileged = mode & (libc::S_ISUID | libc::S_ISGID) != 0;
        self.change(inode, |given| given.mode = privileged.then_some(mode & 0o7777));
    }

    /// Root has set the file capabilities of `inode`.
    pub(super) fn capability(&self, inode: u64, value: &[u8]) {
        self.change(inode, |given| given.capability = Some(value.to_vec()));
    }

    /// The content of `inode` has changed, or somebody else has changed it: it has been given nothing.
    pub(super) fn lost(&self, inode: u64) {
        self.change(inode, |given| *given = Given::default());
    }

    /// What `inode` has been given, if anything.
    pub(super) fn given(&self, inode: u64) -> Option<Given> {
        let mut found = None;
        self.change(inode, |given| found = Some(given.clone()));
        found.filter(|given| *given != Given::default())
    }

    /// `name` in `parent` is moved elsewhere or removed: the copy is complete.
    pub(super) fn moved(&self, parent: u64, name: &CStr) {
        if is_temporary(name) {
            self.forget(|copy| copy.parent == parent && *copy.name == *name);
        }
    }

    /// `inode` gets another name: the copy is complete.
    pub(super) fn linked(&self, inode: u64) {
        self.forget(|copy| copy.inode == inode);
    }

    fn change(&self, inode: u64, change: impl FnOnce(&mut Given)) {
        if self.count.load(Ordering::Acquire) > 0
            && let Some(copy) = self.lock().iter_mut().find(|copy| copy.inode == inode)
        {
            change(&mut copy.given);
        }
    }

    fn forget(&self, which: impl Fn(&Copy) -> bool) {
        if self.count.load(Ordering::Acquire) > 0 {
            let mut copies = self.lock();
            copies.retain(|copy| !which(copy));
            self.count.store(copies.len(), Ordering::Release);
        }
    }

    fn lock(&self) -> MutexGuard<'_, VecDeque<Copy>> {
        self.copies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether overlayfs names what it is making so.
fn is_temporary(name: &CStr) -> bool {
    name.to_bytes().first() == Some(&b'#')
}

#[cfg(test)]
mod tests {
    use super::*;

    const REGULAR: u32 = libc::S_IFREG | 0o600;

    fn copying() -> Privileges {
        let privileges = Privileges::default();
        privileges.made(7, 1, c"#1f", REGULAR);
        privileges.capability(7, b"capability");
        privileges.mode(7, libc::S_IFREG | 0o4711);
        privileges
    }

    #[test]
    fn gives_back_until_the_copy_is_in_its_place() {
        let given = Given { mode: Some(0o4711), capability: Some(b"capability".to_vec()) };
        let privileges = copying();
        assert_eq!(privileges.given(7), Some(given.clone()));
        assert_eq!(privileges.given(8), None);
        privileges.moved(2, c"#1f");
        privileges.moved(1, c"#2");
        assert_eq!(privileges.given(7), Some(given));
        privileges.moved(1, c"#1f");
        assert_eq!(privileges.given(7), None);
        let linked = copying();
        linked.linked(7);
        assert_eq!(linked.given(7), None);
    }

    #[test]
    fn a_change_of_content_loses_it() {
        let privileges = copying();
        privileges.lost(7);
        assert_eq!(privileges.given(7), None);
    }

    #[test]
    fn files_of_programs_are_not_concerned() {
        let privileges = Privileges::default();
        privileges.made(7, 1, c"program", REGULAR);
        privileges.made(8, 1, c"#fifo", libc::S_IFIFO);
        for inode in [7, 8, 9] {
            privileges.mode(inode, 0o4711);
            assert_eq!(privileges.given(inode), None);
        }
    }

    #[test]
    fn a_guest_that_copies_without_end_takes_no_memory() {
        let privileges = Privileges::default();
        for inode in 0..10_000 {
            privileges.made(inode, 1, c"#x", REGULAR);
            privileges.mode(inode, 0o4711);
        }
        assert_eq!(privileges.lock().len(), LIMIT);
        assert_eq!(privileges.given(9_999), Some(Given { mode: Some(0o4711), capability: None }));
    }
}
