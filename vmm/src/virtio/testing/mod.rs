//! A guest for tests: memory with unmapped pages around it, a driver that does what the specification says, and one that does not.

pub(crate) mod devices;
pub(crate) mod hostile;
mod ring;
mod sys;

use std::sync::Arc;
use std::time::{Duration, Instant};

use virtio_bindings::virtio_mmio::{
    VIRTIO_MMIO_DEVICE_FEATURES, VIRTIO_MMIO_DEVICE_FEATURES_SEL, VIRTIO_MMIO_DRIVER_FEATURES,
    VIRTIO_MMIO_DRIVER_FEATURES_SEL, VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INTERRUPT_STATUS,
    VIRTIO_MMIO_QUEUE_AVAIL_HIGH, VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH,
    VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_NUM, VIRTIO_MMIO_QUEUE_NUM_MAX, VIRTIO_MMIO_QUEUE_READY,
    VIRTIO_MMIO_QUEUE_SEL, VIRTIO_MMIO_QUEUE_USED_HIGH, VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_STATUS,
};
use vm_memory::{Bytes, GuestAddress};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::mmio::MmioTransport;
use super::window::Windows;
use super::{FEATURE_VERSION_1, VirtioDevice};
use crate::event_loop::EventLoop;
use crate::memory::GuestMemory;
use crate::vm::ThreadSetup;

pub(crate) use ring::{Buffer, Ring};

/// End of the first region of guest memory; behind it is a hole.
pub(crate) const LOW_END: u64 = 0x10_0000;
/// Second region.
pub(crate) const HIGH_START: u64 = 0x20_0000;
pub(crate) const HIGH_END: u64 = 0x30_0000;
/// Memory from here on is free for buffers: below are the rings.
pub(crate) const BUFFERS: u64 = 0x4_0000;

const STATUS_OK: u32 = 0xf;
/// A device that takes longer hangs.
const LIMIT: Duration = Duration::from_secs(60);

pub(crate) fn memory() -> GuestMemory {
    sys::memory(&[(0, LOW_END), (HIGH_START, HIGH_END)])
}

/// One region of `bytes`, for the process's life.
pub(crate) fn memory_of(bytes: u64) -> GuestMemory {
    sys::memory(&[(0, bytes)])
}

/// A device behind its transport, on an event loop of its own.
pub(crate) struct Rig {
    pub(crate) memory: GuestMemory,
    pub(crate) transport: MmioTransport,
    pub(crate) notifiers: Vec<Arc<EventFd>>,
    pub(crate) line: EventFd,
    sizes: Vec<u16>,
    // After the transport: the device goes first.
    event_loop: EventLoop,
}

impl Rig {
    pub(crate) fn new(device: impl VirtioDevice + 'static) -> Self {
        Self::confined(device, ThreadSetup::unconfined().unwrap())
    }

    /// As [`Self::new`], with threads that begin with `setup`.
    pub(crate) fn confined(device: impl VirtioDevice + 'static, setup: ThreadSetup) -> Self {
        let memory = memory();
        let event_loop = EventLoop::new().unwrap();
        event_loop.start(setup.clone()).unwrap();
        let event = || EventFd::new(EFD_NONBLOCK).unwrap();
        let line = event();
        let sizes = device.queue_sizes().to_vec();
        let notifiers: Vec<_> = sizes.iter().map(|_| Arc::new(event())).collect();
        let mut transport = MmioTransport::new(
            Box::new(device),
            memory.clone(),
            Windows::new(1).unwrap().window(0),
            line.try_clone().unwrap(),
            notifiers.clone(),
            event_loop.endpoint(),
        );
        transport.start(&setup).unwrap();
        Self { memory, transport, notifiers, line, sizes, event_loop }
    }

    pub(crate) fn read(&self, register: u32) -> u32 {
        let mut data = [0; 4];
        self.transport.read(register.into(), &mut data);
        u32::from_le_bytes(data)
    }

    pub(crate) fn write(&mut self, register: u32, value: u32) {
        self.transport.write(register.into(), &value.to_le_bytes());
    }

    pub(crate) fn status(&self) -> u32 {
        self.read(VIRTIO_MMIO_STATUS)
    }

    pub(crate) fn offered(&mut self) -> u64 {
        let mut page = |page| {
            self.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, page);
            u64::from(self.read(VIRTIO_MMIO_DEVICE_FEATURES))
        };
        page(0) | page(1) << 32
    }

    pub(crate) fn queue_count(&self) -> usize {
        self.sizes.len()
    }

    pub(crate) fn queue_max(&self, index: usize) -> u16 {
        self.sizes[index]
    }

    /// Resets the device and goes through its initialization up to the agreement on `features`.
    pub(crate) fn agree(&mut self, features: u64) {
        for status in [0, 1, 3] {
            self.write(VIRTIO_MMIO_STATUS, status);
        }
        for page in 0..2 {
            self.write(VIRTIO_MMIO_DRIVER_FEATURES_SEL, page);
            self.write(VIRTIO_MMIO_DRIVER_FEATURES, (features >> (32 * page)) as u32);
        }
        self.write(VIRTIO_MMIO_STATUS, 0xb);
    }

    pub(crate) fn set_queue(&mut self, index: usize, ring: &Ring) {
        self.write(VIRTIO_MMIO_QUEUE_SEL, index as u32);
        assert_eq!(self.read(VIRTIO_MMIO_QUEUE_NUM_MAX), u32::from(self.sizes[index]));
        self.write(VIRTIO_MMIO_QUEUE_NUM, ring.size.into());
        for (low, high, address) in [
            (VIRTIO_MMIO_QUEUE_DESC_LOW, VIRTIO_MMIO_QUEUE_DESC_HIGH, ring.descriptors),
            (VIRTIO_MMIO_QUEUE_AVAIL_LOW, VIRTIO_MMIO_QUEUE_AVAIL_HIGH, ring.available),
            (VIRTIO_MMIO_QUEUE_USED_LOW, VIRTIO_MMIO_QUEUE_USED_HIGH, ring.used),
        ] {
            self.write(low, address as u32);
            self.write(high, (address >> 32) as u32);
        }
        self.write(VIRTIO_MMIO_QUEUE_READY, 1);
    }

    /// Initializes the device as a driver does that wants `features` of what is offered, with queues of `size`.
    pub(crate) fn start(&mut self, features: u64, size: u16) -> Vec<Ring> {
        self.reset();
        let features = self.offered() & features | FEATURE_VERSION_1;
        self.memory.write_slice(&vec![0; BUFFERS as usize], GuestAddress(0)).unwrap();
        self.agree(features);
        let rings: Vec<_> =
            (0..self.queue_count()).map(|index| Ring::new(index, size.min(self.sizes[index]))).collect();
        for (index, ring) in rings.iter().enumerate() {
            self.set_queue(index, ring);
        }
        self.write(VIRTIO_MMIO_STATUS, STATUS_OK);
        assert_eq!(self.status(), STATUS_OK);
        rings
    }

    /// Resets the device. Nothing in memory changes after this.
    pub(crate) fn reset(&mut self) {
        self.write(VIRTIO_MMIO_STATUS, 0);
    }

    pub(crate) fn notify(&self, index: usize) {
        self.notifiers[index].write(1).unwrap();
    }

    /// Waits until the event loop has served everything that was ready before this call.
    pub(crate) fn settle(&self) {
        // The first call may be served before notifications that are found together with it, the second one is found after them.
        for _ in 0..2 {
            let served =
                self.event_loop.endpoint().call_blocking(|_| -> Result<(), event_manager::Error> { Ok(()) });
            served.unwrap();
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Notifies queue `index` and waits for the next chain of it that the device has used: (head, bytes).
    pub(crate) fn exchange(&self, index: usize, ring: &mut Ring) -> (u16, u32) {
        self.notify(index);
        self.wait_used(ring)
    }

    pub(crate) fn wait_used(&self, ring: &mut Ring) -> (u16, u32) {
        let begun = Instant::now();
        loop {
            if let Some(used) = ring.take_used(&self.memory) {
                return used;
            }
            assert!(begun.elapsed() < LIMIT, "the device does not answer");
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Waits until the device is in `status`.
    pub(crate) fn wait_status(&self, status: u32) {
        let begun = Instant::now();
        while self.status() != status {
            assert!(begun.elapsed() < LIMIT, "the device stays in status {:#x}", self.status());
            std::thread::sleep(Duration::from_micros(50));
        }
    }

    /// Whether the device has interrupted; acknowledged as a driver does.
    pub(crate) fn interrupted(&mut self) -> u32 {
        if self.line.read().is_err() {
            return 0;
        }
        let status = self.read(VIRTIO_MMIO_INTERRUPT_STATUS);
        self.write(VIRTIO_MMIO_INTERRUPT_ACK, status);
        status
    }
}
