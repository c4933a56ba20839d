//! A driver's side of a virtqueue (virtio 1.2, section 2.7), as little of it as is needed.

use std::sync::atomic::Ordering;

use rkvm_vmm::memory::GuestMemory;
use virtio_queue::{Queue, QueueT};
use vm_memory::{Bytes, GuestAddress};

const NEXT: u64 = 1;
const WRITE: u64 = 2;
/// Room of one queue's rings, bytes.
const STRIDE: u64 = 0x8000;

/// Four mebibytes of a guest's memory.
pub fn memory() -> GuestMemory {
    GuestMemory::from_ranges(&[(GuestAddress(0), 4 << 20)]).unwrap()
}

/// One buffer of a chain: address, bytes.
#[derive(Debug, Clone, Copy)]
pub enum Buffer {
    /// For the device to read.
    Readable(u64, u32),
    /// For the device to write.
    Writable(u64, u32),
}

/// The driver's view of a queue.
pub struct Ring {
    size: u16,
    base: u64,
    descriptor: u16,
    available: u16,
    used: u16,
}

impl Ring {
    /// The queue at `index`.
    pub fn new(index: usize, size: u16) -> Self {
        Self { size, base: index as u64 * STRIDE, descriptor: 0, available: 0, used: 0 }
    }

    /// The device's view of it, ready.
    pub fn queue(&self) -> Queue {
        let mut queue = Queue::new(self.size).unwrap();
        queue.set_size(self.size);
        queue.try_set_desc_table_address(GuestAddress(self.base)).unwrap();
        queue.try_set_avail_ring_address(GuestAddress(self.base + 0x4000)).unwrap();
        queue.try_set_used_ring_address(GuestAddress(self.base + 0x5000)).unwrap();
        queue.set_ready(true);
        queue
    }

    /// Makes a chain available. Descriptors are taken in turn: the caller waits before they run out.
    pub fn add(&mut self, memory: &GuestMemory, buffers: &[Buffer]) {
        let head = self.descriptor;
        for (index, buffer) in buffers.iter().enumerate() {
            let (address, length, mut flags) = match *buffer {
                Buffer::Readable(address, length) => (address, length, 0),
                Buffer::Writable(address, length) => (address, length, WRITE),
            };
            let at = GuestAddress(self.base + u64::from(self.descriptor) * 16);
            self.descriptor = (self.descriptor + 1) % self.size;
            if index + 1 < buffers.len() {
                flags |= NEXT;
            }
            let rest = u64::from(length) | flags << 32 | u64::from(self.descriptor) << 48;
            memory.write_obj([address, rest], at).unwrap();
        }
        let slot = u64::from(self.available % self.size);
        memory.write_obj(head, GuestAddress(self.base + 0x4004 + 2 * slot)).unwrap();
        self.available = self.available.wrapping_add(1);
        memory.store(self.available, GuestAddress(self.base + 0x4002), Ordering::SeqCst).unwrap();
    }

    /// Whether the device has used another chain.
    pub fn take_used(&mut self, memory: &GuestMemory) -> bool {
        let index: u16 = memory.load(GuestAddress(self.base + 0x5002), Ordering::SeqCst).unwrap();
        if index == self.used {
            return false;
        }
        self.used = self.used.wrapping_add(1);
        true
    }
}
