//! Network device (virtio 1.2, section 5.1) over a tap of the host, with checksum and segmentation offloads: a packet of up to
//! 64 KiB crosses in one piece and is cut, if at all, by the host's kernel.

mod handler;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
pub(crate) mod over_socket;
mod receive;
mod sys;
#[cfg(test)]
mod tests;

use std::fs::File;
use std::os::fd::OwnedFd;

use virtio_bindings::virtio_ids::VIRTIO_ID_NET;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_ECN, VIRTIO_NET_F_GUEST_TSO4,
    VIRTIO_NET_F_GUEST_TSO6, VIRTIO_NET_F_GUEST_UFO, VIRTIO_NET_F_HOST_ECN, VIRTIO_NET_F_HOST_TSO4,
    VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_HOST_UFO, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
};

use super::{
    Activation, FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1, Handler, VirtioDevice, Works,
};
use crate::error::{Error, Result};

const QUEUE_SIZES: [u16; 2] = [256, 256];
/// `struct virtio_net_config`: address, status.
const CONFIG_BYTES: usize = 8;
/// Largest packet with its header, bytes: 64 KiB of payload and room for link and virtio headers. A longer one of the guest is
/// dropped before the host's kernel is made to look at it.
const MAX_PACKET: usize = (64 << 10) + 64;
/// Largest packet that the tap sends to a guest that takes no segments to be cut: an Ethernet frame with a VLAN tag, and the
/// virtio header. The tap's MTU is an Ethernet's.
const MAX_FRAME: usize = 1518 + sys::HEADER_BYTES;

/// How a packet lies in the driver's receive buffers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Framing {
    /// In one buffer, which the driver has made large enough.
    OneBuffer,
    /// In as many as it needs; the largest has `largest` bytes.
    Mergeable {
        /// Bytes, with the header.
        largest: usize,
    },
}

/// The device.
#[derive(Debug)]
pub struct Net {
    tap: File,
    config: [u8; CONFIG_BYTES],
}

impl Net {
    /// A device with hardware address `mac` over `tap`, a descriptor of `/dev/net/tun` that has been made a tap with
    /// `IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`.
    ///
    /// # Errors
    /// The descriptor is not a tap with packet headers.
    pub fn new(tap: OwnedFd, mac: [u8; 6]) -> Result<Self> {
        let tap = File::from(tap);
        super::sys::set_non_blocking(&tap).map_err(Error::os("set a tap to non-blocking"))?;
        sys::set_header_bytes(&tap).map_err(Error::os("set the size of a tap's packet headers"))?;
        let mut config = [0; CONFIG_BYTES];
        config[..6].copy_from_slice(&mac);
        Ok(Self { tap, config })
    }
}

/// Opens the tap `name` of the caller's network namespace as [`Net::new`] wants it; it is made if it is not there, and then ends
/// with the descriptor.
///
/// # Errors
/// The name is empty or longer than 15 bytes, the host has no taps, or the caller may not use this one.
pub fn open_tap(name: &str) -> Result<OwnedFd> {
    sys::open_tap(name).map_err(|source| Error::OpenTap { name: name.to_owned(), source })
}

impl VirtioDevice for Net {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_NET
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_GUEST_ECN,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_GUEST_UFO,
            VIRTIO_NET_F_HOST_ECN,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_HOST_UFO,
            VIRTIO_NET_F_MAC,
            VIRTIO_NET_F_MRG_RXBUF,
        ]
        .into_iter()
        .fold(FEATURE_VERSION_1 | FEATURE_EVENT_IDX | FEATURE_INDIRECT, |features, bit| features | 1 << bit)
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn works(&self) -> Works {
        Works::Anytime
    }

    fn activate(&mut self, activation: Activation) -> Result<Handler> {
        let agreed = |bit: u32| activation.features & (1 << bit) != 0;
        // The tap may send only what the guest's driver has said it understands.
        let offloads = sys::Offloads {
            checksum: agreed(VIRTIO_NET_F_GUEST_CSUM),
            tcp4: agreed(VIRTIO_NET_F_GUEST_TSO4),
            tcp6: agreed(VIRTIO_NET_F_GUEST_TSO6),
            ecn: agreed(VIRTIO_NET_F_GUEST_ECN),
            udp: agreed(VIRTIO_NET_F_GUEST_UFO),
        };
        sys::set_offloads(&self.tap, offloads).map_err(Error::os("set a tap's offloads"))?;
        let largest = if offloads.tcp4 || offloads.tcp6 || offloads.udp { MAX_PACKET } else { MAX_FRAME };
        let framing = match agreed(VIRTIO_NET_F_MRG_RXBUF) {
            true => Framing::Mergeable { largest },
            false => Framing::OneBuffer,
        };
        let tap = self.tap.try_clone().map_err(Error::os("share a tap's descriptor"))?;
        Ok(Box::new(handler::NetHandler::new(tap, activation, framing)?))
    }
}
