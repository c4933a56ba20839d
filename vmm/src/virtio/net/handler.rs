//! Serves the network device's queues and its tap on the event loop.

use std::fs::File;
use std::io;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_queue::{DescriptorChain, Queue, QueueOwnedT, QueueT};
use vm_memory::{Bytes, GuestMemoryBackend, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use super::sys::{self, HEADER_BYTES};
use crate::error::{Error, Result};
use crate::memory::GuestMemory;
use crate::virtio::{Activation, Interrupt};

/// Largest packet with its header, bytes: 64 KiB of payload and room for link and virtio headers. A longer chain is dropped
/// before the host's kernel is made to look at it.
const MAX_PACKET: usize = (64 << 10) + 64;
/// Buffers that one packet may be made of, of the 1024 that the kernel takes.
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
    interrupt: Interrupt,
    rx: (Queue, EventFd),
    tx: (Queue, EventFd),
    /// Whether the tap is watched; it is not while the guest offers no buffers.
    watching: bool,
}

impl NetHandler {
    pub(super) fn new(tap: File, activation: Activation) -> Result<Self> {
        let Ok([rx, tx]) = <[(Queue, EventFd); 2]>::try_from(activation.queues) else {
            return Err(Error::os("start the network device")(io::ErrorKind::InvalidInput.into()));
        };
        Ok(Self { tap, memory: activation.memory, interrupt: activation.interrupt, rx, tx, watching: true })
    }

    fn watch(&mut self, wanted: bool, ops: &mut EventOps<'_>) {
        if wanted != self.watching {
            let events = if wanted { EventSet::IN } else { EventSet::empty() };
            self.watching = ops.modify(Events::with_data(&self.tap, TOKEN_TAP, events)).is_ok() == wanted;
        }
    }

    /// Gives packets of the tap to the guest.
    fn receive(&mut self, ops: &mut EventOps<'_>) {
        let mut used = false;
        for _ in 0..MAX_PACKETS_A_TURN {
            let Some(chain) = self.rx.0.pop_descriptor_chain(&self.memory) else {
                if self.rx.0.enable_notification(&self.memory).unwrap_or(false) {
                    continue;
                }
                self.watch(false, ops);
                break;
            };
            let head = chain.head_index();
            let Some(slices) = slices(&self.memory, chain, Side::Writable) else {
                // A buffer that cannot hold a packet goes back unused.
                let _ = self.rx.0.add_used(&self.memory, head, 0);
                used = true;
                continue;
            };
            match sys::read_packet(&self.tap, &slices) {
                Ok(count) => {
                    // The tap's header ends before this field, and the driver expects 1.
                    let _ = slices[0].write_slice(&1_u16.to_le_bytes(), NUM_BUFFERS);
                    let _ = self.rx.0.add_used(&self.memory, head, count as u32);
                    used = true;
                }
                Err(_) => {
                    self.rx.0.go_to_previous_position();
                    break;
                }
            }
        }
        if used && self.rx.0.needs_notification(&self.memory).unwrap_or(true) {
            self.interrupt.used_buffers();
        }
    }

    /// Gives packets of the guest to the tap; whether more may be waiting.
    fn transmit(&mut self) -> bool {
        let mut more = true;
        let _ = self.tx.0.disable_notification(&self.memory);
        for _ in 0..MAX_PACKETS_A_TURN {
            let Some(chain) = self.tx.0.pop_descriptor_chain(&self.memory) else {
                if self.tx.0.enable_notification(&self.memory).unwrap_or(false) {
                    continue;
                }
                more = false;
                break;
            };
            let head = chain.head_index();
            if let Some(slices) = slices(&self.memory, chain, Side::Readable) {
                // A packet that the tap does not take is lost, as on a wire.
                let _ = sys::write_packet(&self.tap, &slices);
            }
            if self.tx.0.add_used(&self.memory, head, 0).is_err() {
                more = false;
                break;
            }
        }
        if self.tx.0.needs_notification(&self.memory).unwrap_or(true) {
            self.interrupt.used_buffers();
        }
        more
    }
}

/// Which descriptors of a chain are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Side {
    Readable,
    Writable,
}

/// The chain's buffers, checked to lie in guest memory and to be of a packet's size; at least a header.
fn slices<'a>(
    memory: &'a GuestMemory,
    chain: DescriptorChain<&GuestMemory>,
    side: Side,
) -> Option<Vec<VolatileSlice<'a>>> {
    let mut found = Vec::new();
    let mut total = 0_usize;
    for descriptor in chain {
        if descriptor.is_write_only() != (side == Side::Writable) {
            return None;
        }
        for slice in memory.get_slices(descriptor.addr(), descriptor.len() as usize) {
            let slice = slice.ok()?;
            total += slice.len();
            found.push(slice);
            if found.len() > MAX_SLICES || (total > MAX_PACKET && side == Side::Readable) {
                return None;
            }
        }
    }
    (total >= HEADER_BYTES && found.first().is_some_and(|first| first.len() >= HEADER_BYTES)).then_some(found)
}

impl MutEventSubscriber for NetHandler {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::with_data(&self.rx.1, TOKEN_RX, EventSet::IN));
        let _ = ops.add(Events::with_data(&self.tx.1, TOKEN_TX, EventSet::IN));
        let _ = ops.add(Events::with_data(&self.tap, TOKEN_TAP, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            TOKEN_RX => {
                let _ = self.rx.1.read();
                self.watch(true, ops);
                self.receive(ops);
            }
            TOKEN_TX => {
                let _ = self.tx.1.read();
                if self.transmit() {
                    let _ = self.tx.1.write(1);
                }
            }
            _ => self.receive(ops),
        }
    }
}
