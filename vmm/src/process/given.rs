//! The descriptors that the process is given: some when it is started, the others with the plan.

use std::os::fd::OwnedFd;

use rkvm_oci::{Error, Result};

use super::sys;

/// A descriptor that the process was started with.
///
/// # Errors
/// There is none of that number.
pub(super) fn inherited(number: i32) -> Result<OwnedFd> {
    sys::inherited(number)
        .map_err(|source| Error::failed("take over", format!("descriptor {number}"), source))
}

/// Those that came with the plan, by their places in it.
#[derive(Debug)]
pub(super) struct Given(Vec<Option<OwnedFd>>);

impl Given {
    pub(super) fn new(all: Vec<OwnedFd>) -> Self {
        Self(all.into_iter().map(Some).collect())
    }

    /// The one at `place`, which can be taken once.
    ///
    /// # Errors
    /// There is none.
    pub(super) fn take(&mut self, place: i32) -> Result<OwnedFd> {
        let slot = usize::try_from(place).ok().and_then(|place| self.0.get_mut(place));
        slot.and_then(Option::take).ok_or_else(|| {
            Error::failed("take over", format!("descriptor {place} of the plan"), nix::Error::EBADF)
        })
    }
}
