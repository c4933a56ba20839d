//! A template's file: magic number and place of the description, the memory's content from the first page's end on, the description.

use std::fs::File;
use std::io::{self, IoSliceMut, Write as _};
use std::os::unix::fs::FileExt as _;

use kvm_bindings::CpuId;
use kvm_ioctls::{VcpuFd, VmFd};
use nix::sys::uio::{RemoteIoVec, process_vm_readv};
use nix::unistd::Pid;
use serde::{Deserialize, Serialize};

use super::filling::{Filling, Run};
use super::recording::{Region, Snapshot};
use super::{Progress, State};
use crate::error::{Error, Result};
use crate::memory::{self, GuestMemory};

/// How a file begins.
const MAGIC: u64 = u64::from_le_bytes(*b"rkvmtmp1");
/// Where the memory's content begins; in front of it are the magic number, and place and length of the description.
const CONTENT: u64 = PAGE as u64;
/// Longest description, bytes: what is read at once of a file of which nothing is known yet.
const MAX_DESCRIPTION: u64 = 1 << 20;
const PAGE: usize = 4096;
/// Memory is looked at in pieces of this size: what the machine's host gives it at once.
const CHUNK: usize = memory::HUGE_PAGE;
/// Memory is kept or left out in pieces of this size: fewer reads than by page, and little that is kept for nothing.
const PIECE: usize = 16 << 10;
/// Bits of an entry of `/proc/PID/pagemap` (Documentation/admin-guide/mm/pagemap.rst): present, swapped out.
const TAKEN: u64 = 1 << 63 | 1 << 62;

#[derive(Debug, Serialize, Deserialize)]
struct Description {
    key: String,
    state: State,
    /// Which memory the content is of, in this order.
    runs: Vec<Run>,
}

/// Writes the machine of process `pid`, which stands still and has `memory` bytes, to `file`, which is empty, as the template for `key`.
///
/// # Errors
/// The process's memory cannot be read, or is not what it should be, or the file cannot be written: what is in it then is no template.
pub fn write(file: &mut File, key: &str, snapshot: Snapshot, memory: u64, pid: i32) -> io::Result<()> {
    check(&snapshot.regions, memory)?;
    file.write_all(&[0; PAGE])?;
    let mut runs = vec![];
    for region in &snapshot.regions {
        copy(file, *region, pid, &mut runs)?;
    }
    let place = CONTENT + runs.iter().map(|run| run.bytes).sum::<u64>();
    let description = Description { key: key.to_owned(), state: snapshot.state, runs };
    let text = serde_json::to_vec(&description)?;
    file.write_all(&text)?;
    // Last: without it this is no template.
    let head = [MAGIC, place, text.len() as u64].map(u64::to_le_bytes).concat();
    file.write_all_at(&head, 0)
}

/// Whether `regions` are some of a machine's with so much `memory`. They come from the process that runs the guest, which a hostile kernel may have
/// taken over while it booted: others would have the creator read, and the host keep, as much as they say.
fn check(regions: &[Region], memory: u64) -> io::Result<()> {
    let sum = regions.iter().try_fold(0_u64, |sum, region| {
        region.address.checked_add(region.bytes)?;
        region.place.checked_add(region.bytes)?;
        sum.checked_add(region.bytes).filter(|sum| *sum <= memory)
    });
    let bad = || io::Error::new(io::ErrorKind::InvalidData, "more memory than the machine has");
    sum.map(drop).ok_or_else(bad)
}

/// Appends what of `region` is not zero.
fn copy(file: &mut File, region: Region, pid: i32, runs: &mut Vec<Run>) -> io::Result<()> {
    let map = File::open(format!("/proc/{pid}/pagemap"))?;
    let mut chunk = vec![0; CHUNK];
    for offset in (0..region.bytes).step_by(CHUNK) {
        let bytes = CHUNK.min((region.bytes - offset) as usize);
        let place = region.place + offset;
        if !is_taken(&map, place, bytes)? {
            continue;
        }
        let chunk = &mut chunk[..bytes];
        let remote = RemoteIoVec { base: place as usize, len: bytes };
        if process_vm_readv(Pid::from_raw(pid), &mut [IoSliceMut::new(chunk)], &[remote])? != bytes {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        for (index, piece) in chunk.chunks(PIECE).enumerate() {
            if piece.iter().all(|byte| *byte == 0) {
                continue;
            }
            file.write_all(piece)?;
            let run =
                Run { address: region.address + offset + (index * PIECE) as u64, bytes: piece.len() as u64 };
            match runs.last_mut().filter(|last| last.address + last.bytes == run.address) {
                Some(last) => last.bytes += run.bytes,
                None => runs.push(run),
            }
        }
    }
    Ok(())
}

/// Whether the host has given the process anything of the `bytes` at `place`.
fn is_taken(map: &File, place: u64, bytes: usize) -> io::Result<bool> {
    let mut entries = [0; CHUNK / PAGE * size_of::<u64>()];
    let entries = &mut entries[..bytes.div_ceil(PAGE) * size_of::<u64>()];
    map.read_exact_at(entries, place / PAGE as u64 * size_of::<u64>() as u64)?;
    let taken = |entry: &[u8]| entry.try_into().is_ok_and(|entry| u64::from_le_bytes(entry) & TAKEN != 0);
    Ok(entries.chunks(size_of::<u64>()).any(taken))
}

/// A template that can be used.
#[derive(Debug)]
pub struct Recorded {
    file: File,
    state: State,
    runs: Vec<Run>,
}

impl Recorded {
    /// The template in `file`, if it is the one for `key`.
    ///
    /// # Errors
    /// It is not, or cannot be read.
    pub fn open(file: File, key: &str) -> io::Result<Self> {
        let bad = |reason: &str| io::Error::new(io::ErrorKind::InvalidData, reason.to_owned());
        let mut head = [[0; 8]; 3];
        file.read_exact_at(head.as_flattened_mut(), 0)?;
        let [magic, place, length] = head.map(u64::from_le_bytes);
        if magic != MAGIC || length > MAX_DESCRIPTION {
            return Err(bad("it is no template"));
        }
        let mut text = vec![0; length as usize];
        file.read_exact_at(&mut text, place)?;
        let Description { key: there, state, runs } = serde_json::from_slice(&text)?;
        if there != key {
            return Err(bad("it is a template for other machines"));
        }
        if runs.iter().try_fold(CONTENT, |sum, run| sum.checked_add(run.bytes)) != Some(place) {
            return Err(bad("it is a template without all of its memory"));
        }
        Ok(Self { file, state, runs })
    }

    /// What KVM lets guests see of the processor, on the host of the template.
    ///
    /// # Errors
    /// It is more than KVM takes.
    pub(crate) fn cpuid(&self) -> Result<CpuId> {
        CpuId::from_entries(&self.state.cpuid)
            .map_err(|_| Error::os("use a template's CPUID")(io::ErrorKind::InvalidData.into()))
    }

    /// The way of its memory into a machine.
    ///
    /// # Errors
    /// No descriptor is left.
    pub(crate) fn filling(&self, memory: &GuestMemory) -> Result<Filling> {
        let file = self.file.try_clone().map_err(Error::os("share a template"))?;
        Ok(Filling::new(memory, file, CONTENT, &self.runs))
    }

    /// Gives a machine, whose memory is filled, the rest of the state, but for its devices. How far the guest's time of day is behind the host's from
    /// now on, ns.
    pub(crate) fn give(&self, vm: &VmFd, vcpu: &VcpuFd) -> Result<i64> {
        self.state.give(vm, vcpu)
    }

    /// How far the drivers are, by the order of the devices.
    pub(crate) fn into_devices(self) -> Vec<Progress> {
        self.state.devices
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HugePages;
    use crate::memory::Ram;
    use vm_memory::{Bytes as _, GuestAddress, GuestMemoryBackend as _, GuestMemoryRegion as _};

    fn copied(ram: &Ram) -> (File, Vec<Run>) {
        let (mut file, mut runs) = (tempfile::tempfile().unwrap(), vec![]);
        for region in ram.memory().iter() {
            let place = memory::place(region).unwrap();
            let region = Region { address: region.start_addr().0, bytes: region.len(), place };
            copy(&mut file, region, std::process::id() as i32, &mut runs).unwrap();
        }
        (file, runs)
    }

    #[test]
    fn what_is_not_zero_is_kept_and_comes_back() {
        let ram = Ram::map(3 << 10 | 64, HugePages::Never).unwrap();
        let last = crate::arch::x86_64::layout::HIGH_RAM_START + (60 << 20);
        let bytes = [(0_u64, 1_u8), (16 << 10, 2), (0x1f_ffff, 3), (0x20_0000, 4), (64 << 20, 0), (last, 5)];
        for (address, byte) in bytes {
            ram.memory().write_slice(&[byte], GuestAddress(address)).unwrap();
        }
        let (file, runs) = copied(&ram);
        let piece = PIECE as u64;
        let wanted = [(0, 2 * piece), (0x20_0000 - piece, 2 * piece), (last, piece)];
        assert_eq!(runs, wanted.map(|(address, bytes)| Run { address, bytes }), "{runs:x?}");
        let other = Ram::map(3 << 10 | 64, HugePages::Transparent).unwrap();
        let filling = Filling::new(other.memory(), file, 0, &runs);
        filling.work();
        filling.outcome().unwrap();
        for (address, byte) in bytes {
            let mut there = [9];
            other.memory().read_slice(&mut there, GuestAddress(address)).unwrap();
            assert_eq!(there, [byte], "{address:x}");
        }
    }

    #[test]
    fn regions_that_no_machine_has_are_refused() {
        let region = |address, bytes, place| Region { address, bytes, place };
        check(&[region(0, 3 << 30, 4096), region(4 << 30, 1 << 30, 4 << 30)], 4 << 30).unwrap();
        for regions in [
            [region(0, 3 << 30, 4096), region(4 << 30, (1 << 30) + 1, 4 << 30)],
            [region(0, u64::MAX, 0), region(0, 1, 0)],
            [region(u64::MAX, 2, 0), region(0, 1, 0)],
            [region(0, 2, u64::MAX), region(0, 1, 0)],
        ] {
            assert!(check(&regions, 4 << 30).is_err(), "{regions:x?}");
        }
    }

    #[test]
    fn other_files_are_refused() {
        let refused = |content: &[u8]| {
            let file = tempfile::tempfile().unwrap();
            file.write_all_at(content, 0).unwrap();
            Recorded::open(file, "key").unwrap_err().to_string()
        };
        let head = |words: [u64; 3]| words.map(u64::to_le_bytes).concat();
        refused(b"");
        refused(b"short");
        assert!(refused(&[0; 8192]).contains("no template"));
        assert!(refused(&head([MAGIC, 24, u64::MAX])).contains("no template"));
        refused(&head([MAGIC, u64::MAX, 16]));
        refused(&head([MAGIC, 24, 16]));
        refused(&[head([MAGIC, 24, 2]), b"{}".to_vec()].concat());
    }
}
