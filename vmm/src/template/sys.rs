//! The unsafe steps of templates.

use kvm_bindings::kvm_xsave;
use kvm_ioctls::VcpuFd;

/// Sets the floating-point state.
pub(super) fn set_xsave(vcpu: &VcpuFd, state: &kvm_xsave) -> Result<(), kvm_ioctls::Error> {
    // SAFETY: no feature whose state is larger than the structure is enabled for guests of this process (arch_prctl(2), ARCH_REQ_XCOMP_GUEST_PERM).
    unsafe { vcpu.set_xsave(state) }
}
