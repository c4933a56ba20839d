//! Descriptors that have served: closed together, by the one call that closes everything before the program is executed.
//!
//! A start opens a hundred. Closing each is a system call, which costs next to nothing on hardware and 0.013 ms in a microVM on a host without
//! hardware virtualization, where this code runs too.

use std::cell::RefCell;
use std::os::fd::{AsRawFd, BorrowedFd, IntoRawFd, OwnedFd};

use rkvm_linux::sys::{fs, process};
use rkvm_oci::{Error, Result};

/// Gives another descriptor in the place of one; `None` when that stays.
pub type Change<'a> = dyn FnMut(BorrowedFd<'_>) -> Result<Option<OwnedFd>> + 'a;

/// The highest number that is kept: enough for the mounts of any image, far from the usual limit of 1024.
const LAST: u64 = 255;

/// The descriptors.
#[derive(Debug)]
pub struct Leftovers {
    kept: RefCell<Vec<OwnedFd>>,
    last: u64,
}

impl Leftovers {
    /// None yet. As many may be kept as leave half of the numbers that this process may use (RLIMIT_NOFILE).
    pub fn new() -> Self {
        let limit = process::rlimit(libc::RLIMIT_NOFILE as _).map_or(0, |(soft, _)| soft / 2);
        Self { kept: RefCell::default(), last: limit.min(LAST) }
    }

    /// Keeps `fd` until the end, or closes it where that would leave little room.
    pub fn add(&self, fd: OwnedFd) {
        if fd.as_raw_fd() as u64 <= self.last {
            self.kept.borrow_mut().push(fd);
        }
    }

    /// Closes every descriptor but those below `first` and the `count` that `holders` holds, which become `first` and up.
    ///
    /// # Errors
    /// No descriptor is free, or a kernel before 5.9.
    pub fn keep_only(
        self,
        first: i32,
        count: i32,
        holders: &mut dyn FnMut(&mut Change<'_>, &Self) -> Result<()>,
    ) -> Result<()> {
        let error = |source| Error::failed("close", "the runtime's descriptors", source);
        let end = first + count;
        let mut next = first;
        let mut above = |fd: BorrowedFd<'_>| fs::copy_above(fd, end).map_err(error);
        let mut place = |fd: BorrowedFd<'_>| {
            next += 1;
            fs::dup_to_cloexec(fd, next - 1).map(Some).map_err(error)
        };
        // Out of the way first, so that none is overwritten by another on its way down.
        let placed = holders(&mut above, &self).and_then(|()| holders(&mut place, &self));
        // Their numbers may have new owners by now, also when not all have been placed.
        for fd in self.kept.into_inner() {
            let _ = fd.into_raw_fd();
        }
        placed?;
        fs::close_from(end as u32).map_err(error)
    }
}

#[cfg(test)]
mod tests {
    use std::fs::File;

    use super::*;

    #[test]
    fn high_numbers_are_closed_at_once() {
        let left = Leftovers { last: 40, ..Leftovers::new() };
        let open: Vec<OwnedFd> = (0..60).map(|_| File::open("/dev/null").unwrap().into()).collect();
        let numbers: Vec<i32> = open.iter().map(AsRawFd::as_raw_fd).collect();
        open.into_iter().for_each(|fd| left.add(fd));
        let kept: Vec<i32> = left.kept.borrow().iter().map(AsRawFd::as_raw_fd).collect();
        assert_eq!(kept, numbers.into_iter().filter(|number| *number <= 40).collect::<Vec<_>>());
    }
}
