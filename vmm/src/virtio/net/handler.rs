//! Serves the network device's queues and its tap on the event loop.

use std::fs::File;
use std::io;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_queue::{DescriptorChain, Queue};
use vm_memory::{Bytes, GuestMemoryBackend, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use super::receive::{ReceiveBuffers, Refill};
use super::sys::HEADER_BYTES;
use super::{Framing, MAX_PACKET};
use crate::error::{Error, Result};
use crate::memory::GuestMemory;
use crate::virtio::Activation;
use crate::virtio::queue::VirtQueue;
use crate::virtio::sys;

/// Buffers that one packet of the guest may be made of, of the 1024 that the kernel takes.
const MAX_SLICES: usize = 256;
/// Packets a turn and direction, so that a flood does not starve the other devices.
const MAX_PACKETS_A_TURN: usize = 128;
/// Offset of `num_buffers` in the header.
const NUM_BUFFERS: usize = 10;

const TOKEN_RX: u32 = 0;
const TOKEN_TX: u32 = 1;
const TOKEN_TAP: u32 = 2;

#[derive(Debug)]
pub(super) struct NetHandler {
    tap: File,
    memory: GuestMemory,
    rx: VirtQueue,
    tx: VirtQueue,
    buffers: ReceiveBuffers,
    /// Whether the tap is watched; it is not while the guest offers too few buffers.
    watching: bool,
}

impl NetHandler {
    pub(super) fn new(tap: File, activation: Activation, framing: Framing) -> Result<Self> {
        let Ok([rx, tx]) = <[(Queue, EventFd); 2]>::try_from(activation.queues) else {
            return Err(Error::os("start the network device")(io::ErrorKind::InvalidInput.into()));
        };
        Ok(Self {
            tap,
            memory: activation.memory,
            rx: VirtQueue::new(rx, &activation.interrupt),
            tx: VirtQueue::new(tx, &activation.interrupt),
            buffers: ReceiveBuffers::new(framing),
            watching: true,
        })
    }

    fn watch(&mut self, wanted: bool, ops: &mut EventOps<'_>) {
        if wanted != self.watching {
            let events = if wanted { EventSet::IN } else { EventSet::empty() };
            if ops.modify(Events::with_data(&self.tap, TOKEN_TAP, events)).is_ok() {
                self.watching = wanted;
            }
        }
    }

    /// Gives packets of the tap to the guest.
    fn receive(&mut self, ops: &mut EventOps<'_>) {
        for _ in 0..MAX_PACKETS_A_TURN {
            if self.buffers.refill(&mut self.rx, &self.memory) == Refill::Short {
                // The guest notifies when it has more buffers.
                self.watch(false, ops);
                break;
            }
            self.watch(true, ops);
            let slices = self.buffers.slices(&self.memory);
            let Ok(bytes) = sys::read_into(&self.tap, &slices) else { break };
            let count = self.buffers.count_for(bytes);
            if let Some(first) = slices.first() {
                let _ = first.write_slice(&count.to_le_bytes(), NUM_BUFFERS);
            }
            drop(slices);
            self.rx.add_used_together(&self.memory, self.buffers.take(count, bytes));
        }
        self.rx.interrupt(&self.memory);
    }

    /// Gives packets of the guest to the tap.
    fn transmit(&mut self) {
        self.tx.disable_notification(&self.memory);
        for turn in 0.. {
            if turn == MAX_PACKETS_A_TURN {
                self.tx.come_back();
                break;
            }
            let Some(chain) = self.tx.pop(&self.memory) else { break };
            let head = chain.head_index();
            if let Some(slices) = packet(&self.memory, chain) {
                // A packet that the tap does not take is lost, as on a wire.
                let _ = sys::write_from(&self.tap, &slices);
            }
            self.tx.add_used(&self.memory, head, 0);
        }
        self.tx.interrupt(&self.memory);
    }
}

/// The packet in `chain`, checked to lie in guest memory and to be of a packet's size.
fn packet<'a>(
    memory: &'a GuestMemory,
    chain: DescriptorChain<&GuestMemory>,
) -> Option<Vec<VolatileSlice<'a>>> {
    let mut found = Vec::new();
    let mut total = 0_usize;
    for descriptor in chain {
        if descriptor.is_write_only() {
            return None;
        }
        for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
            let slice = slice.ok()?;
            total += slice.len();
            found.push(slice);
            if found.len() > MAX_SLICES || total > MAX_PACKET {
                return None;
            }
        }
    }
    (total >= HEADER_BYTES).then_some(found)
}

impl MutEventSubscriber for NetHandler {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::with_data(&self.rx, TOKEN_RX, EventSet::IN));
        let _ = ops.add(Events::with_data(&self.tx, TOKEN_TX, EventSet::IN));
        let _ = ops.add(Events::with_data(&self.tap, TOKEN_TAP, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            TOKEN_RX => {
                self.rx.acknowledge();
                self.receive(ops);
            }
            TOKEN_TX => {
                self.tx.acknowledge();
                self.transmit();
            }
            _ => self.receive(ops),
        }
    }
}
