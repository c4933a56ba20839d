//! Guest memory: anonymous, taken from the host only as the guest touches it.

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, MemoryRegionAddress};

use crate::arch::x86_64::layout;
use crate::error::{Error, Result};

/// The guest's RAM.
pub type GuestMemory = GuestMemoryMmap<()>;

/// Maps `memory_mib` MiB: below the gap for devices, and what is left above 4 GiB.
///
/// # Errors
/// The host has no address space for it.
pub fn map(memory_mib: u32) -> Result<GuestMemory> {
    let bytes = u64::from(memory_mib) << 20;
    let low = bytes.min(layout::MMIO_GAP_START);
    let mut ranges = vec![(GuestAddress(0), low as usize)];
    if bytes > low {
        ranges.push((GuestAddress(layout::HIGH_RAM_START), (bytes - low) as usize));
    }
    GuestMemory::from_ranges(&ranges)
        .map_err(|source| Error::MapMemory { memory_mib, source: Box::new(source) })
}

/// Tells KVM of the guest's memory.
///
/// To be called before the interrupt controller is made: after it, KVM waits for a grace period (milliseconds) a region.
///
/// # Errors
/// KVM refuses a region.
pub fn register(vm: &VmFd, memory: &GuestMemory) -> Result<()> {
    for (slot, region) in memory.iter().enumerate() {
        let host =
            region.get_host_address(MemoryRegionAddress(0)).map_err(Error::write("a memory region"))?;
        let region = kvm_userspace_memory_region {
            slot: slot as u32,
            flags: 0,
            guest_phys_addr: region.start_addr().0,
            memory_size: region.len(),
            userspace_addr: host as u64,
        };
        sys::set_region(vm, region)?;
    }
    Ok(())
}

mod sys;
