//! Serves a block device's queue on the event loop.

use std::io;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::Medium;
use super::request::serve;
use crate::error::{Error, Result};
use crate::memory::GuestMemory;
use crate::virtio::{Activation, Interrupt};

/// Requests that are served before other devices get their turn: a guest that fills its queue without end must not starve
/// the devices that share the loop.
const MAX_REQUESTS_A_TURN: usize = 256;

#[derive(Debug)]
pub(super) struct BlockHandler {
    medium: Medium,
    memory: GuestMemory,
    interrupt: Interrupt,
    queue: Queue,
    notifier: EventFd,
}

impl BlockHandler {
    pub(super) fn new(medium: Medium, mut activation: Activation) -> Result<Self> {
        let (queue, notifier) = activation
            .queues
            .pop()
            .ok_or_else(|| Error::os("start a block device")(io::ErrorKind::InvalidInput.into()))?;
        Ok(Self { medium, memory: activation.memory, interrupt: activation.interrupt, queue, notifier })
    }

    fn serve_turn(&mut self) -> bool {
        for _ in 0..MAX_REQUESTS_A_TURN {
            let Some(chain) = self.queue.pop_descriptor_chain(&self.memory) else {
                // With notifications off until here; the queue may have grown meanwhile.
                match self.queue.enable_notification(&self.memory) {
                    Ok(true) => continue,
                    _ => return false,
                }
            };
            let head = chain.head_index();
            let written = serve(&self.medium, &self.memory, chain);
            if self.queue.add_used(&self.memory, head, written).is_err() {
                return false;
            }
        }
        true
    }
}

impl MutEventSubscriber for BlockHandler {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::new(&self.notifier, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        let _ = self.notifier.read();
        let _ = self.queue.disable_notification(&self.memory);
        if self.serve_turn() {
            // More may be waiting: come back after the others.
            let _ = self.notifier.write(1);
        }
        if self.queue.needs_notification(&self.memory).unwrap_or(true) {
            self.interrupt.used_buffers();
        }
    }
}
