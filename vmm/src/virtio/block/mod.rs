//! Block device (virtio 1.2, section 5.2) over a raw file or a block device of the host.

mod request;
mod sys;
#[cfg(test)]
mod tests;
mod trouble;
mod worker;

use std::fs::{File, OpenOptions};
use std::io::{self, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX,
    VIRTIO_BLK_F_WRITE_ZEROES, VIRTIO_BLK_ID_BYTES,
};
use virtio_bindings::virtio_ids::VIRTIO_ID_BLOCK;

use self::trouble::Reports;
pub use self::trouble::{DiskTrouble, OnTrouble};
use self::worker::Workers;
use super::{
    Activation, FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1, Handler, VirtioDevice, Works,
};
use crate::error::{Error, Result};
use crate::vm::ThreadSetup;

/// Unit of the device's addresses, bytes, whatever the medium's own block size.
pub const SECTOR_BYTES: u64 = 512;
const QUEUE_SIZE: u16 = 256;
/// Data segments a request: the queue's size less the header and the status.
const MAX_SEGMENTS: u32 = QUEUE_SIZE as u32 - 2;
/// Sectors that one discard or zeroing may name: 2 GiB at a time keeps the event loop responsive.
pub(crate) const MAX_DISCARD_SECTORS: u32 = 4 << 20;
const CONFIG_BYTES: usize = 60;

/// Whether the guest may write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Reads only; writes fail.
    ReadOnly,
    /// Reads and writes.
    ReadWrite,
}

/// The device.
#[derive(Debug)]
pub struct Block {
    workers: Workers,
    config: [u8; CONFIG_BYTES],
}

/// What is behind the device.
#[derive(Debug)]
pub(crate) struct Medium {
    pub file: File,
    pub sectors: u64,
    pub access: Access,
    /// Serial number that the guest sees, padded with zeros.
    pub id: [u8; VIRTIO_BLK_ID_BYTES as usize],
    pub reports: Reports,
    tells_waiting: AtomicBool,
}

impl Medium {
    /// Whether the file system says that a read would have to wait.
    fn tells_waiting(&self) -> bool {
        self.tells_waiting.load(Ordering::Relaxed)
    }

    fn tells_no_waiting(&self) {
        self.tells_waiting.store(false, Ordering::Relaxed);
    }
}

impl Block {
    /// A device over the file or block device `path`, which the guest sees with serial number `id` (at most 20 bytes count).
    ///
    /// # Errors
    /// It cannot be opened in that way, or its size is not a whole number of sectors.
    pub fn open(path: &Path, access: Access, id: &str) -> Result<Self> {
        let file = OpenOptions::new()
            .read(true)
            .write(access == Access::ReadWrite)
            .open(path)
            .map_err(|source| Error::OpenDisk { path: PathBuf::from(path), source })?;
        Self::new(file, path, access, id)
    }

    /// As [`Block::open`], over an open file that errors call `name`.
    ///
    /// Failures of the medium are told on standard error; see [`Block::on_trouble`].
    ///
    /// # Errors
    /// Its size is not a whole number of sectors.
    pub fn new(mut file: File, name: &Path, access: Access, id: &str) -> Result<Self> {
        let error = |source| Error::OpenDisk { path: PathBuf::from(name), source };
        // Works for files and block devices alike.
        let bytes = file.seek(SeekFrom::End(0)).map_err(error)?;
        if bytes == 0 || bytes % SECTOR_BYTES != 0 {
            let text = format!("its size, {bytes} bytes, is not a whole number of 512-byte sectors");
            return Err(error(io::Error::new(io::ErrorKind::InvalidInput, text)));
        }
        let mut serial = [0; VIRTIO_BLK_ID_BYTES as usize];
        serial.iter_mut().zip(id.bytes()).for_each(|(to, from)| *to = from);
        let sectors = bytes / SECTOR_BYTES;
        let reports = Reports::new(name.into());
        let medium =
            Medium { file, sectors, access, id: serial, reports, tells_waiting: AtomicBool::new(true) };
        Ok(Self { workers: Workers::new(medium), config: config(sectors) })
    }

    /// Has `tell` called, on a thread of the disk, when the medium fails: the guest sees only that its request did. At most
    /// eight times. Only the first call counts.
    pub fn on_trouble(&self, tell: OnTrouble) {
        self.workers.medium().reports.tell_to(tell);
    }
}

/// `struct virtio_blk_config`, as far as the features that are offered.
fn config(sectors: u64) -> [u8; CONFIG_BYTES] {
    let mut config = [0; CONFIG_BYTES];
    let mut put = |at: usize, value: &[u8]| config[at..at + value.len()].copy_from_slice(value);
    put(0, &sectors.to_le_bytes());
    put(12, &MAX_SEGMENTS.to_le_bytes());
    put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(40, &1_u32.to_le_bytes()); // ranges a discard
    put(44, &1_u32.to_le_bytes()); // alignment of a discard, sectors
    put(48, &MAX_DISCARD_SECTORS.to_le_bytes());
    put(52, &1_u32.to_le_bytes()); // ranges a zeroing
    put(56, &[1]); // a zeroing may free the space
    config
}

impl VirtioDevice for Block {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BLOCK
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE]
    }

    fn features(&self) -> u64 {
        let common = FEATURE_VERSION_1
            | FEATURE_EVENT_IDX
            | FEATURE_INDIRECT
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_BLK_F_SEG_MAX;
        match self.workers.medium().access {
            Access::ReadOnly => common | 1 << VIRTIO_BLK_F_RO,
            Access::ReadWrite => common | 1 << VIRTIO_BLK_F_DISCARD | 1 << VIRTIO_BLK_F_WRITE_ZEROES,
        }
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn works(&self) -> Works {
        Works::WhenAsked
    }

    fn start(&mut self, setup: &ThreadSetup) -> Result<()> {
        self.workers.start(setup)
    }

    fn activate(&mut self, activation: Activation) -> Result<Handler> {
        Ok(Box::new(self.workers.activate(activation)?))
    }
}
