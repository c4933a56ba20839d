//! The way of a template's memory into a machine.

use std::fs::File;
use std::io;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde::{Deserialize, Serialize};
use vm_memory::GuestAddress;

use crate::memory::{self, GuestMemory};

const HUGE_PAGE: u64 = memory::HUGE_PAGE as u64;

/// Memory that is not zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Run {
    /// Where it begins, guest-physical.
    pub address: u64,
    /// Its length.
    pub bytes: u64,
}

/// A part of a run, and where its content is in the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    address: u64,
    bytes: u64,
    offset: u64,
}

/// Fills a machine's memory, on any number of threads at once.
#[derive(Debug)]
pub struct Filling {
    file: File,
    memory: GuestMemory,
    /// Each what lies in one huge page of the host: two threads that touch the same one would wait for each other.
    groups: Vec<Vec<Place>>,
    next: AtomicUsize,
    failed: Mutex<Option<io::Error>>,
}

impl Filling {
    /// Will read the content of `runs`, which begins at `offset` of `file`, into `memory`.
    pub fn new(memory: &GuestMemory, file: File, offset: u64, runs: &[Run]) -> Self {
        let (memory, groups) = (memory.clone(), groups(runs, offset));
        Self { file, memory, groups, next: AtomicUsize::new(0), failed: Mutex::new(None) }
    }

    /// Reads what no other thread has begun to read, until there is no more of that.
    pub fn work(&self) {
        while let Some(group) = self.groups.get(self.next.fetch_add(1, Ordering::Relaxed)) {
            let Some(first) = group.first() else { continue };
            // The host clears the huge page, and while it does that for a read(2) no thread of this process can be made.
            memory::touch(&self.memory, GuestAddress(first.address));
            let mut places = group.iter();
            let done = places.try_for_each(|place| {
                let address = GuestAddress(place.address);
                memory::read_at(&self.memory, address, place.bytes as usize, &self.file, place.offset)
            });
            if let Err(error) = done {
                self.failed.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                return;
            }
        }
    }

    /// How it went, once every thread has come back from [`Self::work`].
    ///
    /// # Errors
    /// The file cannot be read, or a run is not in the machine's memory.
    pub fn outcome(&self) -> io::Result<()> {
        self.failed.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
    }
}

fn groups(runs: &[Run], mut offset: u64) -> Vec<Vec<Place>> {
    let mut groups: Vec<Vec<Place>> = vec![];
    for run in runs {
        let (mut address, end) = (run.address, run.address.saturating_add(run.bytes));
        while address < end {
            let bytes = (HUGE_PAGE - address % HUGE_PAGE).min(end - address);
            let place = Place { address, bytes, offset };
            let page = |place: &Place| place.address / HUGE_PAGE;
            match groups.last_mut().filter(|group| group.first().map(page) == Some(page(&place))) {
                Some(group) => group.push(place),
                None => groups.push(vec![place]),
            }
            address += bytes;
            offset += bytes;
        }
    }
    groups
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HugePages;
    use crate::memory::Ram;
    use std::os::unix::fs::FileExt as _;
    use vm_memory::Bytes as _;

    #[test]
    fn groups_lie_in_one_huge_page_each_and_cover_the_runs() {
        let runs = [(0x1000, 0x4000), (0x8000, 0x1000), (0x1f_f000, 0x40_1000), (0x80_0000, 0x20_0000)];
        let runs = runs.map(|(address, bytes)| Run { address, bytes });
        let groups = groups(&runs, 100);
        assert_eq!(groups.len(), 4, "{groups:x?}");
        let mut offset = 100;
        for group in &groups {
            let page = group[0].address / HUGE_PAGE;
            for place in group {
                assert_eq!((place.address / HUGE_PAGE, place.offset), (page, offset));
                assert_eq!((place.address + place.bytes - 1) / HUGE_PAGE, page);
                offset += place.bytes;
            }
        }
        assert_eq!(offset, 100 + runs.iter().map(|run| run.bytes).sum::<u64>());
    }

    #[test]
    fn threads_share_the_work_and_its_errors() {
        let ram = Ram::map(32, HugePages::Transparent).unwrap();
        let file = tempfile::tempfile().unwrap();
        let content: Vec<u8> = (0..5 << 20).map(|index: u32| (index / 4096 % 251) as u8 + 1).collect();
        file.write_all_at(&content, 8).unwrap();
        let runs = [Run { address: 1 << 20, bytes: 1 << 20 }, Run { address: 6 << 20, bytes: 4 << 20 }];
        let filling = Filling::new(ram.memory(), file.try_clone().unwrap(), 8, &runs);
        std::thread::scope(|scope| {
            scope.spawn(|| filling.work());
            filling.work();
        });
        filling.outcome().unwrap();
        let mut read = vec![0; 5 << 20];
        ram.memory().read_slice(&mut read[..1 << 20], GuestAddress(1 << 20)).unwrap();
        ram.memory().read_slice(&mut read[1 << 20..], GuestAddress(6 << 20)).unwrap();
        assert!(read == content);
        // Beyond the file, and beyond the memory.
        for (address, offset) in [(0, 5 << 20), (64 << 20, 0), (u64::MAX - 4096, 0)] {
            let runs = [Run { address, bytes: 1 << 20 }];
            let filling = Filling::new(ram.memory(), file.try_clone().unwrap(), offset, &runs);
            filling.work();
            assert!(filling.outcome().is_err(), "{address:x} {offset:x}");
        }
    }
}
