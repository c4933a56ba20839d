//! Socket device (virtio 1.2, section 5.10), entirely in this process: guest streams end in Unix stream sockets of the host.
//!
//! A host program connects to the device's listener, writes `CONNECT PORT\n` and reads `OK PORT\n` once the guest has accepted. In the
//! other direction only streams that were given to the device can be reached: the first guest program that connects to the host (context
//! id 2) at such a port gets the stream, everybody after it is refused. The device opens nothing by a path, so it works in a jail, and
//! a guest reaches nothing on the host that was not meant for it.

mod connection;
mod handler;
mod table;

use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use virtio_bindings::virtio_ids::VIRTIO_ID_VSOCK;

use super::{Activation, FEATURE_EVENT_IDX, FEATURE_VERSION_1, Handler, VirtioDevice};
use crate::error::{Error, Result};

/// Context id of the host.
pub const HOST_CID: u64 = 2;
/// Context id of the guest. One machine sees no other, so all guests have the same.
pub const GUEST_CID: u64 = 3;

const QUEUE_SIZES: [u16; 3] = [128, 128, 16];

/// The device.
#[derive(Debug)]
pub struct Vsock {
    path: Option<PathBuf>,
    listener: UnixListener,
    streams: Vec<(u32, UnixStream)>,
    config: [u8; 8],
}

impl Vsock {
    /// A device whose host side is `listener`; its file, if it has one, is the caller's.
    ///
    /// # Errors
    /// The listener cannot be made non-blocking.
    pub fn new(listener: UnixListener) -> Result<Self> {
        listener.set_nonblocking(true).map_err(Error::os("set up the socket device's listener"))?;
        Ok(Self { path: None, listener, streams: Vec::new(), config: GUEST_CID.to_le_bytes() })
    }

    /// Gives `stream` to the first program of the guest that connects to `port` of the host.
    #[must_use]
    pub fn offer(mut self, port: u32, stream: UnixStream) -> Self {
        self.streams.push((port, stream));
        self
    }

    /// A device whose host side listens at `path`, which must not exist.
    ///
    /// # Errors
    /// The socket cannot be made there.
    pub fn bind(path: &Path) -> Result<Self> {
        let error = |source| Error::Listen { path: path.into(), source };
        let listener = UnixListener::bind(path).map_err(error)?;
        let mut device = Self::new(listener)?;
        device.path = Some(path.into());
        Ok(device)
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_VSOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURE_VERSION_1 | FEATURE_EVENT_IDX
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn activate(&mut self, activation: Activation) -> Result<Handler> {
        let listener = self.listener.try_clone().map_err(Error::os("share the socket device's listener"))?;
        let streams = std::mem::take(&mut self.streams);
        Ok(Box::new(handler::VsockHandler::new(streams, listener, activation)?))
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        if let Some(path) = &self.path {
            // Made by `bind`; a socket file without a listener only misleads.
            let _ = std::fs::remove_file(path);
        }
    }
}
