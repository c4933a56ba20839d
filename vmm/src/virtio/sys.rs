//! Vectored I/O straight to and from guest memory, and giving that memory back to the host.

use std::io;
use std::os::fd::AsRawFd;

use vm_memory::VolatileSlice;

/// Vectors that the kernel takes at once (UIO_MAXIOV).
pub(super) const MAX_VECTORS: usize = 1024;

/// Reads from a tap, socket or terminal into `slices`, of which the first [`MAX_VECTORS`] count: one packet, or what there is.
pub(super) fn read_into(source: &impl AsRawFd, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    with_vectors(slices, |vectors| {
        // SAFETY: the vectors point into live guest memory (`VolatileSlice` borrows it), shared with the guest and
        // never referred to by a Rust reference.
        unsafe { libc::readv(source.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32) }
    })
}

/// Writes `slices`, of which the first [`MAX_VECTORS`] count: as one packet, or as much as fits.
pub(super) fn write_from(sink: &impl AsRawFd, slices: &[VolatileSlice<'_>]) -> io::Result<usize> {
    with_vectors(slices, |vectors| {
        // SAFETY: as in `read_into`.
        unsafe { libc::writev(sink.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32) }
    })
}

fn with_vectors(slices: &[VolatileSlice<'_>], call: impl Fn(&[libc::iovec]) -> isize) -> io::Result<usize> {
    let guards: Vec<_> = slices.iter().take(MAX_VECTORS).map(VolatileSlice::ptr_guard_mut).collect();
    let vectors: Vec<libc::iovec> = guards
        .iter()
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
        .collect();
    loop {
        match usize::try_from(call(&vectors)) {
            Ok(count) => return Ok(count),
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() != io::ErrorKind::Interrupted {
                    return Err(error);
                }
            }
        }
    }
}

/// Gives the whole host pages within `slice`, which is guest memory, back to the host. They read as zeros from then on.
pub(super) fn release(slice: &VolatileSlice<'_>) -> io::Result<()> {
    const PAGE: usize = 4096;
    let guard = slice.ptr_guard_mut();
    let start = guard.as_ptr().align_offset(PAGE);
    let Some(bytes) = guard.len().checked_sub(start).map(|bytes| bytes & !(PAGE - 1)) else { return Ok(()) };
    if bytes == 0 {
        return Ok(());
    }
    // SAFETY: the range is within the slice, so within the mapping of guest memory, which no Rust reference points into; its content
    // is the guest's to lose.
    let result = unsafe { libc::madvise(guard.as_ptr().add(start).cast(), bytes, libc::MADV_DONTNEED) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Makes reads and writes of `descriptor`, and of all that share it, return instead of waiting.
pub(super) fn set_non_blocking(descriptor: &impl AsRawFd) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    let flags = unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: no pointer is passed.
    match unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
