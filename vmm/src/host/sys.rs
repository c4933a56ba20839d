//! Gives a descriptor to kvm-ioctls.

use std::os::fd::{FromRawFd, IntoRawFd, OwnedFd};

use kvm_ioctls::Kvm;

/// `descriptor` as KVM's; calls on one that is not fail.
pub(super) fn kvm(descriptor: OwnedFd) -> Kvm {
    // SAFETY: the descriptor is open and now owned by the result alone.
    unsafe { Kvm::from_raw_fd(descriptor.into_raw_fd()) }
}
