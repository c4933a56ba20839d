//! Vectored file I/O straight to and from guest memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// What to do with a range of the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Punch {
    /// Its content is not needed any more.
    Free,
    /// It reads as zeros from now on.
    Zero,
}

/// Reads from `offset` until `slices` are full.
pub(super) fn read_at(file: BorrowedFd<'_>, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
    transfer(slices, offset, |vectors, offset| {
        // SAFETY: the vectors point into live guest memory (`VolatileSlice` borrows it), which is shared with
        // the guest and never referred to by a Rust reference; the kernel checks the rest.
        unsafe { libc::preadv(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, offset) }
    })
}

/// Writes all of `slices` from `offset` on.
pub(super) fn write_at(file: BorrowedFd<'_>, slices: &[VolatileSlice<'_>], offset: u64) -> io::Result<()> {
    transfer(slices, offset, |vectors, offset| {
        // SAFETY: as in `read_at`.
        unsafe { libc::pwritev(file.as_raw_fd(), vectors.as_ptr(), vectors.len() as i32, offset) }
    })
}

/// Frees or zeroes `bytes` from `offset` on.
pub(super) fn punch(file: BorrowedFd<'_>, how: Punch, offset: u64, bytes: u64) -> io::Result<()> {
    let mode = libc::FALLOC_FL_KEEP_SIZE
        | match how {
            Punch::Free => libc::FALLOC_FL_PUNCH_HOLE,
            Punch::Zero => libc::FALLOC_FL_ZERO_RANGE,
        };
    // SAFETY: no pointer is passed.
    let result = unsafe { libc::fallocate(file.as_raw_fd(), mode, offset as i64, bytes as i64) };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Repeats `call` until everything has been moved: a file system may move less than was asked for.
fn transfer(
    slices: &[VolatileSlice<'_>],
    offset: u64,
    call: impl Fn(&[libc::iovec], i64) -> isize,
) -> io::Result<()> {
    let guards: Vec<_> = slices.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let mut vectors: Vec<libc::iovec> = guards
        .iter()
        .filter(|guard| guard.len() > 0)
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
        .collect();
    let mut offset = offset;
    let mut rest = &mut vectors[..];
    while !rest.is_empty() {
        let moved = call(rest, offset as i64);
        let mut moved = match usize::try_from(moved) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(moved) => moved,
            Err(_) => {
                let error = io::Error::last_os_error();
                if error.kind() == io::ErrorKind::Interrupted {
                    continue;
                }
                return Err(error);
            }
        };
        offset += moved as u64;
        while let Some(first) = rest.first_mut() {
            if moved < first.iov_len {
                // SAFETY: `moved` is less than the vector's length, so the pointer stays within it.
                first.iov_base = unsafe { first.iov_base.cast::<u8>().add(moved) }.cast();
                first.iov_len -= moved;
                break;
            }
            moved -= first.iov_len;
            rest = &mut rest[1..];
        }
    }
    Ok(())
}
