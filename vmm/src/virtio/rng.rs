//! Entropy device (virtio 1.2, section 5.4): the guest's random numbers come from the host's.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use event_manager::{EventOps, EventSet, Events, MutEventSubscriber};
use virtio_bindings::virtio_ids::VIRTIO_ID_RNG;
use virtio_queue::{DescriptorChain, Writer};

use super::queue::VirtQueue;
use super::{Activation, FEATURE_EVENT_IDX, FEATURE_VERSION_1, Handler, VirtioDevice};
use crate::error::{Error, Result};
use crate::memory::GuestMemory;

/// Most random bytes a request: overlapping descriptors let a guest ask for gigabytes with one small chain, and the host would
/// spend its time on them. A driver that gets less than it asked for asks again (section 5.4.6).
const MAX_BYTES: usize = 64 << 10;
/// Requests before other devices get their turn.
const MAX_REQUESTS_A_TURN: usize = 8;

/// The device.
#[derive(Debug)]
pub struct Rng {
    source: File,
}

impl Rng {
    /// A device that reads `/dev/urandom`; opened here, because the handler may run where no file can be opened.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn new() -> Result<Self> {
        let path = Path::new("/dev/urandom");
        let source = File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Ok(Self { source })
    }

    /// A device that reads `source`, an open `/dev/urandom`: for a process in a jail, which has no paths.
    pub fn over(source: File) -> Self {
        Self { source }
    }
}

impl VirtioDevice for Rng {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_RNG
    }

    fn queue_sizes(&self) -> &[u16] {
        &[64]
    }

    fn features(&self) -> u64 {
        FEATURE_VERSION_1 | FEATURE_EVENT_IDX
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn activate(&mut self, mut activation: Activation) -> Result<Handler> {
        let queue = activation
            .queues
            .pop()
            .ok_or_else(|| Error::os("start the entropy device")(io::ErrorKind::InvalidInput.into()))?;
        let source = self.source.try_clone().map_err(Error::os("start the entropy device"))?;
        let queue = VirtQueue::new(queue, &activation.interrupt);
        Ok(Box::new(RngHandler { source, memory: activation.memory, queue }))
    }
}

#[derive(Debug)]
struct RngHandler {
    source: File,
    memory: GuestMemory,
    queue: VirtQueue,
}

impl MutEventSubscriber for RngHandler {
    fn init(&mut self, ops: &mut EventOps<'_>) {
        let _ = ops.add(Events::new(&self.queue, EventSet::IN));
    }

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {
        self.queue.acknowledge();
        for turn in 0.. {
            if turn == MAX_REQUESTS_A_TURN {
                self.queue.come_back();
                break;
            }
            let Some(chain) = self.queue.pop(&self.memory) else { break };
            let head = chain.head_index();
            let bytes = fill(&mut self.source, &self.memory, chain).unwrap_or(0);
            self.queue.add_used(&self.memory, head, bytes);
        }
        self.queue.interrupt(&self.memory);
    }
}

/// Fills the chain's buffers with random bytes; how many.
fn fill(source: &mut File, memory: &GuestMemory, chain: DescriptorChain<&GuestMemory>) -> Option<u32> {
    let mut writer: Writer<'_> = chain.writer(memory).ok()?;
    let mut bytes = vec![0_u8; writer.available_bytes().min(MAX_BYTES)];
    source.read_exact(&mut bytes).ok()?;
    writer.write_all(&bytes).ok()?;
    u32::try_from(bytes.len()).ok()
}
