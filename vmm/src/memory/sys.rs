//! The one unsafe step of memory registration.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;

use crate::error::{Error, Result};

/// Gives KVM a region that lies within a mapping of [`super::GuestMemory`].
pub(super) fn set_region(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<()> {
    // SAFETY: address and size are those of a live mapping, and `Microvm` keeps the mapping until the VM's last vCPU has ended.
    unsafe { vm.set_user_memory_region(region) }.map_err(Error::kvm("register guest memory"))
}
