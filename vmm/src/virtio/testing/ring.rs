//! The driver's side of a virtqueue (virtio 1.2, section 2.7).

use vm_memory::{Bytes, GuestAddress};

use crate::memory::GuestMemory;

const NEXT: u16 = 1;
const WRITE: u16 = 2;
/// Room of one queue's rings, bytes: enough for 1024 descriptors.
const STRIDE: u64 = 0x8000;

/// One buffer of a chain.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Buffer {
    /// For the device to read: address, bytes.
    Readable(u64, u32),
    /// For the device to write.
    Writable(u64, u32),
}

pub(crate) struct Ring {
    pub(crate) size: u16,
    pub(crate) descriptors: u64,
    pub(crate) available: u64,
    pub(crate) used: u64,
    pub(crate) next_descriptor: u16,
    pub(crate) next_available: u16,
    pub(crate) last_used: u16,
}

impl Ring {
    pub(crate) fn new(index: usize, size: u16) -> Self {
        let base = index as u64 * STRIDE;
        Self {
            size,
            descriptors: base,
            available: base + 0x4000,
            used: base + 0x5000,
            next_descriptor: 0,
            next_available: 0,
            last_used: 0,
        }
    }

    /// Makes a chain available and gives its head back. The caller waits for chains to be used before descriptors run out.
    pub(crate) fn add(&mut self, memory: &GuestMemory, buffers: &[Buffer]) -> u16 {
        let head = self.next_descriptor;
        for (index, buffer) in buffers.iter().enumerate() {
            let (address, length, mut flags) = match *buffer {
                Buffer::Readable(address, length) => (address, length, 0),
                Buffer::Writable(address, length) => (address, length, WRITE),
            };
            let at = self.next_descriptor;
            self.next_descriptor = (at + 1) % self.size;
            if index + 1 < buffers.len() {
                flags |= NEXT;
            }
            self.write_descriptor(memory, at, address, length, flags, self.next_descriptor);
        }
        self.offer(memory, head);
        head
    }

    pub(crate) fn write_descriptor(
        &self,
        memory: &GuestMemory,
        index: u16,
        address: u64,
        length: u32,
        flags: u16,
        next: u16,
    ) {
        let at = GuestAddress(self.descriptors + u64::from(index) * 16);
        let rest = u64::from(length) | u64::from(flags) << 32 | u64::from(next) << 48;
        memory.write_obj([address, rest], at).unwrap();
    }

    /// Puts `head` into the available ring and raises its index.
    pub(crate) fn offer(&mut self, memory: &GuestMemory, head: u16) {
        let slot = u64::from(self.next_available % self.size);
        memory.write_obj(head, GuestAddress(self.available + 4 + 2 * slot)).unwrap();
        self.next_available = self.next_available.wrapping_add(1);
        self.write_index(memory, self.next_available);
    }

    pub(crate) fn write_index(&self, memory: &GuestMemory, index: u16) {
        memory.store(index, GuestAddress(self.available + 2), std::sync::atomic::Ordering::SeqCst).unwrap();
    }

    pub(crate) fn used_index(&self, memory: &GuestMemory) -> u16 {
        memory.load(GuestAddress(self.used + 2), std::sync::atomic::Ordering::SeqCst).unwrap()
    }

    /// The used index up to which the driver wants no interrupt (`used_event`).
    pub(crate) fn want_interrupt_after(&self, memory: &GuestMemory, index: u16) {
        memory.write_obj(index, GuestAddress(self.available + 4 + 2 * u64::from(self.size))).unwrap();
    }

    /// The next chain that the device has used: head, bytes.
    pub(crate) fn take_used(&mut self, memory: &GuestMemory) -> Option<(u16, u32)> {
        if self.used_index(memory) == self.last_used {
            return None;
        }
        let slot = u64::from(self.last_used % self.size);
        let [head, bytes]: [u32; 2] = memory.read_obj(GuestAddress(self.used + 4 + 8 * slot)).unwrap();
        self.last_used = self.last_used.wrapping_add(1);
        Some((head as u16, bytes))
    }
}
