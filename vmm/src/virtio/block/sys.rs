//! Vectored file I/O straight to and from guest memory.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

use vm_memory::VolatileSlice;

/// Vectors that the kernel takes at once (UIO_MAXIOV).
const MAX_VECTORS: usize = 1024;

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

/// Reads from `offset` on what can be read without waiting for the medium; how many bytes. `WouldBlock` without any, `Unsupported` where
/// the file system cannot tell.
pub(super) fn read_ready(
    file: BorrowedFd<'_>,
    slices: &[VolatileSlice<'_>],
    offset: u64,
) -> io::Result<usize> {
    let guards: Vec<_> = slices.iter().map(VolatileSlice::ptr_guard_mut).collect();
    let vectors: Vec<libc::iovec> = guards
        .iter()
        .map(|guard| libc::iovec { iov_base: guard.as_ptr().cast(), iov_len: guard.len() })
        .collect();
    if vectors.len() > MAX_VECTORS {
        return Err(io::ErrorKind::WouldBlock.into());
    }
    // SAFETY: as in `read_at`.
    let count = unsafe {
        libc::preadv2(
            file.as_raw_fd(),
            vectors.as_ptr(),
            vectors.len() as i32,
            offset as i64,
            libc::RWF_NOWAIT,
        )
    };
    usize::try_from(count).map_err(|_| match io::Error::last_os_error() {
        error if error.raw_os_error() == Some(libc::EOPNOTSUPP) => io::ErrorKind::Unsupported.into(),
        error if error.kind() == io::ErrorKind::Interrupted => io::ErrorKind::WouldBlock.into(),
        error => error,
    })
}

/// Waits until `descriptor` can be read from.
pub(super) fn wait_readable(descriptor: &impl AsRawFd) -> io::Result<()> {
    let mut wanted = libc::pollfd { fd: descriptor.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one `pollfd`, which lives until the call returns.
    match unsafe { libc::poll(&raw mut wanted, 1, -1) } {
        count if count >= 0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
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
    let allocate = |mode| {
        // SAFETY: no pointer is passed.
        let result = unsafe {
            libc::fallocate(file.as_raw_fd(), libc::FALLOC_FL_KEEP_SIZE | mode, offset as i64, bytes as i64)
        };
        match result {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let cannot = |error: &io::Error| error.raw_os_error() == Some(libc::EOPNOTSUPP);
    match how {
        Punch::Free => match allocate(libc::FALLOC_FL_PUNCH_HOLE) {
            // A hint, which a file system without holes need not take.
            Err(error) if cannot(&error) => Ok(()),
            result => result,
        },
        Punch::Zero => {
            // Holes read as zeros too; where there are neither, zeros are written.
            for mode in [libc::FALLOC_FL_ZERO_RANGE, libc::FALLOC_FL_PUNCH_HOLE] {
                match allocate(mode) {
                    Err(error) if cannot(&error) => {}
                    result => return result,
                }
            }
            write_zeros(file, offset, bytes)
        }
    }
}

fn write_zeros(file: BorrowedFd<'_>, offset: u64, bytes: u64) -> io::Result<()> {
    static ZEROS: [u8; 64 << 10] = [0; 64 << 10];
    let mut done = 0;
    while done < bytes {
        let count = (bytes - done).min(ZEROS.len() as u64) as usize;
        // SAFETY: `count` is within the zeros.
        let written =
            unsafe { libc::pwrite(file.as_raw_fd(), ZEROS.as_ptr().cast(), count, (offset + done) as i64) };
        match usize::try_from(written) {
            Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
            Ok(written) => done += written as u64,
            Err(_) => match io::Error::last_os_error() {
                error if error.kind() == io::ErrorKind::Interrupted => {}
                error => return Err(error),
            },
        }
    }
    Ok(())
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
        let count = rest.len().min(MAX_VECTORS);
        let moved = call(&rest[..count], offset as i64);
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
