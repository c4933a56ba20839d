//! Serves the balloon's queues on the event loop.

use std::sync::Arc;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_queue::DescriptorChain;
use vm_memory::{Bytes, GuestAddress, GuestMemoryBackend};

use super::{PAGE_BYTES, Shared, Statistics, lock};
use crate::memory::GuestMemory;
use crate::virtio::queue::VirtQueue;
use crate::virtio::sys;

/// Requests before other devices get their turn: each may cost a walk over page tables.
const REQUESTS_A_TURN: usize = 16;
/// Page numbers of one request that are looked at. Linux sends 256; descriptors may overlap, so a small chain could name billions.
const MAX_PAGES: usize = 4096;
/// Ranges of one report that are looked at. Linux sends 32.
const MAX_RANGES: usize = 128;
/// Bytes of statistics that are looked at; each has 10.
const MAX_STATISTICS: usize = 640;
const STATISTIC_BYTES: usize = 10;
/// VIRTIO_BALLOON_S_*: what a statistic is of (section 5.5.6.4).
const TAG_MEMFREE: u16 = 4;
const TAG_MEMTOT: u16 = 5;
const TAG_AVAIL: u16 = 6;
const TAG_CACHES: u16 = 7;

const TOKEN_INFLATE: u32 = 0;
const TOKEN_DEFLATE: u32 = 1;
const TOKEN_STATISTICS: u32 = 2;
const TOKEN_REPORTING: u32 = 3;
const TOKEN_WANTED: u32 = 4;

#[derive(Debug)]
pub(super) struct Queues {
    pub(super) inflate: VirtQueue,
    pub(super) deflate: VirtQueue,
    pub(super) statistics: Option<VirtQueue>,
    pub(super) reporting: Option<VirtQueue>,
}

#[derive(Debug)]
pub(super) struct BalloonHandler {
    shared: Arc<Shared>,
    memory: GuestMemory,
    queues: Queues,
    /// The buffer that the driver waits for: giving it back asks for new statistics.
    statistics: Option<u16>,
}

impl BalloonHandler {
    pub(super) fn new(shared: Arc<Shared>, memory: GuestMemory, queues: Queues) -> Self {
        Self { shared, memory, queues, statistics: None }
    }

    fn take_statistics(&mut self) {
        let Some(queue) = &mut self.queues.statistics else { return };
        // A driver has one buffer for them. Of more, all but the last go back at once.
        for turn in 0.. {
            if turn == REQUESTS_A_TURN {
                queue.come_back();
                break;
            }
            let Some(chain) = queue.pop(&self.memory) else { break };
            let head = chain.head_index();
            *lock(&self.shared.statistics) = statistics(&self.memory, chain);
            if let Some(before) = self.statistics.replace(head) {
                queue.add_used(&self.memory, before, 0);
            }
        }
        queue.interrupt(&self.memory);
    }

    fn want_statistics(&mut self) {
        if let (Some(queue), Some(head)) = (&mut self.queues.statistics, self.statistics.take()) {
            queue.add_used(&self.memory, head, 0);
            queue.interrupt(&self.memory);
        }
    }
}

/// Serves what is in `queue`, at most a turn's worth.
fn serve(
    queue: &mut VirtQueue,
    memory: &GuestMemory,
    request: impl Fn(&GuestMemory, DescriptorChain<&GuestMemory>),
) {
    queue.acknowledge();
    for turn in 0.. {
        if turn == REQUESTS_A_TURN {
            queue.come_back();
            break;
        }
        let Some(chain) = queue.pop(memory) else { break };
        let head = chain.head_index();
        request(memory, chain);
        queue.add_used(memory, head, 0);
    }
    queue.interrupt(memory);
}

/// Bytes that the driver has put into `chain`, at most `limit`.
fn content(memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for descriptor in chain.readable() {
        let (start, left) = (bytes.len(), limit - bytes.len());
        bytes.resize(start + left.min(descriptor.len() as usize), 0);
        if memory.read_slice(&mut bytes[start..], descriptor.addr()).is_err() {
            bytes.truncate(start);
            break;
        }
    }
    bytes
}

/// The driver gives up pages, by their numbers.
fn inflate(memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) {
    let content = content(memory, chain, MAX_PAGES * 4);
    let mut numbers = content.as_chunks::<4>().0.iter().map(|number| u64::from(u32::from_le_bytes(*number)));
    let Some(first) = numbers.next() else { return };
    // Neighbours go together, in either direction: one call for what was one block.
    let (mut start, mut end) = (first, first + 1);
    for number in numbers {
        if number == end {
            end += 1;
        } else if number + 1 == start {
            start = number;
        } else {
            release(memory, start * PAGE_BYTES, (end - start) * PAGE_BYTES);
            (start, end) = (number, number + 1);
        }
    }
    release(memory, start * PAGE_BYTES, (end - start) * PAGE_BYTES);
}

/// The driver says which memory is free, by buffers that lie there.
fn report(memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) {
    for descriptor in chain.writable().take(MAX_RANGES) {
        release(memory, descriptor.addr().0, descriptor.len().into());
    }
}

/// Gives what lies in guest memory of a range back to the host.
fn release(memory: &GuestMemory, start: u64, bytes: u64) {
    for slice in memory.get_slices(GuestAddress(start), bytes as usize) {
        let Ok(slice) = slice else { return };
        // What the host does not take stays with the guest, which loses nothing.
        let _ = sys::release(&slice);
    }
}

fn statistics(memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) -> Statistics {
    let mut found = Statistics::default();
    for entry in content(memory, chain, MAX_STATISTICS).as_chunks::<STATISTIC_BYTES>().0 {
        let [t0, t1, value @ ..] = *entry;
        let value = Some(u64::from_le_bytes(value));
        match u16::from_le_bytes([t0, t1]) {
            TAG_MEMFREE => found.free = value,
            TAG_MEMTOT => found.total = value,
            TAG_AVAIL => found.available = value,
            TAG_CACHES => found.caches = value,
            _ => {}
        }
    }
    found
}

impl MutEventSubscriber for BalloonHandler {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let Queues { inflate, deflate, statistics, reporting } = &self.queues;
        let _ = ops.add(Events::with_data(inflate, TOKEN_INFLATE, EventSet::IN));
        let _ = ops.add(Events::with_data(deflate, TOKEN_DEFLATE, EventSet::IN));
        if let Some(queue) = statistics {
            let _ = ops.add(Events::with_data(queue, TOKEN_STATISTICS, EventSet::IN));
            let _ = ops.add(Events::with_data(&self.shared.wanted, TOKEN_WANTED, EventSet::IN));
        }
        if let Some(queue) = reporting {
            let _ = ops.add(Events::with_data(queue, TOKEN_REPORTING, EventSet::IN));
        }
    }

    fn process(&mut self, events: Events, _ops: &mut EventOps<'_>) {
        match events.data() {
            TOKEN_INFLATE => serve(&mut self.queues.inflate, &self.memory, inflate),
            // Pages come back when the guest touches them.
            TOKEN_DEFLATE => serve(&mut self.queues.deflate, &self.memory, |_, _| {}),
            TOKEN_STATISTICS => {
                if let Some(queue) = &self.queues.statistics {
                    queue.acknowledge();
                }
                self.take_statistics();
            }
            TOKEN_REPORTING => {
                if let Some(queue) = &mut self.queues.reporting {
                    serve(queue, &self.memory, report);
                }
            }
            _ => {
                let _ = self.shared.wanted.read();
                self.want_statistics();
            }
        }
    }
}

impl Drop for BalloonHandler {
    fn drop(&mut self) {
        *lock(&self.shared.interrupt) = None;
    }
}
