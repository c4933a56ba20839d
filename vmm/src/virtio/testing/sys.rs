//! Guest memory whose surroundings cannot be touched: an access beyond its end ends the test, and system calls that are given
//! such an address fail.

use vm_memory::{GuestAddress, GuestRegionMmap, MmapRegion};

use crate::memory::GuestMemory;

const GUARD: usize = 1 << 20;

/// Memory of `ranges` (start, end), for the process's life.
pub(super) fn memory(ranges: &[(u64, u64)]) -> GuestMemory {
    let region = |(start, end): &(u64, u64)| {
        let bytes = (end - start) as usize;
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: a new mapping at an address of the kernel's choice.
        let area =
            unsafe { libc::mmap(std::ptr::null_mut(), bytes + 2 * GUARD, libc::PROT_NONE, flags, -1, 0) };
        assert_ne!(area, libc::MAP_FAILED);
        // SAFETY: within the mapping that has just been made, which is never unmapped.
        let region = unsafe {
            let middle = area.cast::<u8>().add(GUARD);
            assert_eq!(libc::mprotect(middle.cast(), bytes, protection), 0);
            MmapRegion::build_raw(middle, bytes, protection, flags).unwrap()
        };
        GuestRegionMmap::new(region, GuestAddress(*start)).unwrap()
    };
    GuestMemory::from_regions(ranges.iter().map(region).collect()).unwrap()
}
