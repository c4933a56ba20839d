//! The device over a pair of datagram sockets, which keep packets apart as a tap does and need no privilege.

use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;

use virtio_bindings::virtio_net::{VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_MRG_RXBUF};

use super::handler::NetHandler;
use super::{CONFIG_BYTES, Framing, MAX_PACKET, QUEUE_SIZES};
use crate::error::Result;
use crate::virtio::{
    Activation, FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1, Handler, VirtioDevice,
};

/// The device without the tap's ioctls.
pub(crate) struct OverSocket(File);

impl OverSocket {
    pub(crate) fn pair() -> (Self, UnixDatagram) {
        let (device, host) = UnixDatagram::pair().unwrap();
        device.set_nonblocking(true).unwrap();
        (Self(File::from(OwnedFd::from(device))), host)
    }
}

impl VirtioDevice for OverSocket {
    fn device_type(&self) -> u32 {
        virtio_bindings::virtio_ids::VIRTIO_ID_NET
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURE_VERSION_1
            | FEATURE_EVENT_IDX
            | FEATURE_INDIRECT
            | 1 << VIRTIO_NET_F_MRG_RXBUF
            | 1 << VIRTIO_NET_F_GUEST_CSUM
            | 1 << VIRTIO_NET_F_GUEST_TSO4
    }

    fn config(&self) -> &[u8] {
        &[0; CONFIG_BYTES]
    }

    fn activate(&mut self, activation: Activation) -> Result<Handler> {
        let framing = match activation.features & 1 << VIRTIO_NET_F_MRG_RXBUF {
            0 => Framing::OneBuffer,
            _ => Framing::Mergeable { largest: MAX_PACKET },
        };
        Ok(Box::new(NetHandler::new(self.0.try_clone().unwrap(), activation, framing)?))
    }
}
