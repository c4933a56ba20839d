//! A virtqueue of an active device, as its handler sees it.
//!
//! Everything in a ring is the guest's to write, at any time. What no correct driver writes (an index that runs ahead by more than the
//! ring holds, a head beyond its end) breaks the queue: it is not looked at again, and the device asks for a reset.

use std::ops::Deref;
use std::os::fd::{AsRawFd, RawFd};
use std::sync::Arc;
use std::sync::atomic::{Ordering, fence};

use virtio_bindings::virtio_ring::VRING_AVAIL_F_NO_INTERRUPT;
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Address, Bytes, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::Interrupt;
use crate::memory::GuestMemory;

/// Flags and index, at the start of both rings, bytes.
const RING_HEADER: u64 = 4;
/// Where in them the index is.
const RING_INDEX: u64 = 2;
const USED_ELEMENT: u64 = 8;
const AVAILABLE_ELEMENT: u64 = 2;

/// A virtqueue, its notification descriptor and its interrupt.
#[derive(Debug)]
pub struct VirtQueue {
    queue: Queue,
    notifier: EventFd,
    interrupt: Interrupt,
    /// Used index up to which the driver has been interrupted or did not want to be.
    announced: u16,
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Working,
    Broken,
}

impl VirtQueue {
    /// A queue that the transport has checked.
    pub fn new((queue, notifier): (Queue, EventFd), interrupt: &Interrupt) -> Self {
        let announced = queue.next_used();
        Self { queue, notifier, interrupt: interrupt.clone(), announced, state: State::Working }
    }

    /// The next chain that the driver has made available. Without one, the driver's next notification has been asked for
    /// when this returns.
    pub fn pop<'m>(&mut self, memory: &'m GuestMemory) -> Option<DescriptorChain<&'m GuestMemory>> {
        self.pop_with(&memory)
    }

    /// As [`Self::pop`]; the chain may go to another thread.
    pub fn pop_shared(&mut self, memory: &Arc<GuestMemory>) -> Option<DescriptorChain<Arc<GuestMemory>>> {
        self.pop_with(memory)
    }

    fn pop_with<M>(&mut self, memory: &M) -> Option<DescriptorChain<M>>
    where
        M: Clone + Deref<Target = GuestMemory>,
    {
        if let Some(chain) = self.take(memory) {
            return Some(chain);
        }
        if self.state == State::Broken || !self.queue.ready() {
            return None;
        }
        match self.queue.enable_notification(memory.deref()) {
            Ok(false) => None,
            // It came after the first look and before the request for a notification was visible.
            Ok(true) => {
                let chain = self.take(memory);
                if chain.is_none() {
                    self.fail();
                }
                chain
            }
            Err(_) => {
                self.fail();
                None
            }
        }
    }

    fn take<M>(&mut self, memory: &M) -> Option<DescriptorChain<M>>
    where
        M: Clone + Deref<Target = GuestMemory>,
    {
        // A queue that the driver has not set up is in order, and empty.
        if self.state == State::Broken || !self.queue.ready() {
            return None;
        }
        // `pop_descriptor_chain` would not tell a broken ring from an empty one.
        match self.queue.iter(memory.clone()) {
            Ok(mut chains) => chains.next(),
            Err(_) => {
                self.fail();
                None
            }
        }
    }

    /// Undoes the last `count` calls of [`Self::pop`] that returned a chain.
    pub fn give_back(&mut self, count: u16) {
        self.queue.set_next_avail(self.queue.next_avail().wrapping_sub(count));
    }

    /// Gives a chain back to the driver, with `bytes` written to it.
    pub fn add_used(&mut self, memory: &GuestMemory, head: u16, bytes: u32) {
        self.add_used_together(memory, [(head, bytes)]);
    }

    /// Gives chains (head, bytes written) back to the driver, which sees all of them or none.
    pub fn add_used_together(&mut self, memory: &GuestMemory, chains: impl IntoIterator<Item = (u16, u32)>) {
        if self.state == State::Working && self.publish(memory, chains).is_none() {
            self.fail();
        }
    }

    fn publish(&mut self, memory: &GuestMemory, chains: impl IntoIterator<Item = (u16, u32)>) -> Option<()> {
        let ring = GuestAddress(self.queue.used_ring());
        let mut next = self.queue.next_used();
        for (head, bytes) in chains {
            if head >= self.queue.size() {
                return None;
            }
            let slot = u64::from(next % self.queue.size());
            let element = u64::from(head) | u64::from(bytes) << 32;
            memory.write_obj(element.to_le(), ring.checked_add(RING_HEADER + slot * USED_ELEMENT)?).ok()?;
            next = next.wrapping_add(1);
        }
        self.queue.set_next_used(next);
        memory.store(next.to_le(), ring.checked_add(RING_INDEX)?, Ordering::Release).ok()
    }

    /// Asks the driver not to notify while chains are being taken.
    pub fn disable_notification(&mut self, memory: &GuestMemory) {
        let _ = self.queue.disable_notification(memory);
    }

    /// Interrupts the guest if chains have been used that it wants to hear of: once for any number of them.
    pub fn interrupt(&mut self, memory: &GuestMemory) {
        let (old, new) = (self.announced, self.queue.next_used());
        self.announced = new;
        // What is asked for must be read after the driver can see the used chains: it may go to sleep in between.
        fence(Ordering::SeqCst);
        if self.state == State::Working
            && new != old
            && self.wants_interrupt(memory, old, new).unwrap_or(true)
        {
            self.interrupt.used_buffers();
        }
    }

    /// Whether the driver wants to be interrupted for the used chains from `old` to `new` (virtio 1.2, sections 2.7.7 and 2.7.10).
    fn wants_interrupt(&self, memory: &GuestMemory, old: u16, new: u16) -> Option<bool> {
        let ring = GuestAddress(self.queue.avail_ring());
        if self.queue.event_idx_enabled() {
            let offset = RING_HEADER + u64::from(self.queue.size()) * AVAILABLE_ELEMENT;
            let event = u16::from_le(memory.load(ring.checked_add(offset)?, Ordering::Relaxed).ok()?);
            return Some(new.wrapping_sub(event).wrapping_sub(1) < new.wrapping_sub(old));
        }
        let flags = u16::from_le(memory.load(ring, Ordering::Relaxed).ok()?);
        Some(u32::from(flags) & VRING_AVAIL_F_NO_INTERRUPT == 0)
    }

    /// Takes the notifications that have come.
    pub fn acknowledge(&self) {
        let _ = self.notifier.read();
    }

    /// Notifies this queue as the guest would: work is left, to be done after other devices had their turn.
    pub fn come_back(&self) {
        if self.state == State::Working {
            let _ = self.notifier.write(1);
        }
    }

    /// How many chains the ring holds.
    pub fn size(&self) -> u16 {
        self.queue.size()
    }

    /// A second descriptor of the same notification.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn notifier(&self) -> std::io::Result<EventFd> {
        self.notifier.try_clone()
    }

    fn fail(&mut self) {
        self.state = State::Broken;
        self.interrupt.needs_reset();
    }
}

impl AsRawFd for VirtQueue {
    fn as_raw_fd(&self) -> RawFd {
        self.notifier.as_raw_fd()
    }
}
