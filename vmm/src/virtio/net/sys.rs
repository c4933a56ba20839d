//! The tap's ioctls.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

/// `struct virtio_net_hdr_v1`, which virtio 1 devices always use.
pub(super) const HEADER_BYTES: usize = 12;

const TUNSETOFFLOAD: libc::c_ulong = 0x4004_54d0;
const TUNSETVNETHDRSZ: libc::c_ulong = 0x4004_54d8;
const TUN_F_CSUM: libc::c_uint = 1;
const TUN_F_TSO4: libc::c_uint = 2;
const TUN_F_TSO6: libc::c_uint = 4;
const TUN_F_TSO_ECN: libc::c_uint = 8;
const TUN_F_UFO: libc::c_uint = 16;

/// What the guest's driver understands of packets that the tap sends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Offloads {
    pub(super) checksum: bool,
    pub(super) tcp4: bool,
    pub(super) tcp6: bool,
    pub(super) ecn: bool,
    pub(super) udp: bool,
}

/// Opens the tap `name` of this network namespace, made if it is not there.
pub(super) fn open_tap(name: &str) -> io::Result<OwnedFd> {
    let device = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: every field of this structure may be zero.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    if name.is_empty() || name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    request.ifr_name.iter_mut().zip(name.bytes()).for_each(|(to, from)| *to = from as libc::c_char);
    request.ifr_ifru.ifru_flags = (libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR) as libc::c_short;
    // SAFETY: the ioctl reads and writes one `ifreq`.
    check(unsafe { libc::ioctl(device.as_raw_fd(), libc::TUNSETIFF as _, &raw mut request) })?;
    Ok(device.into())
}

pub(super) fn set_header_bytes(tap: &File) -> io::Result<()> {
    let bytes = HEADER_BYTES as libc::c_int;
    // SAFETY: the ioctl reads one int.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETVNETHDRSZ as _, &raw const bytes) })
}

pub(super) fn set_offloads(tap: &File, offloads: Offloads) -> io::Result<()> {
    let mut flags = 0;
    // Segmentation without checksums is refused by the kernel.
    if offloads.checksum {
        flags |= TUN_F_CSUM;
        flags |= if offloads.tcp4 { TUN_F_TSO4 } else { 0 };
        flags |= if offloads.tcp6 { TUN_F_TSO6 } else { 0 };
        flags |= if offloads.ecn && (offloads.tcp4 || offloads.tcp6) { TUN_F_TSO_ECN } else { 0 };
        flags |= if offloads.udp { TUN_F_UFO } else { 0 };
    }
    // SAFETY: this ioctl takes its argument by value.
    check(unsafe { libc::ioctl(tap.as_raw_fd(), TUNSETOFFLOAD as _, libc::c_ulong::from(flags)) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
