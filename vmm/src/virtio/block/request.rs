//! One block request: header, data, status (virtio 1.2, section 5.2.6). The framing is the guest's choice (section 2.7.4), so the
//! chain is taken as two strings of bytes: what the device may read, and what it may write.

use std::io;
use std::ops::Deref;
use std::os::fd::AsFd;

use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_S_IOERR, VIRTIO_BLK_S_OK, VIRTIO_BLK_S_UNSUPP, VIRTIO_BLK_T_DISCARD, VIRTIO_BLK_T_FLUSH,
    VIRTIO_BLK_T_GET_ID, VIRTIO_BLK_T_IN, VIRTIO_BLK_T_OUT, VIRTIO_BLK_T_WRITE_ZEROES,
    VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP,
};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestMemoryBackend, VolatileSlice};

use super::sys::{self, Punch};
use super::{Access, MAX_DISCARD_SECTORS, Medium, SECTOR_BYTES};
use crate::memory::GuestMemory;

const HEADER_BYTES: usize = 16;
const RANGE_BYTES: usize = 16;
/// Bytes that one request may move: descriptors may overlap, so a chain of 256 could otherwise name a terabyte.
const MAX_DATA_BYTES: usize = 64 << 20;

type Slices<'a> = Vec<VolatileSlice<'a>>;

/// Whether a request may wait for the medium.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Patience {
    /// No: others wait behind it.
    None,
    /// As long as it takes.
    Unlimited,
}

/// What became of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Served {
    /// It is done, well or badly.
    Done {
        /// Bytes written to guest memory.
        written: u32,
        /// Bytes of data moved in either direction.
        moved: usize,
    },
    /// It would have to wait for the medium, which it was not to; nothing the guest may rely on has happened.
    MustWait,
}

/// Why a request failed.
#[derive(Debug)]
enum Failure {
    /// The request is not possible: the guest's mistake.
    Refused,
    /// This device has no such request, or no such flag.
    Unsupported,
    /// It would have to wait.
    MustWait,
    /// The medium failed.
    Medium(io::Error),
}

impl From<io::Error> for Failure {
    fn from(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::WouldBlock => Self::MustWait,
            _ => Self::Medium(error),
        }
    }
}

/// Serves the request in `chain`.
///
/// A chain that is malformed in a way that leaves no place for a status is given back with nothing written.
pub(super) fn serve<M>(
    medium: &Medium,
    memory: &GuestMemory,
    chain: DescriptorChain<M>,
    patience: Patience,
) -> Served
where
    M: Deref<Target = GuestMemory>,
{
    const NOTHING: Served = Served::Done { written: 0, moved: 0 };
    let Some((readable, writable)) = split(memory, chain) else { return NOTHING };
    let Some((data_in, status)) = take_back(writable) else { return NOTHING };
    let (code, filled) = match perform(medium, &readable, &data_in, patience) {
        Ok(filled) => (VIRTIO_BLK_S_OK, filled),
        Err(Failure::MustWait) => return Served::MustWait,
        Err(Failure::Unsupported) => (VIRTIO_BLK_S_UNSUPP, 0),
        Err(Failure::Refused) => (VIRTIO_BLK_S_IOERR, 0),
        Err(Failure::Medium(error)) => {
            medium.reports.report(error);
            (VIRTIO_BLK_S_IOERR, 0)
        }
    };
    match status.write_obj(code as u8, 0) {
        // At most MAX_DATA_BYTES, so the sum fits.
        Ok(()) => Served::Done { written: filled as u32 + 1, moved: filled.max(length(&readable)) },
        Err(_) => NOTHING,
    }
}

/// The chain's buffers, checked to lie in guest memory: (device-readable, device-writable).
fn split<'a, M>(memory: &'a GuestMemory, chain: DescriptorChain<M>) -> Option<(Slices<'a>, Slices<'a>)>
where
    M: Deref<Target = GuestMemory>,
{
    let (mut readable, mut writable) = (Slices::new(), Slices::new());
    let mut total = 0_usize;
    for descriptor in chain {
        let list = if descriptor.is_write_only() { &mut writable } else { &mut readable };
        for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
            let slice = slice.ok()?;
            total = total.checked_add(slice.len()).filter(|total| *total <= MAX_DATA_BYTES)?;
            list.push(slice);
        }
    }
    Some((readable, writable))
}

/// Takes the last byte, the status, off the writable part.
fn take_back(mut writable: Slices<'_>) -> Option<(Slices<'_>, VolatileSlice<'_>)> {
    while writable.last().is_some_and(|slice| slice.is_empty()) {
        writable.pop();
    }
    let last = writable.pop()?;
    let (data, status) = last.split_at(last.len() - 1).ok()?;
    if !data.is_empty() {
        writable.push(data);
    }
    Some((writable, status))
}

/// Copies the first bytes of `slices` to `to` and gives the rest back.
fn take_front<'a>(slices: &[VolatileSlice<'a>], to: &mut [u8]) -> Result<Slices<'a>, Failure> {
    let mut rest = Slices::new();
    let mut filled = 0;
    for slice in slices {
        let count = slice.len().min(to.len() - filled);
        let (front, back) = slice.split_at(count).map_err(|_| Failure::Refused)?;
        front.copy_to(&mut to[filled..filled + count]);
        filled += count;
        if !back.is_empty() {
            rest.push(back);
        }
    }
    if filled < to.len() { Err(Failure::Refused) } else { Ok(rest) }
}

/// Does what the request asks; how many bytes of data were written to guest memory.
fn perform(
    medium: &Medium,
    readable: &[VolatileSlice<'_>],
    data_in: &[VolatileSlice<'_>],
    patience: Patience,
) -> Result<usize, Failure> {
    let mut header = [0; HEADER_BYTES];
    let data_out = take_front(readable, &mut header)?;
    let kind = u32::from_le_bytes([header[0], header[1], header[2], header[3]]);
    let sector = u64::from_le_bytes([
        header[8], header[9], header[10], header[11], header[12], header[13], header[14], header[15],
    ]);
    match kind {
        VIRTIO_BLK_T_IN => {
            let bytes = length(data_in);
            let offset = offset(medium, sector, bytes)?;
            match patience {
                Patience::None if medium.tells_waiting() => {
                    let ready = sys::read_ready(medium.file.as_fd(), data_in, offset);
                    match ready {
                        Ok(count) if count == bytes => {}
                        // The rest is not at hand, or there is no rest: waiting will tell.
                        Ok(_) => return Err(Failure::MustWait),
                        Err(error) if error.kind() == io::ErrorKind::Unsupported => {
                            medium.tells_no_waiting();
                            sys::read_at(medium.file.as_fd(), data_in, offset)?;
                        }
                        Err(error) => return Err(error.into()),
                    }
                }
                _ => sys::read_at(medium.file.as_fd(), data_in, offset)?,
            }
            Ok(bytes)
        }
        VIRTIO_BLK_T_OUT => {
            writable(medium)?;
            let offset = offset(medium, sector, length(&data_out))?;
            // Into the host's page cache: nothing to wait for as a rule.
            sys::write_at(medium.file.as_fd(), &data_out, offset)?;
            Ok(0)
        }
        VIRTIO_BLK_T_GET_ID => {
            let mut left = &medium.id[..];
            for slice in data_in {
                let count = slice.len().min(left.len());
                slice.copy_from(&left[..count]);
                left = &left[count..];
            }
            Ok(medium.id.len() - left.len())
        }
        VIRTIO_BLK_T_FLUSH | VIRTIO_BLK_T_DISCARD | VIRTIO_BLK_T_WRITE_ZEROES
            if patience == Patience::None =>
        {
            Err(Failure::MustWait)
        }
        VIRTIO_BLK_T_FLUSH => {
            medium.file.sync_data()?;
            Ok(0)
        }
        VIRTIO_BLK_T_DISCARD => punch(medium, &data_out, Punch::Free),
        VIRTIO_BLK_T_WRITE_ZEROES => punch(medium, &data_out, Punch::Zero),
        _ => Err(Failure::Unsupported),
    }
}

fn punch(medium: &Medium, data: &[VolatileSlice<'_>], how: Punch) -> Result<usize, Failure> {
    writable(medium)?;
    let mut range = [0; RANGE_BYTES];
    let rest = take_front(data, &mut range)?;
    if length(&rest) > 0 {
        // One range a request, as the configuration says.
        return Err(Failure::Refused);
    }
    let sector =
        u64::from_le_bytes([range[0], range[1], range[2], range[3], range[4], range[5], range[6], range[7]]);
    let count = u32::from_le_bytes([range[8], range[9], range[10], range[11]]);
    let flags = u32::from_le_bytes([range[12], range[13], range[14], range[15]]);
    // The one flag there is lets a zeroing free the space; a discard has none (section 5.2.6.2).
    match how {
        Punch::Zero if flags & !VIRTIO_BLK_WRITE_ZEROES_FLAG_UNMAP == 0 => {}
        Punch::Free if flags == 0 => {}
        _ => return Err(Failure::Unsupported),
    }
    if count > MAX_DISCARD_SECTORS {
        return Err(Failure::Refused);
    }
    let bytes = u64::from(count) * SECTOR_BYTES;
    let start = offset(medium, sector, bytes as usize)?;
    if bytes > 0 {
        sys::punch(medium.file.as_fd(), how, start, bytes)?;
    }
    Ok(0)
}

fn writable(medium: &Medium) -> Result<(), Failure> {
    match medium.access {
        Access::ReadWrite => Ok(()),
        Access::ReadOnly => Err(Failure::Refused),
    }
}

fn length(slices: &[VolatileSlice<'_>]) -> usize {
    slices.iter().map(VolatileSlice::len).sum()
}

/// Byte offset of `sector`, after checking that `bytes` from there on are whole sectors within the medium: a write behind its
/// end would make the host's file grow without limit.
fn offset(medium: &Medium, sector: u64, bytes: usize) -> Result<u64, Failure> {
    let bytes = bytes as u64;
    let end = bytes.is_multiple_of(SECTOR_BYTES).then(|| sector.checked_add(bytes / SECTOR_BYTES)).flatten();
    match end {
        Some(end) if end <= medium.sectors => Ok(sector * SECTOR_BYTES),
        _ => Err(Failure::Refused),
    }
}
