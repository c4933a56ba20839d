//! Memory balloon (virtio 1.2, section 5.5): memory that the guest has no use for goes back to the host.
//!
//! Without being asked, the guest reports its free pages (VIRTIO_BALLOON_F_PAGE_REPORTING), so that a machine's size on the host follows what it
//! uses. When the host sets a target, the guest gives up that much and gets it back when it would run out (DEFLATE_ON_OOM).

mod handler;

use std::io;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use virtio_bindings::virtio_ids::VIRTIO_ID_BALLOON;
use virtio_queue::Queue;
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use self::handler::{BalloonHandler, Queues};
use super::queue::VirtQueue;
use super::{
    Activation, CONFIG_SPACE_BYTES, ConfigSpace, FEATURE_EVENT_IDX, FEATURE_INDIRECT, FEATURE_VERSION_1,
    Handler, Interrupt, VirtioDevice,
};
use crate::error::{Error, Result};

/// Feature bits (section 5.5.3): statistics, memory comes back before the guest runs out, reporting of free pages.
const STATS_VQ: u32 = 1;
const DEFLATE_ON_OOM: u32 = 2;
const REPORTING: u32 = 5;
/// Unit of the device's numbers, bytes, whatever the page size of guest and host.
const PAGE_BYTES: u64 = 4096;
/// Inflate and deflate, and with their features statistics and reporting.
const QUEUE_SIZES: [u16; 4] = [128; 4];
/// The same without statistics.
const QUEUE_SIZES_WITHOUT_STATISTICS: [u16; 3] = [128; 3];
const REQUIRED_QUEUES: usize = 2;
/// Where the actual size is, the one field that the driver writes.
const ACTUAL: usize = 4;

/// What the guest says of its memory; what it does not say is `None`. Bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Statistics {
    /// Not used for anything.
    pub free: Option<u64>,
    /// All of it.
    pub total: Option<u64>,
    /// What could be had without swapping.
    pub available: Option<u64>,
    /// Page cache.
    pub caches: Option<u64>,
}

/// The host's side of the balloon, for the machine's owner.
#[derive(Debug, Clone)]
pub struct BalloonControl {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    target_pages: AtomicU32,
    actual_pages: AtomicU32,
    generation: AtomicU32,
    /// Of the driver that is running.
    interrupt: Mutex<Option<Interrupt>>,
    statistics: Mutex<Statistics>,
    /// Somebody wants new statistics.
    wanted: EventFd,
}

impl Shared {
    /// The configuration space, and its generation.
    fn show(&self, config: &mut ConfigSpace) -> u32 {
        let pages = [&self.target_pages, &self.actual_pages].map(|pages| pages.load(Ordering::SeqCst));
        for (field, pages) in config.chunks_exact_mut(ACTUAL).zip(pages) {
            field.copy_from_slice(&pages.to_le_bytes());
        }
        self.generation.load(Ordering::SeqCst)
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl BalloonControl {
    /// Asks the guest to give up `bytes` of its memory in all; it does so in its own time.
    pub fn set_target(&self, bytes: u64) {
        let pages = u32::try_from(bytes / PAGE_BYTES).unwrap_or(u32::MAX);
        self.shared.target_pages.store(pages, Ordering::SeqCst);
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        if let Some(interrupt) = &*lock(&self.shared.interrupt) {
            interrupt.config_changed(|config| self.shared.show(config));
        }
    }

    /// What the guest says that it has given up, bytes.
    pub fn given_up(&self) -> u64 {
        u64::from(self.shared.actual_pages.load(Ordering::SeqCst)) * PAGE_BYTES
    }

    /// The guest's last statistics.
    pub fn statistics(&self) -> Statistics {
        *lock(&self.shared.statistics)
    }

    /// Asks the guest for new statistics, which it sends in its own time.
    pub fn want_statistics(&self) {
        // A full counter means that they are wanted already.
        let _ = self.shared.wanted.write(1);
    }
}

/// The device.
#[derive(Debug)]
pub struct Balloon {
    shared: Arc<Shared>,
    offers: Offers,
}

/// What a balloon has to offer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Offers {
    /// Everything.
    All,
    /// No statistics: a queue less to set up in the guest's boot.
    NoStatistics,
}

impl Balloon {
    /// An empty balloon.
    ///
    /// # Errors
    /// The process has no descriptor left.
    pub fn new(offers: Offers) -> Result<Self> {
        let wanted = EventFd::new(EFD_NONBLOCK).map_err(Error::os("make an event descriptor"))?;
        let shared = Shared {
            target_pages: AtomicU32::new(0),
            actual_pages: AtomicU32::new(0),
            generation: AtomicU32::new(0),
            interrupt: Mutex::default(),
            statistics: Mutex::default(),
            wanted,
        };
        Ok(Self { shared: Arc::new(shared), offers })
    }

    /// The host's side of it.
    pub fn control(&self) -> BalloonControl {
        BalloonControl { shared: Arc::clone(&self.shared) }
    }
}

impl VirtioDevice for Balloon {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_BALLOON
    }

    fn queue_sizes(&self) -> &[u16] {
        match self.offers {
            Offers::All => &QUEUE_SIZES,
            Offers::NoStatistics => &QUEUE_SIZES_WITHOUT_STATISTICS,
        }
    }

    fn required_queues(&self) -> usize {
        REQUIRED_QUEUES
    }

    fn features(&self) -> u64 {
        let statistics = match self.offers {
            Offers::All => 1 << STATS_VQ,
            Offers::NoStatistics => 0,
        };
        let own = 1 << DEFLATE_ON_OOM | 1 << REPORTING | statistics;
        FEATURE_VERSION_1 | FEATURE_EVENT_IDX | FEATURE_INDIRECT | own
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut config = [0; CONFIG_SPACE_BYTES];
        self.shared.show(&mut config);
        super::copy_config(&config, offset, data);
    }

    fn write_config(&mut self, offset: usize, data: &[u8]) {
        if let (ACTUAL, Ok(pages)) = (offset, <[u8; 4]>::try_from(data)) {
            self.shared.actual_pages.store(u32::from_le_bytes(pages), Ordering::SeqCst);
        }
    }

    fn config_generation(&self) -> u32 {
        self.shared.generation.load(Ordering::SeqCst)
    }

    fn activate(&mut self, activation: Activation) -> Result<Handler> {
        let interrupt = activation.interrupt;
        let mut queues =
            activation.queues.into_iter().map(|queue: (Queue, EventFd)| VirtQueue::new(queue, &interrupt));
        // The queues of features that are not wanted do not exist: those behind them take their places.
        let agreed = |bit: u32| activation.features & 1 << bit != 0;
        let missing = || Error::os("start the balloon")(io::ErrorKind::InvalidInput.into());
        let inflate = queues.next().ok_or_else(missing)?;
        let deflate = queues.next().ok_or_else(missing)?;
        let statistics = if agreed(STATS_VQ) { queues.next() } else { None };
        let reporting = if agreed(REPORTING) { queues.next() } else { None };
        *lock(&self.shared.interrupt) = Some(interrupt);
        self.shared.actual_pages.store(0, Ordering::SeqCst);
        let queues = Queues { inflate, deflate, statistics, reporting };
        Ok(Box::new(BalloonHandler::new(Arc::clone(&self.shared), activation.memory, queues)))
    }
}
