//! Takes the huge pages that a boot is going to touch from the host while the kernel is read.
//!
//! The host clears each 2 MiB at its first touch, 0.2 ms, and a guest that boots does nothing else meanwhile. Another processor can do it,
//! but only now: the steps before wait for grace periods of the host's kernel, which a busy processor would make longer than what is won.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::{self, JoinHandle};

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::{Pid, gettid};
use vm_memory::GuestAddress;

use super::{GuestMemory, low_end, sys};
use crate::template::Filling;

const PAGE: u64 = sys::HUGE_PAGE as u64;
/// The thread calls a function that calls the kernel.
const STACK: usize = 64 << 10;
/// What Linux takes from the end of memory in a boot, beside what it needs to describe all of memory: a 64th.
const AT_THE_END: u64 = 2 * PAGE;
/// Memory below a kernel of which a boot takes about half.
const BELOW: u64 = 16 << 20;

/// A thread that takes pages, until this is dropped.
#[derive(Debug)]
pub struct Ahead {
    worker: Option<Worker>,
    enough: Arc<AtomicBool>,
}

#[derive(Debug)]
struct Worker {
    go: Sender<Work>,
    thread: JoinHandle<()>,
    /// Its id, once it runs.
    id: Arc<AtomicI32>,
    /// Where it may run in the end.
    anywhere: CpuSet,
}

#[derive(Debug)]
enum Work {
    /// A kernel that ends there is going to boot.
    Boot(u64),
    /// A machine goes on from a template.
    Template(Arc<Filling>),
}

impl Ahead {
    /// Makes the thread, to wait for [`Ahead::begin`]: made at that time it would be put onto the same processor. Without a second
    /// processor, or a thread, this does nothing.
    pub fn new(memory: &GuestMemory) -> Self {
        let enough = Arc::new(AtomicBool::new(false));
        let worker = elsewhere()
            .and_then(|(anywhere, elsewhere)| start(memory.clone(), &enough, anywhere, elsewhere).ok());
        Self { worker, enough }
    }

    /// Takes what a kernel that ends at `end` will touch.
    pub fn begin(&self, end: u64) {
        self.send(Work::Boot(end));
    }

    /// Helps to fill the memory from a template. To be waited for, by dropping this, once there is nothing left to do.
    pub fn help(&self, filling: Arc<Filling>) {
        self.send(Work::Template(filling));
    }

    fn send(&self, work: Work) {
        if let Some(worker) = &self.worker {
            // It has ended only if it could not run.
            let _ = worker.go.send(work);
        }
    }
}

impl Drop for Ahead {
    /// Waits for the thread, which is not confined as those are that run beside a guest. It may have no processor just now, and gets this
    /// one.
    fn drop(&mut self) {
        self.enough.store(true, Ordering::Relaxed);
        let Some(Worker { go, thread, id, anywhere }) = self.worker.take() else { return };
        drop(go);
        let id = id.load(Ordering::Relaxed);
        if id > 0 && !thread.is_finished() {
            let _ = sched_setaffinity(Pid::from_raw(id), &anywhere);
        }
        let _ = thread.join();
    }
}

/// Processors that this thread may use, and those of them that it does not use now; `None` where there is no other.
fn elsewhere() -> Option<(CpuSet, CpuSet)> {
    let anywhere = sched_getaffinity(Pid::from_raw(0)).ok()?;
    let mut elsewhere = anywhere;
    elsewhere.unset(sched_getcpu().ok()?).ok()?;
    let any = (0..CpuSet::count()).any(|processor| elsewhere.is_set(processor).unwrap_or(false));
    any.then_some((anywhere, elsewhere))
}

fn start(
    memory: GuestMemory,
    enough: &Arc<AtomicBool>,
    anywhere: CpuSet,
    elsewhere: CpuSet,
) -> std::io::Result<Worker> {
    let (go, work) = channel();
    let (enough, id) = (Arc::clone(enough), Arc::new(AtomicI32::new(0)));
    let told = Arc::clone(&id);
    let run = move || {
        // Never on the processor of the thread that it is to help.
        let _ = sched_setaffinity(Pid::from_raw(0), &elsewhere);
        told.store(gettid().as_raw(), Ordering::Relaxed);
        take(&memory, &work, &enough);
    };
    let thread = thread::Builder::new().stack_size(STACK).spawn(run)?;
    Ok(Worker { go, thread, id, anywhere })
}

fn take(memory: &GuestMemory, work: &Receiver<Work>, enough: &AtomicBool) {
    let end = match work.recv() {
        Ok(Work::Boot(end)) => end,
        Ok(Work::Template(filling)) => return filling.work(),
        Err(_) => return,
    };
    for page in pages(low_end(memory), end) {
        if enough.load(Ordering::Relaxed) {
            return;
        }
        sys::touch(memory, GuestAddress(page));
    }
}

/// Addresses of pages that a boot touches, in the order in which they are worth it: `low` bytes below the gap, a kernel up to `end`.
///
/// The kernel's own from its end, while the caller reads the file from its beginning; the memory map and early tables at the end; then
/// what its allocators turn to first. Found by looking at what a machine had taken after a boot.
fn pages(low: u64, end: u64) -> Vec<u64> {
    let end = end.min(low);
    let behind = end.next_multiple_of(PAGE);
    let down = |from: u64, to: u64| (to / PAGE..from.div_ceil(PAGE)).rev().map(|page| page * PAGE);
    let kernel = down(end, end.max(BELOW).midpoint(BELOW).min(end));
    let last = down(low, low.saturating_sub(low / 64 + AT_THE_END).max(behind + PAGE));
    let below = [8, 10, 12, 14, 4, 0].into_iter().map(|mib| mib << 20);
    let mut named = HashSet::new();
    let all = kernel.chain(last).chain(below).chain([behind]);
    all.filter(|page| page + PAGE <= low && named.insert(*page)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::HugePages;
    use crate::memory::Ram;

    #[test]
    fn pages_lie_in_memory_and_are_named_once() {
        for (low, end) in [
            (256 << 20, 0x1e1_0000),
            (48 << 20, 0x1e1_0000),
            (32 << 20, 40 << 20),
            (32 << 20, 9 << 20),
            (3 << 30, 0),
            (3 << 30, u64::MAX),
        ] {
            let mut all = pages(low, end);
            assert!(all.iter().all(|page| page % PAGE == 0 && page + PAGE <= low), "{all:x?}");
            let count = all.len();
            all.sort_unstable();
            all.dedup();
            assert_eq!(all.len(), count, "{all:x?}");
        }
        let usual = pages(256 << 20, 0x1e1_0000);
        assert!(usual.contains(&(254 << 20)) && usual.contains(&(8 << 20)) && usual.contains(&(30 << 20)));
        assert!(usual.len() < 24, "{usual:x?}");
    }

    #[test]
    fn what_is_touched_keeps_its_content() {
        use vm_memory::Bytes;
        let ram = Ram::map(32, HugePages::Transparent).unwrap();
        let memory = ram.memory();
        memory.write_slice(&[7, 8], GuestAddress(4 << 20)).unwrap();
        for page in pages(32 << 20, 20 << 20) {
            sys::touch(memory, GuestAddress(page));
        }
        let mut bytes = [0; 2];
        memory.read_slice(&mut bytes, GuestAddress(4 << 20)).unwrap();
        assert_eq!(bytes, [7, 8]);
        // Beyond the end of memory it does nothing.
        sys::touch(memory, GuestAddress(64 << 20));
    }
}
