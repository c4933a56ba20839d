//! The system calls that no safe wrapper offers.

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

/// `TUNSETIFF` and `TUNSETVNETHDRSZ` of linux/if_tun.h.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;

/// Makes the tap `name`, which ends with its last descriptor, of a descriptor of /dev/net/tun.
pub(crate) fn attach_tap(device: BorrowedFd<'_>, name: &str) -> io::Result<()> {
    // SAFETY: an all-zero `ifreq` is valid: numbers, and pointers that the kernel does not read for this request.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ENAMETOOLONG));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the descriptor is open for the length of the borrow; the request is a whole `ifreq`.
    match unsafe { libc::ioctl(device.as_raw_fd(), TUNSETIFF as _, &raw mut request) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Sets the length of the header before each frame of a tap.
pub(crate) fn set_tap_header_bytes(tap: BorrowedFd<'_>, bytes: libc::c_int) -> io::Result<()> {
    // SAFETY: the descriptor is open for the length of the borrow; the kernel reads one int.
    match unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETVNETHDRSZ as _, &raw const bytes) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
