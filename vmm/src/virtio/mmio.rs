//! virtio over MMIO (virtio 1.2, section 4.2): the register window of one device.
//!
//! The guest may write any register in any state with any value. What is not legal in the present state is ignored, as the
//! specification lets a device do, so that no order of writes reaches a queue that has not been checked.

use std::sync::Arc;

use event_manager::RemoteEndpoint;
use virtio_bindings::virtio_config::{
    VIRTIO_CONFIG_S_ACKNOWLEDGE, VIRTIO_CONFIG_S_DRIVER, VIRTIO_CONFIG_S_DRIVER_OK, VIRTIO_CONFIG_S_FAILED,
    VIRTIO_CONFIG_S_FEATURES_OK, VIRTIO_CONFIG_S_NEEDS_RESET,
};
use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_CONFIG, VIRTIO_MMIO_CONFIG_GENERATION, VIRTIO_MMIO_DEVICE_FEATURES,
    VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DEVICE_ID, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS,
    VIRTIO_MMIO_MAGIC_VALUE, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW,
    VIRTIO_MMIO_QUEUE_DESC_HIGH, VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NUM,
    VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY, VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH,
    VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_STATUS, VIRTIO_MMIO_VENDOR_ID, VIRTIO_MMIO_VERSION,
};
use virtio_queue::{Queue, QueueT};
use vmm_sys_util::eventfd::EventFd;

use super::{Activation, FEATURE_EVENT_IDX, Handler, Interrupt, VirtioDevice};
use crate::memory::GuestMemory;

const MAGIC: u32 = u32::from_le_bytes(*b"virt");
const VERSION_MODERN: u32 = 2;
const VENDOR: u32 = u32::from_le_bytes(*b"rkvm");
/// Register that a driver writes to notify a queue; KVM signals the queue's descriptor without an exit.
pub const NOTIFY_OFFSET: u64 = virtio_bindings::virtio_mmio::VIRTIO_MMIO_QUEUE_NOTIFY as u64;
const CONFIG: u64 = VIRTIO_MMIO_CONFIG as u64;

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

/// One device's window.
pub struct MmioTransport {
    device: Box<dyn VirtioDevice>,
    memory: GuestMemory,
    interrupt: Interrupt,
    loop_endpoint: RemoteEndpoint<Handler>,
    handler: Option<event_manager::SubscriberId>,
    queues: Vec<Queue>,
    notifiers: Vec<Arc<EventFd>>,
    status: u32,
    features: u64,
    device_features_page: u32,
    driver_features_page: u32,
    queue_selected: usize,
}

impl std::fmt::Debug for MmioTransport {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("MmioTransport")
            .field("device_type", &self.device.device_type())
            .field("status", &self.status)
            .finish_non_exhaustive()
    }
}

impl MmioTransport {
    /// A window for `device`; `notifiers` has one descriptor a queue.
    ///
    /// # Panics
    /// A queue size of the device is not a power of two: a mistake in the device, not in its input.
    pub fn new(
        device: Box<dyn VirtioDevice>,
        memory: GuestMemory,
        interrupt: Interrupt,
        notifiers: Vec<Arc<EventFd>>,
        loop_endpoint: RemoteEndpoint<Handler>,
    ) -> Self {
        let queues = new_queues(device.as_ref());
        Self {
            device,
            memory,
            interrupt,
            loop_endpoint,
            handler: None,
            queues,
            notifiers,
            status: 0,
            features: 0,
            device_features_page: 0,
            driver_features_page: 0,
            queue_selected: 0,
        }
    }

    /// The guest reads at `offset` of the window.
    pub fn read(&self, offset: u64, data: &mut [u8]) {
        if offset >= CONFIG {
            // Any width and alignment; what lies behind the end of the configuration reads as zero.
            let start = usize::try_from(offset - CONFIG).unwrap_or(usize::MAX);
            let config = self.device.config();
            for (index, byte) in data.iter_mut().enumerate() {
                *byte = start.checked_add(index).and_then(|at| config.get(at)).copied().unwrap_or(0);
            }
            return;
        }
        data.fill(0);
        if data.len() == 4 {
            data.copy_from_slice(&self.register(offset as u32).to_le_bytes());
        }
    }

    fn register(&self, offset: u32) -> u32 {
        match offset {
            VIRTIO_MMIO_MAGIC_VALUE => MAGIC,
            VIRTIO_MMIO_VERSION => VERSION_MODERN,
            VIRTIO_MMIO_DEVICE_ID => self.device.device_type(),
            VIRTIO_MMIO_VENDOR_ID => VENDOR,
            VIRTIO_MMIO_DEVICE_FEATURES => match self.device_features_page {
                0 => self.device.features() as u32,
                1 => (self.device.features() >> 32) as u32,
                _ => 0,
            },
            VIRTIO_MMIO_QUEUE_NUM_MAX => {
                self.queues.get(self.queue_selected).map_or(0, |queue| queue.max_size().into())
            }
            VIRTIO_MMIO_QUEUE_READY => {
                self.queues.get(self.queue_selected).map_or(0, |queue| queue.ready().into())
            }
            VIRTIO_MMIO_INTERRUPT_STATUS => self.interrupt.status(),
            VIRTIO_MMIO_STATUS => self.status,
            // No device changes its configuration while it runs.
            VIRTIO_MMIO_CONFIG_GENERATION => 0,
            _ => 0,
        }
    }

    /// The guest writes at `offset` of the window.
    pub fn write(&mut self, offset: u64, data: &[u8]) {
        let Ok(bytes) = <[u8; 4]>::try_from(data) else { return };
        let value = u32::from_le_bytes(bytes);
        let Ok(register) = u32::try_from(offset) else { return };
        match register {
            VIRTIO_MMIO_DEVICE_FEATURES_SEL => self.device_features_page = value,
            VIRTIO_MMIO_DRIVER_FEATURES_SEL => self.driver_features_page = value,
            VIRTIO_MMIO_DRIVER_FEATURES if self.status == STEPS[1] => self.accept_features(value),
            VIRTIO_MMIO_QUEUE_SEL => self.queue_selected = value as usize,
            VIRTIO_MMIO_INTERRUPT_ACK => self.interrupt.acknowledge(value),
            VIRTIO_MMIO_STATUS => self.set_status(value),
            // Queues can be set up only between the agreement on features and the start.
            _ if self.status == STEPS[2] => self.set_queue(register, value),
            _ => {}
        }
    }

    fn accept_features(&mut self, value: u32) {
        let page = match self.driver_features_page {
            0 => u64::from(value),
            1 => u64::from(value) << 32,
            _ => return,
        };
        // Features that were not offered must not reach a device that never heard of them.
        self.features |= page & self.device.features();
    }

    fn set_queue(&mut self, register: u32, value: u32) {
        let Some(queue) = self.queues.get_mut(self.queue_selected) else { return };
        match register {
            // Sizes that are no power of two or above the maximum are refused by the queue itself.
            VIRTIO_MMIO_QUEUE_NUM => queue.set_size(u16::try_from(value).unwrap_or(0)),
            VIRTIO_MMIO_QUEUE_READY => queue.set_ready(value == 1),
            VIRTIO_MMIO_QUEUE_DESC_LOW => queue.set_desc_table_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_DESC_HIGH => queue.set_desc_table_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_AVAIL_LOW => queue.set_avail_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_AVAIL_HIGH => queue.set_avail_ring_address(None, Some(value)),
            VIRTIO_MMIO_QUEUE_USED_LOW => queue.set_used_ring_address(Some(value), None),
            VIRTIO_MMIO_QUEUE_USED_HIGH => queue.set_used_ring_address(None, Some(value)),
            _ => {}
        }
    }

    fn set_status(&mut self, value: u32) {
        if value == 0 {
            return self.reset();
        }
        if value & VIRTIO_CONFIG_S_FAILED != 0 {
            self.status |= VIRTIO_CONFIG_S_FAILED;
            return;
        }
        let next = STEPS.iter().position(|step| *step == self.status).map_or(0, |index| index + 1);
        if STEPS.get(next) != Some(&value) || (self.status == 0 && next != 0) {
            return;
        }
        self.status = value;
        if value == STEPS[3] && !self.activate() {
            self.status |= VIRTIO_CONFIG_S_NEEDS_RESET;
        }
    }

    fn activate(&mut self) -> bool {
        let event_idx = self.features & FEATURE_EVENT_IDX != 0;
        let mut queues = Vec::with_capacity(self.queues.len());
        for (queue, notifier) in self.queues.iter_mut().zip(&self.notifiers) {
            queue.set_event_idx(event_idx);
            // `is_valid` checks that the queue is ready and that its three areas lie in guest memory.
            if !queue.is_valid(&self.memory) {
                return false;
            }
            let Ok(notifier) = notifier.try_clone() else { return false };
            queues.push((std::mem::replace(queue, Self::placeholder()), notifier));
        }
        let activation = Activation {
            memory: self.memory.clone(),
            interrupt: self.interrupt.clone(),
            queues,
            features: self.features,
        };
        let Ok(handler) = self.device.activate(activation) else { return false };
        self.handler = self
            .loop_endpoint
            .call_blocking(move |manager| -> Result<_, event_manager::Error> {
                Ok(manager.add_subscriber(handler))
            })
            .ok();
        self.handler.is_some()
    }

    fn reset(&mut self) {
        if let Some(handler) = self.handler.take() {
            let _ =
                self.loop_endpoint.call_blocking(move |manager| manager.remove_subscriber(handler).map(drop));
        }
        self.queues = new_queues(self.device.as_ref());
        self.interrupt.acknowledge(u32::MAX);
        (self.status, self.features, self.queue_selected) = (0, 0, 0);
        (self.device_features_page, self.driver_features_page) = (0, 0);
    }

    /// A queue in place of one that has moved to the handler.
    #[allow(clippy::expect_used)]
    fn placeholder() -> Queue {
        Queue::new(1).expect("1 is a power of two")
    }
}

#[allow(clippy::expect_used)]
fn new_queues(device: &dyn VirtioDevice) -> Vec<Queue> {
    let new = |size: &u16| Queue::new(*size).expect("queue sizes of a device are powers of two");
    device.queue_sizes().iter().map(new).collect()
}
