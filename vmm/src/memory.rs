//! Guest memory: anonymous, taken from the host only as the guest touches it.

use kvm_bindings::{KVM_MEM_READONLY, kvm_userspace_memory_region};
use kvm_ioctls::{Cap, VmFd};
use vm_memory::{
    Address, GuestAddress, GuestMemoryBackend, GuestMemoryMmap, GuestMemoryRegion, GuestRegionMmap,
    MemoryRegionAddress,
};

use crate::arch::x86_64::layout;
use crate::config::HugePages;
use crate::error::{Error, Result};
use crate::virtio::window::Windows;

/// The guest's RAM as devices use it.
pub type GuestMemory = GuestMemoryMmap<()>;

/// End of the memory below the gap for devices.
pub(crate) fn low_end(memory: &GuestMemory) -> u64 {
    memory.iter().next().map_or(1, |region| region.last_addr().raw_value() + 1)
}

/// Where `region` begins in this process.
///
/// # Errors
/// It has no beginning.
pub(crate) fn place(region: &GuestRegionMmap<()>) -> Result<u64> {
    let host = region.get_host_address(MemoryRegionAddress(0));
    host.map(|host| host as u64).map_err(Error::write("a memory region"))
}

/// Owner of the guest's RAM: gives its pages back when it is dropped. The addresses stay reserved, because a device may still hold
/// a [`GuestMemory`]; a process that runs one machine ends with it anyway.
#[derive(Debug)]
pub struct Ram {
    memory: GuestMemory,
}

impl Ram {
    /// Maps `memory_mib` MiB: below the gap for devices, and what is left above 4 GiB. Each region begins at a multiple of 2 MiB in
    /// this process too, so that a huge page of the host backs a huge page of the guest.
    ///
    /// # Errors
    /// The host has no address space for it.
    pub fn map(memory_mib: u32, huge_pages: HugePages) -> Result<Self> {
        let error =
            |source: Box<dyn std::error::Error + Send + Sync>| Error::MapMemory { memory_mib, source };
        let bytes = u64::from(memory_mib) << 20;
        let low = bytes.min(layout::MMIO_GAP_START);
        let mut ranges = vec![(0, low)];
        if bytes > low {
            ranges.push((layout::HIGH_RAM_START, bytes - low));
        }
        let mut regions = Vec::with_capacity(ranges.len());
        for (start, bytes) in ranges {
            let mapping = sys::map(bytes as usize, huge_pages).map_err(error)?;
            let region = GuestRegionMmap::new(mapping, GuestAddress(start));
            regions.push(region.ok_or_else(|| error("the region ends beyond the address space".into()))?);
        }
        let memory = GuestMemory::from_regions(regions).map_err(|source| error(source.into()))?;
        Ok(Self { memory })
    }

    /// The RAM, to be shared with devices.
    pub fn memory(&self) -> &GuestMemory {
        &self.memory
    }

    /// Tells KVM of the guest's memory.
    ///
    /// To be called before the interrupt controller is made: after it, KVM waits for a grace period (milliseconds) a region.
    ///
    /// # Errors
    /// KVM refuses a region.
    pub fn register(&self, vm: &VmFd) -> Result<()> {
        for (slot, region) in self.memory.iter().enumerate() {
            let region = kvm_userspace_memory_region {
                slot: slot as u32,
                flags: 0,
                guest_phys_addr: region.start_addr().0,
                memory_size: region.len(),
                userspace_addr: place(region)?,
            };
            sys::set_region(vm, region)?;
        }
        Ok(())
    }
}

/// Lets the guest read the registers of its devices without an exit. Writes to them exit as if nothing were there.
///
/// As [`Ram::register`], to be called before the interrupt controller is made.
///
/// # Errors
/// KVM refuses the region.
pub fn show_windows(vm: &VmFd, windows: &Windows) -> Result<Shown> {
    if !vm.check_extension(Cap::ReadonlyMem) {
        return Ok(Shown::No);
    }
    let (host, bytes) = windows.place();
    let region = kvm_userspace_memory_region {
        slot: WINDOWS_SLOT,
        flags: KVM_MEM_READONLY,
        guest_phys_addr: layout::VIRTIO_MMIO_START,
        memory_size: bytes as u64,
        userspace_addr: host as u64,
    };
    sys::set_region(vm, region).map(|()| Shown::Yes)
}

/// Whether the guest reads registers without an exit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shown {
    /// It does.
    Yes,
    /// KVM has no read-only memory: each read exits.
    No,
}

/// Behind those of [`Ram`].
const WINDOWS_SLOT: u32 = 2;

impl Drop for Ram {
    fn drop(&mut self) {
        self.memory.iter().for_each(sys::release);
    }
}

pub mod ahead;
mod sys;

pub(crate) use sys::{HUGE_PAGE, read_at, touch};
