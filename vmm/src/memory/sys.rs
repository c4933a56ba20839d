//! The unsafe steps of guest memory: mapping, registration, release.

use std::fs::File;
use std::io;
use std::os::fd::AsRawFd as _;
use std::ptr;
use std::sync::atomic::{AtomicU8, Ordering};

use kvm_bindings::kvm_userspace_memory_region;
use kvm_ioctls::VmFd;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestRegionMmap, MmapRegion};

use super::GuestMemory;
use crate::config::HugePages;
use crate::error::{Error, Result};

/// Bytes of a huge page.
pub(crate) const HUGE_PAGE: usize = 2 << 20;
const PROTECTION: i32 = libc::PROT_READ | libc::PROT_WRITE;
const FLAGS: i32 = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_NORESERVE;

/// Maps `bytes` of zeros at a multiple of 2 MiB, for good.
pub(super) fn map(
    bytes: usize,
    huge_pages: HugePages,
) -> std::result::Result<MmapRegion, Box<dyn std::error::Error + Send + Sync>> {
    let area = bytes + HUGE_PAGE;
    // SAFETY: a new mapping at an address of the kernel's choice.
    let start = unsafe { libc::mmap(ptr::null_mut(), area, PROTECTION, FLAGS, -1, 0) };
    if start == libc::MAP_FAILED {
        return Err(io::Error::last_os_error().into());
    }
    let before = start.align_offset(HUGE_PAGE);
    let aligned = start.cast::<u8>().wrapping_add(before);
    // SAFETY: both ranges are parts of the mapping that has just been made, beside the one that is used.
    unsafe {
        if before > 0 {
            libc::munmap(start, before);
        }
        libc::munmap(aligned.add(bytes).cast(), HUGE_PAGE - before);
    }
    let advice = match huge_pages {
        HugePages::Transparent => libc::MADV_HUGEPAGE,
        HugePages::Never => libc::MADV_NOHUGEPAGE,
    };
    // SAFETY: the range is mapped. A kernel without huge pages refuses the advice, which changes nothing but speed.
    unsafe { libc::madvise(aligned.cast(), bytes, advice) };
    // SAFETY: the range is mapped with these flags and is never unmapped.
    unsafe { MmapRegion::build_raw(aligned, bytes, PROTECTION, FLAGS) }.map_err(Into::into)
}

/// Gives KVM a region that lies within a mapping of [`super::Ram`], or the devices' windows, which live as long as the machine.
pub(super) fn set_region(vm: &VmFd, region: kvm_userspace_memory_region) -> Result<()> {
    // SAFETY: address and size are those of a mapping that stays as long as the machine.
    unsafe { vm.set_user_memory_region(region) }.map_err(Error::kvm("register guest memory"))
}

/// Gives the pages of `region` back; it reads as zeros from now on.
pub(super) fn release(region: &GuestRegionMmap<()>) {
    // SAFETY: the range is mapped for good, and nobody refers to guest memory by Rust references.
    unsafe { libc::madvise(region.as_ptr().cast(), region.size(), libc::MADV_DONTNEED) };
}

/// Reads `bytes` at `offset` of `file` to `address`.
///
/// # Errors
/// They are not in one region, or not in the file.
pub(crate) fn read_at(
    memory: &GuestMemory,
    address: GuestAddress,
    bytes: usize,
    file: &File,
    offset: u64,
) -> io::Result<()> {
    let place = memory.get_slice(address, bytes).map_err(io::Error::other)?;
    let guard = place.ptr_guard_mut();
    let mut done = 0;
    while done < bytes {
        // SAFETY: the range is in a mapping that is never unmapped, and nobody refers to guest memory by Rust references.
        let count = unsafe {
            let to = guard.as_ptr().add(done).cast();
            libc::pread(file.as_raw_fd(), to, bytes - done, (offset + done as u64) as libc::off_t)
        };
        match count {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            count if count > 0 => done += count as usize,
            _ => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
}

/// Has the host back the page at `address`, whose content stays; nothing where no memory is.
pub(crate) fn touch(memory: &GuestMemory, address: GuestAddress) {
    let Ok(pointer) = memory.get_host_address(address) else { return };
    // SAFETY: the byte is in a mapping that is never unmapped, and a guest's memory is accessed by atomic or volatile operations alone.
    let byte = unsafe { AtomicU8::from_ptr(pointer) };
    // Writes on every processor what is there, and cannot be left out as an addition of 0 can. User mode's own access on purpose: madvise(2)
    // and read(2) hold the lock of the whole address space meanwhile.
    let _ = byte.compare_exchange(0, 0, Ordering::Relaxed, Ordering::Relaxed);
}
