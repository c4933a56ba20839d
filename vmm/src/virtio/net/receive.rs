//! The buffers that the driver has offered for packets, taken from its queue ahead of need: a packet may need many of them
//! (VIRTIO_NET_F_MRG_RXBUF), and how many is known only when it has been read.

use std::collections::VecDeque;

use virtio_queue::DescriptorChain;
use vm_memory::{GuestAddress, GuestMemoryBackend, VolatileSlice};

use super::sys::HEADER_BYTES;
use super::{Framing, MAX_PACKET};
use crate::memory::GuestMemory;
use crate::virtio::queue::VirtQueue;

/// Parts that are read into at once; the kernel takes 1024.
const MAX_PARTS: usize = 256;
/// Buffers that are taken of the queue and cannot be used, each time that some are needed: bounds the work of a turn.
const MAX_USELESS: usize = 64;

/// Whether a packet of any size can be read now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Refill {
    /// Yes.
    Enough,
    /// Not before the driver offers more.
    Short,
}

#[derive(Debug)]
struct Buffer {
    head: u16,
    parts: usize,
    bytes: usize,
}

#[derive(Debug)]
pub(super) struct ReceiveBuffers {
    framing: Framing,
    buffers: VecDeque<Buffer>,
    /// Of all buffers, in order. Checked to lie in guest memory, whose layout never changes.
    parts: VecDeque<(GuestAddress, usize)>,
    bytes: usize,
}

impl ReceiveBuffers {
    pub(super) fn new(framing: Framing) -> Self {
        Self { framing, buffers: VecDeque::new(), parts: VecDeque::new(), bytes: 0 }
    }

    /// Takes buffers of the queue until a packet of any size fits.
    pub(super) fn refill(&mut self, queue: &mut VirtQueue, memory: &GuestMemory) -> Refill {
        let mut useless = 0;
        while !self.is_enough(queue.size()) {
            let Some(chain) = queue.pop(memory) else { return Refill::Short };
            let head = chain.head_index();
            if self.push(memory, chain).is_none() {
                queue.add_used(memory, head, 0);
                useless += 1;
                if useless == MAX_USELESS {
                    queue.come_back();
                    return Refill::Short;
                }
            }
        }
        Refill::Enough
    }

    fn is_enough(&self, queue_size: u16) -> bool {
        match self.framing {
            Framing::OneBuffer => !self.buffers.is_empty(),
            Framing::Mergeable { largest } => {
                self.bytes >= largest
                    || self.parts.len() >= MAX_PARTS
                    // The driver can offer no more: larger packets are cut off, which is its choice of a tiny queue.
                    || self.buffers.len() >= usize::from(queue_size)
            }
        }
    }

    /// Adds a buffer; `None` if it is not made of writable parts in guest memory with room for a header at its start.
    fn push(&mut self, memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) -> Option<()> {
        let head = chain.head_index();
        let (before, mut bytes) = (self.parts.len(), 0);
        let add = |parts: &mut VecDeque<_>| {
            for descriptor in chain {
                if !descriptor.is_write_only() || parts.len() - before >= MAX_PARTS {
                    return None;
                }
                let (mut at, length) = (descriptor.addr(), descriptor.len() as usize);
                for slice in memory.get_slices(at, length) {
                    let part = slice.ok()?.len();
                    // More than any packet needs is not read into: the sum stays far from overflowing.
                    bytes += part.min(MAX_PACKET);
                    parts.push_back((at, part.min(MAX_PACKET)));
                    at.0 += part as u64;
                }
            }
            let first = parts.get(before).map_or(0, |(_, length)| *length);
            (first >= HEADER_BYTES).then_some(())
        };
        if add(&mut self.parts).is_none() {
            self.parts.truncate(before);
            return None;
        }
        self.buffers.push_back(Buffer { head, parts: self.parts.len() - before, bytes });
        self.bytes += bytes;
        Some(())
    }

    /// Where the next packet is to be read to.
    pub(super) fn slices<'a>(&self, memory: &'a GuestMemory) -> Vec<VolatileSlice<'a>> {
        let parts = match self.framing {
            Framing::OneBuffer => self.buffers.front().map_or(0, |buffer| buffer.parts),
            Framing::Mergeable { .. } => self.parts.len(),
        };
        let slice = |(at, length): &(GuestAddress, usize)| memory.get_slice(*at, *length).ok();
        self.parts.iter().take(parts).filter_map(slice).collect()
    }

    /// How many buffers a packet of `bytes` fills.
    pub(super) fn count_for(&self, bytes: usize) -> u16 {
        let mut room = 0;
        let full = self.buffers.iter().take_while(|buffer| {
            let more = room < bytes;
            room += buffer.bytes;
            more
        });
        full.count() as u16
    }

    /// Takes the first `count` buffers, which a packet of `bytes` fills: (head, bytes) of each.
    pub(super) fn take(&mut self, count: u16, bytes: usize) -> impl Iterator<Item = (u16, u32)> {
        let mut left = bytes;
        let Self { buffers, parts, bytes, .. } = self;
        buffers.drain(..usize::from(count)).map(move |buffer| {
            parts.drain(..buffer.parts);
            *bytes -= buffer.bytes;
            let filled = left.min(buffer.bytes);
            left -= filled;
            (buffer.head, filled as u32)
        })
    }
}
