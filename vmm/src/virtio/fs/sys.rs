//! System calls that neither the standard library nor virtiofsd's library offers.

use std::io;

use vhost_user_backend::bitmap::BitmapMmapRegion;
use vm_memory::{GuestMemoryBackend, GuestMemoryRegion, MemoryRegionAddress};
use vm_memory_fs::mmap::{MmapRegionBuilder, NewBitmap};
use vm_memory_fs::{GuestAddress, GuestRegionMmap};

use crate::memory::GuestMemory;

/// Guest memory in the types of the file server, which is built with another version of `vm-memory`.
pub(super) type FsMemory = vm_memory_fs::GuestMemoryMmap<BitmapMmapRegion>;

/// The same guest memory in the file server's types, and what keeps it mapped.
#[derive(Debug)]
pub(super) struct MemoryView {
    view: FsMemory,
    /// The mapping that `view` looks at.
    _mapping: GuestMemory,
}

impl MemoryView {
    /// A view of `memory`.
    pub(super) fn new(memory: GuestMemory) -> io::Result<Self> {
        let regions = memory.iter().map(|region| {
            let start = region.get_host_address(MemoryRegionAddress(0)).map_err(io::Error::other)?;
            let bytes = usize::try_from(region.len()).map_err(io::Error::other)?;
            let builder = MmapRegionBuilder::new_with_bitmap(bytes, BitmapMmapRegion::with_len(bytes))
                .with_mmap_prot(libc::PROT_READ | libc::PROT_WRITE)
                .with_mmap_flags(libc::MAP_PRIVATE | libc::MAP_ANONYMOUS);
            // SAFETY: start and size are those of a region that `_mapping` keeps mapped for as long as the view exists; the view's
            // region does not own the mapping and does not unmap it.
            let mapped = unsafe { builder.with_raw_mmap_pointer(start) }.build().map_err(io::Error::other)?;
            GuestRegionMmap::new(mapped, GuestAddress(region.start_addr().0))
                .ok_or_else(|| io::ErrorKind::InvalidInput.into())
        });
        let view = FsMemory::from_regions(regions.collect::<io::Result<_>>()?).map_err(io::Error::other)?;
        Ok(Self { view, _mapping: memory })
    }

    /// The view.
    pub(super) fn get(&self) -> &FsMemory {
        &self.view
    }
}

/// Raises the limit of open files to the most that this process may have, and tells it.
pub(super) fn raise_descriptor_limit() -> io::Result<u64> {
    /// What other servers of this kind ask for; each descriptor is memory of the host's kernel.
    const ENOUGH: u64 = 1 << 20;
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: the structure outlives the call.
    if unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &raw mut limit) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // The hard limit takes a privilege that a jailed process lacks; the soft one may be raised to it by anyone.
    for wanted in [ENOUGH, limit.rlim_max.min(ENOUGH)] {
        let raised = libc::rlimit { rlim_cur: wanted, rlim_max: limit.rlim_max.max(wanted) };
        if wanted <= limit.rlim_cur {
            break;
        }
        // SAFETY: as above.
        let done = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &raw const raised) };
        if done == 0 {
            return Ok(wanted);
        }
    }
    Ok(limit.rlim_cur)
}

/// Calls `make`, which clears the process's umask, and sets the umask back.
pub(super) fn keep_umask<T>(make: impl FnOnce() -> T) -> T {
    // SAFETY: `umask` cannot fail and touches no memory.
    let before = unsafe { libc::umask(0o077) };
    let made = make();
    // SAFETY: as above.
    unsafe { libc::umask(before) };
    made
}

/// Gives this thread a working directory and a umask of its own. The server changes directory for files that it cannot open, and the
/// guest's kernel has applied its process's umask already.
pub(super) fn leave_process_directory() -> io::Result<()> {
    // SAFETY: no memory is shared through `CLONE_FS`.
    if unsafe { libc::unshare(libc::CLONE_FS) } != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: `umask` cannot fail and touches no memory.
    unsafe { libc::umask(0) };
    Ok(())
}

/// Processor time that `thread` has taken so far.
#[cfg(test)]
pub(super) fn thread_time<T>(thread: &std::thread::JoinHandle<T>) -> std::time::Duration {
    use std::os::unix::thread::JoinHandleExt as _;
    let mut clock = 0;
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: the thread has not been joined, and both results outlive the calls.
    let done = unsafe {
        libc::pthread_getcpuclockid(thread.as_pthread_t(), &raw mut clock) == 0
            && libc::clock_gettime(clock, &raw mut time) == 0
    };
    assert!(done, "the clock of a thread that runs");
    std::time::Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}
