//! Owning a descriptor that came in a message.

use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// `fd` as its owner; it must have just been received.
pub fn own(fd: RawFd) -> OwnedFd {
    // SAFETY: the kernel has put a new descriptor into this process' table for the message, and nobody else knows its number.
    unsafe { OwnedFd::from_raw_fd(fd) }
}
