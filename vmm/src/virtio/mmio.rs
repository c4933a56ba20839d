//! virtio over MMIO (virtio 1.2, section 4.2): the register window of one device.
//!
//! The guest may write any register in any state with any value. What is not legal in the present state is ignored, as the
//! specification lets a device do, so that no order of writes reaches a queue that has not been checked.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use event_manager::RemoteEndpoint;
use serde::{Deserialize, Serialize};
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID,
    VIRTIO_MMIO_DRIVER_FEATURES, VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK,
    VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH,
    VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use virtio_queue::{Queue, QueueT};
use vm_memory::{Address as _, Bytes as _, GuestAddress};
use vmm_sys_util::eventfd::EventFd;

use super::window::Window;
use super::{Activation, FEATURE_EVENT_IDX, FEATURE_VERSION_1, Handler, Interrupt, VirtioDevice, Works};
use crate::error::Result;
use crate::memory::GuestMemory;
use crate::vm::ThreadSetup;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION_MODERN: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"rkvm");
/// Register that a driver writes to notify a queue; KVM signals the queue's descriptor without an exit.
pub const NOTIFY_OFFSET: u64 = virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY as u64;
/// Register that a driver acknowledges interrupts at. Of [`Interrupt::USED_BUFFER`] alone KVM takes the write without an exit, and the
/// transport does not hear of it.
pub const ACK_OFFSET: u64 = VIRTIO_MMIO_INTERRUPT_ACK as u64;
/// Registers of the selected shared memory region.
const SHM_LEN_LOW: u32 = 0xb0;
const SHM_BASE_HIGH: u32 = 0xbc;
const CONFIG: u64 = VIRTIO_MMIO_CONFIG as u64;
/// Registers whose writes nothing follows from until another register is written: what the driver accepts, and where a queue lies. KVM keeps
/// them until then, which halves the exits of a driver that probes.
pub const LATER: [Range<u64>; 3] = [
    VIRTIO_MMIO_DRIVER_FEATURES as u64..VIRTIO_MMIO_DRIVER_FEATURES_SEL as u64 + 4,
    VIRTIO_MMIO_QUEUE_NUM as u64..VIRTIO_MMIO_QUEUE_NUM as u64 + 4,
    VIRTIO_MMIO_QUEUE_DESC_LOW as u64..VIRTIO_MMIO_QUEUE_USED_HIGH as u64 + 4,
];

/// Status values in the order in which a driver goes through them.
const STEPS: [u32; 4] = [
    VIRTIO_CONFIG_S_ACKNOWLEDGE,
    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER,
    VIRTIO_CONFIG_S_ACKNOWLEDGE | VIRTIO_CONFIG_S_DRIVER | VIRTIO_CONFIG_S_FEATURES_OK,
    VIRTIO_CONFIG_S_ACKNOWLEDGE
        | VIRTIO_CONFIG_S_DRIVER
        | VIRTIO_CONFIG_S_FEATURES_OK
        | VIRTIO_CONFIG_S_DRIVER_OK,
];

/// Where a queue begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Position {
    /// At its start: the driver has just made it.
    Start,
    /// Behind what has been used.
    Used,
}

/// What the driver has said of a queue. Checked as a whole when the device starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
struct QueueRegisters {
    max: u16,
    size: u32,
    ready: bool,
    descriptors: u64,
    available: u64,
    used: u64,
}

/// How far a device's driver is: everything that it has written and that counts.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    status: u32,
    /// What the driver has accepted; what it may not have accepted too, until it says that it is done.
    features: u64,
    device_features_page: u32,
    driver_features_page: u32,
    queue_selected: usize,
    queues: Vec<QueueRegisters>,
}

impl Progress {
    /// Of a driver that has not begun with `device`.
    fn none(device: &dyn VirtioDevice) -> Self {
        let unset = |max: &u16| QueueRegisters {
            max: *max,
            size: 0,
            ready: false,
            descriptors: 0,
            available: 0,
            used: 0,
        };
        Self {
            status: 0,
            features: 0,
            device_features_page: 0,
            driver_features_page: 0,
            queue_selected: 0,
            queues: device.queue_sizes().iter().map(unset).collect(),
        }
    }
}

/// One device's window.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    window: Window,
    interrupt: Interrupt,
    loop_endpoint: RemoteEndpoint<Handler>,
    handler: Option<event_manager::SubscriberId>,
    /// The device would run, and has been told not to.
    held: bool,
    notifiers: Vec<Arc<EventFd>>,
    driver: Progress,
}

impl std::fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_type", &self.device.device_type())
            .field("status", &self.driver.status)
            .finish_non_exhaustive()
    }
}

impl MmioTransport {
    /// `window` for `device`, which interrupts by `line`; `notifiers` has one descriptor a queue.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        window: Window,
        line: EventFd,
        notifiers: Vec<Arc<EventFd>>,
        loop_endpoint: RemoteEndpoint<Handler>,
    ) -> Self {
        let driver = Progress::none(device.as_ref());
        let transport = Self {
            interrupt: Interrupt::new(line, window.clone()),
            device,
            memory,
            window,
            loop_endpoint,
            handler: None,
            held: false,
            notifiers,
            driver,
        };
        transport.show_constants();
        transport.show_config();
        transport.show();
        transport
    }

    /// Starts the device's own threads.
    ///
    /// # Errors
    /// The host has no thread left.
    pub fn start(&mut self, setup: &ThreadSetup) -> Result<()> {
        self.device.start(setup)
    }

    /// The guest reads at `offset` of the window, and KVM has not shown it the window itself.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        self.window.read(usize::try_from(offset).unwrap_or(usize::MAX), data);
    }

    fn show_constants(&self) {
        for (register, value) in [
            (VIRTIO_MMIO_MAGIC_VALUE, MAGIC),
            (VIRTIO_MMIO_VERSION, VERSION_MODERN),
            (VIRTIO_MMIO_DEVICE_ID, self.device.device_type()),
            (VIRTIO_MMIO_VENDOR_ID, VENDOR),
        ] {
            self.window.set(register, value);
        }
        // No device has shared memory: the length and the base of any region read as ones (section 4.2.2).
        for register in (SHM_LEN_LOW..=SHM_BASE_HIGH).step_by(4) {
            self.window.set(register, u32::MAX);
        }
    }

    fn show_config(&self) {
        self.interrupt.show_config(|config| {
            self.device.read_config(0, config);
            self.device.config_generation()
        });
    }

    /// Shows the registers that depend on what the driver has written.
    fn show(&self) {
        let features = match self.driver.device_features_page {
            0 => self.device.features() as u32,
            1 => (self.device.features() >> 32) as u32,
            _ => 0,
        };
        let queue = self.driver.queues.get(self.driver.queue_selected);
        self.window.set(VIRTIO_MMIO_DEVICE_FEATURES, features);
        self.window.set(VIRTIO_MMIO_QUEUE_NUM_MAX, queue.map_or(0, |queue| queue.max.into()));
        self.window.set(VIRTIO_MMIO_QUEUE_READY, queue.map_or(0, |queue| queue.ready.into()));
        self.interrupt.show_status(self.driver.status);
    }

    /// The guest writes at `offset` of the window.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        if offset >= CONFIG {
            if self.driver.status & VIRTIO_CONFIG_S_DRIVER != 0 {
                let start = usize::try_from(offset - CONFIG).unwrap_or(usize::MAX);
                self.device.write_config(start, data);
                self.show_config();
            }
            return;
        }
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        self.set_register(offset as u32, u32::from_le_bytes(bytes));
        self.show();
        if offset as u32 == VIRTIO_MMIO_STATUS {
            // A device that starts or is reset may begin with another one.
            self.show_config();
        }
    }

    fn set_register(&mut self, register: u32, value: u32) {
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.driver.device_features_page = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver.driver_features_page = value,
            VIRTIO_MMIO_DRIVER_FEATURES if self.driver.status == STEPS[1] => self.accept_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.driver.queue_selected = value as usize,
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            VIRTIO_MMIO_STATUS => self.set_status(value),
            // Queues can be set up only between the agreement on features and the start.
            register if self.driver.status == STEPS[2] => self.set_queue(register, value),
            VIRTIO_MMIO_QUEUE_READY if value == 0 && self.is_running() => self.stop_queue(),
            _ => {}
        }
    }

    fn is_running(&self) -> bool {
        self.handler.is_some()
    }

    fn accept_features(&mut self, value: u32) {
        match self.driver.driver_features_page {
            0 => self.driver.features = self.driver.features & !u64::from(u32::MAX) | u64::from(value),
            1 => self.driver.features = self.driver.features & u64::from(u32::MAX) | u64::from(value) << 32,
            // There are 64 of them. What the driver accepts beyond was not offered either.
            _ if value != 0 => self.driver.features |= !self.device.features(),
            _ => {}
        }
    }

    fn set_queue(&mut self, register: u32, value: u32) {
        let Some(queue) = self.driver.queues.get_mut(self.driver.queue_selected) else { return };
        let low = |address: &mut u64| *address = *address & !u64::from(u32::MAX) | u64::from(value);
        let high = |address: &mut u64| *address = *address & u64::from(u32::MAX) | u64::from(value) << 32;
        match register {
            VIRTIO_MMIO_QUEUE_READY => queue.ready = value == 1,
            // A queue that is ready has the size and the addresses that it has.
            _ if queue.ready => {}
            VIRTIO_MMIO_QUEUE_NUM => queue.size = value,
            VIRTIO_MMIO_QUEUE_DESC_LOW => low(&mut queue.descriptors),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => high(&mut queue.descriptors),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => low(&mut queue.available),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => high(&mut queue.available),
            VIRTIO_MMIO_QUEUE_USED_LOW => low(&mut queue.used),
            VIRTIO_MMIO_QUEUE_USED_HIGH => high(&mut queue.used),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        if value & VIRTIO_CONFIG_S_FAILED != 0 {
            // The driver has given up on the device, which then has no business in the driver's memory.
            self.stop();
            self.driver.status |= VIRTIO_CONFIG_S_FAILED;
            return;
        }
        let next = match self.driver.status {
            0 => 0,
            status => match STEPS.iter().position(|step| *step == status) {
                Some(index) => index + 1,
                None => return,
            },
        };
        if STEPS.get(next) != Some(&value) {
            return;
        }
        // A driver looks whether this step was taken: the device refuses what it has not offered and drivers before virtio 1.
        if value == STEPS[2] && !self.features_fit() {
            return;
        }
        self.driver.status = value;
        if value == STEPS[3] && self.activate().is_none() {
            self.interrupt.needs_reset();
        }
    }

    fn features_fit(&self) -> bool {
        self.driver.features & !self.device.features() == 0 && self.driver.features & FEATURE_VERSION_1 != 0
    }

    fn activate(&mut self) -> Option<()> {
        self.activate_at(Position::Start)
    }

    fn activate_at(&mut self, position: Position) -> Option<()> {
        let mut queues = Vec::with_capacity(self.driver.queues.len());
        for (index, (registers, notifier)) in self.driver.queues.iter().zip(&self.notifiers).enumerate() {
            let mut queue = match registers.ready {
                true => registers.queue(&self.memory, self.driver.features)?,
                false if index >= self.device.required_queues() => registers.unused()?,
                false => return None,
            };
            if position == Position::Used && registers.ready {
                let used = queue.used_idx(&self.memory, Ordering::Acquire).ok()?.0;
                queue.set_next_avail(used);
                queue.set_next_used(used);
            }
            queues.push((queue, notifier.try_clone().ok()?));
        }
        let activation = Activation {
            memory: self.memory.clone(),
            interrupt: self.interrupt.clone(),
            queues,
            features: self.driver.features,
        };
        let handler = self.device.activate(activation).ok()?;
        self.handler = self
            .loop_endpoint
            .call_blocking(move |manager| -> std::result::Result<_, event_manager::Error> {
                Ok(manager.add_subscriber(handler))
            })
            .ok();
        // A driver may have filled its queues, and notified them, before this.
        self.notifiers.iter().for_each(|notifier| drop(notifier.write(1)));
        self.handler.map(drop)
    }

    /// Has a device that works at any time leave the guest's memory, until [`Self::let_go`].
    pub fn hold(&mut self) {
        if self.is_running() && self.device.works() == Works::Anytime {
            self.take_queues();
            self.held = true;
        }
    }

    /// Undoes [`Self::hold`].
    pub fn let_go(&mut self) {
        if std::mem::take(&mut self.held) && self.resume().is_none() {
            self.interrupt.needs_reset();
        }
    }

    /// How far the driver is, for [`Self::go_on`]; `None` while the device does something for it. To be called while it is [held](Self::hold).
    pub fn progress(&self) -> Option<Progress> {
        let quiet = |queue: &QueueRegisters| !queue.ready || !queue.is_asked(&self.memory);
        let idle = self.device.works() != Works::WhenAsked || self.driver.queues.iter().all(quiet);
        (idle || !self.is_running()).then(|| self.driver.clone())
    }

    /// Goes on for a driver that is as far as `progress` says, in memory that is as it was then; `None` if this device cannot.
    pub fn go_on(&mut self, progress: Progress) -> Option<()> {
        if progress.queues.iter().map(|queue| queue.max).ne(self.driver.queues.iter().map(|queue| queue.max))
        {
            return None;
        }
        self.driver = progress;
        if self.driver.status == STEPS[3] {
            if !self.features_fit() {
                return None;
            }
            self.resume()?;
        }
        self.show();
        self.show_config();
        Some(())
    }

    /// Gives the device its queues behind what it has used.
    fn resume(&mut self) -> Option<()> {
        self.activate_at(Position::Used)?;
        // The driver may be about to look why it was interrupted.
        self.interrupt.may_have_used();
        if self.device.works() == Works::Anytime
            && self.driver.queues.iter().any(|queue| queue.has_used(&self.memory))
        {
            // The last interrupt may have been on its way to the guest.
            self.interrupt.used_buffers();
        }
        Some(())
    }

    /// Takes the queues from the device. When this returns it does not touch the guest's memory any more.
    fn stop(&mut self) {
        self.take_queues();
        self.driver.queues.iter_mut().for_each(|queue| queue.ready = false);
    }

    fn take_queues(&mut self) {
        if let Some(handler) = self.handler.take() {
            // Dropped here and not by the event loop: a handler may have to wait for a slow medium.
            let handler = self.loop_endpoint.call_blocking(move |manager| manager.remove_subscriber(handler));
            drop(handler);
        }
    }

    /// The driver takes a queue from a running device. No driver does that without a reset, so the device may stop altogether.
    fn stop_queue(&mut self) {
        self.stop();
        self.interrupt.needs_reset();
    }

    fn reset(&mut self) {
        self.stop();
        self.driver = Progress::none(self.device.as_ref());
        self.interrupt.reset();
    }
}

impl QueueRegisters {
    /// The queue, if its size is possible and its three areas are aligned and lie in guest memory.
    fn queue(&self, memory: &GuestMemory, features: u64) -> Option<Queue> {
        let mut queue = Queue::new(self.max).ok()?;
        queue.try_set_size(u16::try_from(self.size).ok()?).ok()?;
        queue.try_set_desc_table_address(GuestAddress(self.descriptors)).ok()?;
        queue.try_set_avail_ring_address(GuestAddress(self.available)).ok()?;
        queue.try_set_used_ring_address(GuestAddress(self.used)).ok()?;
        queue.set_event_idx(features & FEATURE_EVENT_IDX != 0);
        queue.set_ready(true);
        queue.is_valid(memory).then_some(queue)
    }

    /// Index of one of the queue's rings.
    fn index(ring: u64, memory: &GuestMemory) -> Option<u16> {
        memory.load(GuestAddress(ring).checked_add(2)?, Ordering::Acquire).ok()
    }

    /// Whether the driver has asked for something that it has no answer to.
    fn is_asked(&self, memory: &GuestMemory) -> bool {
        Self::index(self.available, memory) != Self::index(self.used, memory)
    }

    /// Whether the device has used a buffer.
    fn has_used(&self, memory: &GuestMemory) -> bool {
        self.ready && Self::index(self.used, memory) != Some(0)
    }

    /// A queue that the driver does not use: nothing is ever taken from it.
    fn unused(&self) -> Option<Queue> {
        Queue::new(self.max).ok()
    }
}

#[cfg(test)]
mod tests;
