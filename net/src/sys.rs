//! The one system call that no safe wrapper offers.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// Asks for the kernel's own words with every error (netlink(7), `NETLINK_EXT_ACK`), and for errors without a copy of
/// the request (`NETLINK_CAP_ACK`).
pub(crate) fn extended_acknowledgements(socket: BorrowedFd<'_>) -> io::Result<()> {
    let on: libc::c_int = 1;
    for option in [libc::NETLINK_EXT_ACK, libc::NETLINK_CAP_ACK] {
        // SAFETY: the descriptor is open for the length of the borrow, and the value is an int of the size given.
        let result = unsafe {
            libc::setsockopt(
                socket.as_raw_fd(),
                libc::SOL_NETLINK,
                option,
                (&raw const on).cast(),
                size_of_val(&on) as libc::socklen_t,
            )
        };
        if result != 0 {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}
