//! virtio 1.2 devices over memory-mapped windows. Each device is one file set: the device, which the transport asks for
//! features and configuration, and its queue handler, which takes ownership of the queues when the guest's driver is ready and
//! lives on the event loop from then on.

pub mod balloon;
pub mod block;
pub mod console;
pub mod fs;
pub mod mmio;
pub mod net;
pub mod queue;
pub mod rng;
mod sys;
pub mod vsock;
pub mod window;

#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, clippy::expect_used, reason = "a test fails by panicking")]
pub(crate) mod testing;
#[cfg(test)]
mod tests;

use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use event_manager::MutEventSubscriber;
use virtio_bindings::virtio_config::VIRTIO_CONFIG_S_NEEDS_RESET;
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_INTERRUPT_STATUS, VIRTIO_MMIO_STATUS,
};
use virtio_queue::Queue;
use vmm_sys_util::eventfd::EventFd;

use crate::error::Result;
use crate::memory::GuestMemory;
use crate::vm::ThreadSetup;
use window::Window;

/// VIRTIO_F_VERSION_1: every device here is a modern one.
pub const FEATURE_VERSION_1: u64 = 1 << virtio_bindings::virtio_config::VIRTIO_F_VERSION_1;
/// VIRTIO_F_RING_EVENT_IDX: fewer notifications, so fewer exits.
pub const FEATURE_EVENT_IDX: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_EVENT_IDX;

/// VIRTIO_F_INDIRECT_DESC: a request of many parts takes one place of the ring.
pub const FEATURE_INDIRECT: u64 = 1 << virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;

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

    /// Reads the configuration space from `offset` on, at any width and alignment. For devices whose configuration changes while
    /// they run; the others have [`Self::config`].
    fn read_config(&self, offset: usize, data: &mut [u8]) {
        copy_config(self.config(), offset, data);
    }

    /// The driver writes to the configuration space. What it may not write is ignored.
    fn write_config(&mut self, _offset: usize, _data: &[u8]) {}

    /// A number that is another one after each change of the configuration space.
    fn config_generation(&self) -> u32 {
        0
    }

    /// How many queues, from the first on, the driver must have set up before it may start the device.
    fn required_queues(&self) -> usize {
        self.queue_sizes().len()
    }

    /// What has the device use the buffers that its driver gives it.
    fn works(&self) -> Works {
        Works::WhenReached
    }

    /// Starts what threads of its own the device has; each calls `setup` first. Called once, when the machine starts: before that, the
    /// process may have to enter namespaces, which it cannot with threads, and later it may not be allowed to make any.
    ///
    /// # Errors
    /// The host has no thread left.
    fn start(&mut self, _setup: &ThreadSetup) -> Result<()> {
        Ok(())
    }

    /// Moves the queues to a handler for the event loop. Called when the driver says DRIVER_OK: once after each reset. The
    /// handler is dropped when the driver resets the device; it must not touch the guest's memory after that.
    ///
    /// # Errors
    /// A resource of the host is missing; the device then says NEEDS_RESET.
    fn activate(&mut self, activation: Activation) -> Result<Handler>;
}

/// What has a device use the buffers that its driver gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Works {
    /// The driver's requests, each of which is done: a queue that is not empty is work that is not done.
    WhenAsked,
    /// Somebody of the host who has found the machine, which nobody does before it is ready.
    WhenReached,
    /// The world outside, at any time.
    Anytime,
}

/// Copies what there is of `config` from `offset` on; behind its end are zeros.
fn copy_config(config: &[u8], offset: usize, data: &mut [u8]) {
    let config = config.get(offset..).unwrap_or_default();
    let count = data.len().min(config.len());
    data[..count].copy_from_slice(&config[..count]);
    data[count..].fill(0);
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

/// The device's interrupt: a status that the driver reads, a line, and what else the device may change of what the driver reads.
///
/// The driver reads the status without an exit ([`window`]), so nobody knows when it does. That used buffers are there stays in it once it
/// has been so: drivers look into their queues then, for nothing, as they must be ready to. That the configuration has changed
/// goes when the driver acknowledges it, unless it changed twice since the last time: then the driver may have looked in between,
/// and is told again. So no event is lost; each raises the line anew.
#[derive(Debug, Clone)]
pub struct Interrupt {
    window: Window,
    shared: Arc<Status>,
    line: Arc<EventFd>,
}

#[derive(Debug, Default)]
struct Status {
    /// Changes of the configuration that the driver has not acknowledged.
    changes: AtomicU32,
    /// The device cannot go on until the driver resets it.
    needs_reset: AtomicBool,
    /// Of whoever shows the configuration space: the last one to do so shows the last state of it.
    showing: Mutex<()>,
}

impl Interrupt {
    /// Bit of the status: used buffers are there.
    pub const USED_BUFFER: u32 = 1;
    const CONFIG_CHANGE: u32 = 2;

    /// An interrupt on `line` whose status is shown in `window`.
    pub fn new(line: EventFd, window: Window) -> Self {
        Self { window, shared: Arc::default(), line: Arc::new(line) }
    }

    /// An interrupt on `line` for a device without a transport: nobody is shown its status.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn alone(line: EventFd) -> Result<Self> {
        Ok(Self::new(line, window::Windows::new(1)?.window(0)))
    }

    /// Tells the driver that used buffers are there.
    pub fn used_buffers(&self) {
        self.raise(Self::USED_BUFFER);
    }

    /// Shows the driver the configuration space, and its generation, as `read` gives them now.
    pub fn show_config(&self, read: impl FnOnce(&mut ConfigSpace) -> u32) {
        let _last = self.shared.showing.lock().unwrap_or_else(PoisonError::into_inner);
        let mut config = [0; CONFIG_SPACE_BYTES];
        let generation = read(&mut config);
        self.window.write(VIRTIO_MMIO_CONFIG as usize, &config);
        self.window.set(VIRTIO_MMIO_CONFIG_GENERATION, generation);
    }

    /// Tells the driver that the configuration space has changed to what `read` gives.
    pub fn config_changed(&self, read: impl FnOnce(&mut ConfigSpace) -> u32) {
        self.show_config(read);
        self.raise(Self::CONFIG_CHANGE);
    }

    /// Tells the driver that the device does nothing more until it is reset.
    pub fn needs_reset(&self) {
        self.shared.needs_reset.store(true, Ordering::SeqCst);
        self.window.set_bits(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        self.raise(Self::CONFIG_CHANGE);
    }

    /// The driver may look into its queues, for nothing.
    fn may_have_used(&self) {
        self.window.set_bits(VIRTIO_MMIO_INTERRUPT_STATUS, Self::USED_BUFFER);
    }

    fn raise(&self, event: u32) {
        if event == Self::CONFIG_CHANGE {
            self.shared.changes.fetch_add(1, Ordering::SeqCst);
        }
        self.window.set_bits(VIRTIO_MMIO_INTERRUPT_STATUS, event);
        // A full counter means that an interrupt is pending already.
        let _ = self.line.write(1);
    }

    fn acknowledge(&self, bits: u32) {
        if bits & Self::CONFIG_CHANGE == 0 {
            return;
        }
        if self.shared.changes.swap(0, Ordering::SeqCst) > 1 {
            return self.raise(Self::CONFIG_CHANGE);
        }
        self.window.clear_bits(VIRTIO_MMIO_INTERRUPT_STATUS, Self::CONFIG_CHANGE);
        if self.shared.changes.load(Ordering::SeqCst) > 0 {
            // It came in between, and its bit has just been taken away.
            self.window.set_bits(VIRTIO_MMIO_INTERRUPT_STATUS, Self::CONFIG_CHANGE);
            let _ = self.line.write(1);
        }
    }

    /// Shows the device's status; what the device itself says of it stays.
    fn show_status(&self, status: u32) {
        self.window.set(VIRTIO_MMIO_STATUS, status);
        // The device may have said so before, or just now and been overwritten.
        if self.shared.needs_reset.load(Ordering::SeqCst) {
            self.window.set_bits(VIRTIO_MMIO_STATUS, VIRTIO_CONFIG_S_NEEDS_RESET);
        }
    }

    /// For a device that nobody uses the queues of.
    fn reset(&self) {
        self.shared.changes.store(0, Ordering::SeqCst);
        self.shared.needs_reset.store(false, Ordering::SeqCst);
        self.window.set(VIRTIO_MMIO_INTERRUPT_STATUS, 0);
    }
}

/// Bytes of a configuration space that the driver is shown: more than any device has.
pub const CONFIG_SPACE_BYTES: usize = 256;
/// A configuration space.
pub type ConfigSpace = [u8; CONFIG_SPACE_BYTES];
