//! virtio 1.2 devices over memory-mapped windows. Each device is one file set: the device, which the transport asks for
//! features and configuration, and its queue handler, which takes ownership of the queues when the guest's driver is ready and
//! lives on the event loop from then on.

pub mod block;
pub mod mmio;
pub mod net;
pub mod rng;
pub mod vsock;

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use event_manager::MutEventSubscriber;
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::error::Result;
use crate::memory::GuestMemory;

/// VIRTIO_F_VERSION_1: every device here is a modern one.
pub const FEATURE_VERSION_1: u64 = 1 << virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
/// VIRTIO_F_RING_EVENT_IDX: fewer notifications, so fewer exits.
pub const FEATURE_EVENT_IDX: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

/// A handler on the event loop.
pub type Handler = Box<dyn MutEventSubscriber + Send>;

/// A device as its transport sees it.
pub trait VirtioDevice: Send {
    /// Device type (virtio 1.2, section 5).
    fn device_type(&self) -> u32;

    /// Largest size of each queue; a power of two each.
    fn queue_sizes(&self) -> &[u16];

    /// Features offered, [`FEATURE_VERSION_1`] among them.
    fn features(&self) -> u64;

    /// The device's configuration space; reads beyond its end give zeros.
    fn config(&self) -> &[u8];

    /// Moves the queues to a handler for the event loop. Called once, when the driver says DRIVER_OK.
    ///
    /// # Errors
    /// A resource of the host is missing; the device then says NEEDS_RESET.
    fn activate(&mut self, activation: Activation) -> Result<Handler>;
}

/// What a device needs to serve its queues.
#[derive(Debug)]
pub struct Activation {
    /// The guest's memory. Every address from a queue is checked against it.
    pub memory: GuestMemory,
    /// The guest's interrupt line.
    pub interrupt: Interrupt,
    /// Queues, each with the descriptor that the guest's notification signals.
    pub queues: Vec<(Queue, EventFd)>,
    /// Features that device and driver have agreed on.
    pub features: u64,
}

/// The device's interrupt: a status that the driver reads, and a line.
#[derive(Debug, Clone)]
pub struct Interrupt {
    status: Arc<AtomicU32>,
    line: Arc<EventFd>,
}

impl Interrupt {
    const USED_BUFFER: u32 = 1;

    /// An interrupt on `line`.
    pub fn new(line: EventFd) -> Self {
        Self { status: Arc::default(), line: Arc::new(line) }
    }

    /// Tells the driver that used buffers are there.
    pub fn used_buffers(&self) {
        self.status.fetch_or(Self::USED_BUFFER, Ordering::SeqCst);
        // A full counter means that an interrupt is pending already.
        let _ = self.line.write(1);
    }

    fn status(&self) -> u32 {
        self.status.load(Ordering::SeqCst)
    }

    fn acknowledge(&self, bits: u32) {
        self.status.fetch_and(!bits, Ordering::SeqCst);
    }
}
