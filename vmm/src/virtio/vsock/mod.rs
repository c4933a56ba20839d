//! Socket device (virtio 1.2, section 5.10), entirely in this process: guest streams end in Unix stream sockets of the host.
//!
//! A host program connects to `PATH`, writes `CONNECT PORT\n` and reads `OK PORT\n` once the guest has accepted. A guest program that
//! connects to the host (context id 2) at port N reaches the Unix socket `PATH_N`.

mod connection;
mod handler;
mod table;

use std::os::unix::net::UnixListener;
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
    path: PathBuf,
    listener: UnixListener,
    config: [u8; 8],
}

impl Vsock {
    /// A device whose host side listens at `path`, which must not exist.
    ///
    /// # Errors
    /// The socket cannot be made there.
    pub fn bind(path: &Path) -> Result<Self> {
        let error = |source| Error::Listen { path: path.into(), source };
        let listener = UnixListener::bind(path).map_err(error)?;
        listener.set_nonblocking(true).map_err(error)?;
        Ok(Self { path: path.into(), listener, config: GUEST_CID.to_le_bytes() })
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
        Ok(Box::new(handler::VsockHandler::new(self.path.clone(), listener, activation)?))
    }
}

impl Drop for Vsock {
    fn drop(&mut self) {
        // Made by `bind`; a socket file without a listener only misleads.
        let _ = std::fs::remove_file(&self.path);
    }
}
