//! Serves a block device's queue on the event loop.

use std::io;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};

use super::Medium;
use super::request::serve;
use crate::error::{Error, Result};
use crate::memory::GuestMemory;
use crate::virtio::Activation;
use crate::virtio::queue::VirtQueue;

/// Requests that are served before other devices get their turn: a guest that fills its queue without end must not starve
/// the devices that share the loop.
const MAX_REQUESTS_A_TURN: usize = 256;

#[derive(Debug)]
pub(super) struct BlockHandler {
    medium: Medium,
    memory: GuestMemory,
    queue: VirtQueue,
}

impl BlockHandler {
    pub(super) fn new(medium: Medium, mut activation: Activation) -> Result<Self> {
        let queue = activation
            .queues
            .pop()
            .ok_or_else(|| Error::os("start a block device")(io::ErrorKind::InvalidInput.into()))?;
        let queue = VirtQueue::new(queue, &activation.interrupt);
        Ok(Self { medium, memory: activation.memory, queue })
    }
}

impl MutEventSubscriber for BlockHandler {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::new(&self.queue, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.queue.acknowledge();
        self.queue.disable_notification(&self.memory);
        for turn in 0.. {
            if turn == MAX_REQUESTS_A_TURN {
                self.queue.come_back();
                break;
            }
            let Some(chain) = self.queue.pop(&self.memory) else { break };
            let head = chain.head_index();
            let written = serve(&self.medium, &self.memory, chain);
            self.queue.add_used(&self.memory, head, written);
        }
        self.queue.interrupt(&self.memory);
    }
}
