//! Serves the console's queues and its two ends on the event loop.

use std::fs::File;
use std::io::{self, Write};
use std::sync::{Arc, PoisonError};

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_queue::{DescriptorChain, Queue};
use vm_memory::{Bytes, GuestMemoryBackend, VolatileSlice};
use vmm_sys_util::eventfd::EventFd;

use super::Shared;
use crate::error::{Error, Result};
use crate::memory::GuestMemory;
use crate::virtio::Activation;
use crate::virtio::queue::VirtQueue;
use crate::virtio::sys;

/// Requests before other devices get their turn.
const REQUESTS_A_TURN: usize = 32;
/// Bytes of one request that are printed or filled: overlapping descriptors could name gigabytes.
const MAX_BYTES: usize = 64 << 10;
/// Parts of one request that are filled.
const MAX_PARTS: usize = 64;

const TOKEN_RX: u32 = 0;
const TOKEN_TX: u32 = 1;
const TOKEN_INPUT: u32 = 2;
const TOKEN_OUTPUT: u32 = 3;

#[derive(Debug)]
pub(super) struct ConsoleHandler {
    input: File,
    output: File,
    shared: Arc<Shared>,
    memory: GuestMemory,
    rx: VirtQueue,
    tx: VirtQueue,
    /// Printed by the guest and not yet taken by the host.
    pending: Vec<u8>,
    input_watch: Watch,
    output_watch: Watch,
}

/// Whether an end is being waited for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Watch {
    On,
    Off,
    /// It has ended, or cannot be waited for.
    Never,
}

impl ConsoleHandler {
    pub(super) fn new(
        input: File,
        output: File,
        shared: Arc<Shared>,
        activation: Activation,
    ) -> Result<Self> {
        let Ok([rx, tx]) = <[(Queue, EventFd); 2]>::try_from(activation.queues) else {
            return Err(Error::os("start the console")(io::ErrorKind::InvalidInput.into()));
        };
        Ok(Self {
            input,
            output,
            shared,
            memory: activation.memory,
            rx: VirtQueue::new(rx, &activation.interrupt),
            tx: VirtQueue::new(tx, &activation.interrupt),
            pending: Vec::new(),
            input_watch: Watch::Off,
            output_watch: Watch::Off,
        })
    }

    fn watch_input(&mut self, wanted: Watch, ops: &mut EventOps<'_>) {
        let events = Events::with_data(&self.input, TOKEN_INPUT, EventSet::IN);
        set_watch(&mut self.input_watch, wanted, events, ops);
    }

    fn watch_output(&mut self, wanted: Watch, ops: &mut EventOps<'_>) {
        let events = Events::with_data(&self.output, TOKEN_OUTPUT, EventSet::OUT);
        set_watch(&mut self.output_watch, wanted, events, ops);
    }

    /// Gives what the host has typed to the guest.
    fn receive(&mut self, ops: &mut EventOps<'_>) {
        let mut next = Watch::On;
        for _ in 0..REQUESTS_A_TURN {
            let Some(chain) = self.rx.pop(&self.memory) else {
                next = Watch::Off;
                break;
            };
            let head = chain.head_index();
            let Some(slices) = writable(&self.memory, chain) else {
                self.rx.add_used(&self.memory, head, 0);
                continue;
            };
            match sys::read_into(&self.input, &slices) {
                Ok(0) => {
                    self.rx.give_back(1);
                    next = Watch::Never;
                    break;
                }
                Ok(count) => self.rx.add_used(&self.memory, head, count as u32),
                Err(error) => {
                    self.rx.give_back(1);
                    // A terminal whose other side has been closed gives an error.
                    next = if error.kind() == io::ErrorKind::WouldBlock { Watch::On } else { Watch::Never };
                    break;
                }
            }
        }
        self.watch_input(next, ops);
        self.rx.interrupt(&self.memory);
    }

    /// Prints what the guest has to say.
    fn transmit(&mut self, ops: &mut EventOps<'_>) {
        for turn in 0.. {
            if !self.flush() {
                break;
            }
            if turn == REQUESTS_A_TURN {
                self.tx.come_back();
                break;
            }
            let Some(chain) = self.tx.pop(&self.memory) else { break };
            let head = chain.head_index();
            for descriptor in chain.readable() {
                let (start, left) = (self.pending.len(), MAX_BYTES - self.pending.len());
                self.pending.resize(start + left.min(descriptor.len() as usize), 0);
                if self.memory.read_slice(&mut self.pending[start..], descriptor.addr()).is_err() {
                    self.pending.truncate(start);
                    break;
                }
            }
            self.tx.add_used(&self.memory, head, 0);
        }
        let next = if self.pending.is_empty() { Watch::Off } else { Watch::On };
        self.watch_output(next, ops);
        self.tx.interrupt(&self.memory);
    }

    /// Writes what is pending; whether all of it is gone.
    fn flush(&mut self) -> bool {
        while !self.pending.is_empty() {
            match self.output.write(&self.pending) {
                Ok(count) if count > 0 => drop(self.pending.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Nobody reads it any more: as on a line without a terminal.
                _ => self.pending.clear(),
            }
        }
        true
    }
}

fn set_watch(watch: &mut Watch, wanted: Watch, events: Events, ops: &mut EventOps<'_>) {
    *watch = match (*watch, wanted) {
        (Watch::Never, _) => Watch::Never,
        (Watch::Off, Watch::On) if ops.add(events).is_ok() => Watch::On,
        // A regular file, or the same descriptor as the other end's.
        (Watch::Off, Watch::On) => Watch::Never,
        (Watch::On, Watch::Off | Watch::Never) => {
            let _ = ops.remove(events);
            wanted
        }
        (_, same) => same,
    };
}

/// The chain's buffers, checked to be writable and to lie in guest memory; as much of them as is ever filled.
fn writable<'a>(
    memory: &'a GuestMemory,
    chain: DescriptorChain<&GuestMemory>,
) -> Option<Vec<VolatileSlice<'a>>> {
    let mut found = Vec::new();
    let mut left = MAX_BYTES;
    for descriptor in chain.take(MAX_PARTS) {
        if !descriptor.is_write_only() {
            return None;
        }
        for slice in memory.get_slices(descriptor.addr(), left.min(descriptor.len() as usize)) {
            let slice = slice.ok()?;
            left -= slice.len();
            found.push(slice);
        }
    }
    (left < MAX_BYTES).then_some(found)
}

impl MutEventSubscriber for ConsoleHandler {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::with_data(&self.rx, TOKEN_RX, EventSet::IN));
        let _ = ops.add(Events::with_data(&self.tx, TOKEN_TX, EventSet::IN));
    }

    fn process(&mut self, events: Events, ops: &mut EventOps<'_>) {
        match events.data() {
            TOKEN_RX => {
                self.rx.acknowledge();
                self.receive(ops);
            }
            TOKEN_TX => {
                self.tx.acknowledge();
                self.transmit(ops);
            }
            TOKEN_INPUT => self.receive(ops),
            _ => self.transmit(ops),
        }
    }
}

impl Drop for ConsoleHandler {
    fn drop(&mut self) {
        *self.shared.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }
}
