//! Tap devices: a link whose other end is a file descriptor, for a guest whose network card a program of the host plays.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use crate::error::{Error, Result};
use crate::sys;

/// Makes taps (Documentation/networking/tuntap.rst).
const DEVICE: &str = "/dev/net/tun";

/// Length of the header that each frame begins with, bytes: `struct virtio_net_hdr_v1` (virtio 1.2, 5.1.6).
pub const VNET_HEADER_BYTES: u8 = 12;

/// A tap that ends with its last descriptor. Whoever holds that sets the offloads that its guest understands.
pub(crate) fn make(name: &str) -> Result<OwnedFd> {
    let path = Path::new(DEVICE);
    let device = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path)
        .map_err(|source| Error::TapDevice { path: DEVICE, source })?;
    let attach = |device: &File| -> io::Result<()> {
        sys::attach_tap(device.as_fd(), name)?;
        sys::set_tap_header_bytes(device.as_fd(), VNET_HEADER_BYTES.into())
    };
    attach(&device).map_err(|source| Error::Netlink {
        action: "create tap",
        target: name.to_owned(),
        reason: None,
        source,
    })?;
    Ok(device.into())
}
