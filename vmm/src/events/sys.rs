//! Lends a descriptor whose type has no `AsFd`.

use std::os::fd::{BorrowedFd, RawFd};

use vmm_sys_util::eventfd::EventFd;

/// `raw`, which belongs to `owner`.
pub(crate) fn borrow(_owner: &EventFd, raw: RawFd) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is `owner`'s and the result's lifetime is that of the borrow of `owner`.
    unsafe { BorrowedFd::borrow_raw(raw) }
}
