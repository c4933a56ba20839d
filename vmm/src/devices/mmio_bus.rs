//! The windows of the virtio devices in guest-physical memory.

use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::arch::x86_64::layout::{VIRTIO_MMIO_SIZE, VIRTIO_MMIO_START};
use crate::error::{Error, Result};
use crate::virtio::mmio::{MmioTransport, Progress};
use crate::vm::ThreadSetup;

/// The devices, held ([`MmioBus::hold`]).
pub struct Held<'a>(&'a MmioBus);

impl Held<'_> {
    /// How far each device's driver is; `None` if one has something to do.
    pub fn progress(&self) -> Option<Vec<Progress>> {
        let windows = self.0.windows.iter();
        windows.map(|window| lock(window).progress()).collect()
    }
}

impl Drop for Held<'_> {
    fn drop(&mut self) {
        self.0.each(MmioTransport::let_go);
    }
}

/// Every virtio device, by the order of their windows.
#[derive(Debug, Clone, Default)]
pub struct MmioBus {
    windows: Vec<Arc<Mutex<MmioTransport>>>,
    order: Arc<Mutex<()>>,
}

impl MmioBus {
    /// Puts a device into the next window.
    pub fn push(&mut self, transport: MmioTransport) {
        self.windows.push(Arc::new(Mutex::new(transport)));
    }

    /// Starts the devices' own threads, after `first`, which may let the guest run: a guest that writes to a device before the device has its
    /// threads waits for it.
    ///
    /// # Errors
    /// The host has no thread left, or what `first` says.
    pub(crate) fn start(&self, setup: &ThreadSetup, first: impl FnOnce() -> Result<()>) -> Result<()> {
        let mut windows: Vec<_> = self.windows.iter().map(|window| lock(window)).collect();
        first()?;
        windows.iter_mut().try_for_each(|window| window.start(setup))
    }

    /// Has no device touch the guest's memory until the result is dropped, but what the guest itself has asked for.
    pub fn hold(&self) -> Held<'_> {
        self.each(MmioTransport::hold);
        Held(self)
    }

    fn each(&self, mut what: impl FnMut(&mut MmioTransport)) {
        let windows = self.windows.iter();
        windows.for_each(|window| what(&mut lock(window)));
    }

    /// Goes on for drivers that are as far as `all` says. The event loop must run.
    ///
    /// # Errors
    /// A device cannot.
    pub fn go_on(&self, all: Vec<Progress>) -> Result<()> {
        let failed = || Error::os("go on with a device of a template")(io::ErrorKind::InvalidData.into());
        if all.len() != self.windows.len() {
            return Err(failed());
        }
        for (window, progress) in self.windows.iter().zip(all) {
            let mut window = lock(window);
            window.go_on(progress).ok_or_else(failed)?;
        }
        Ok(())
    }

    /// To be held while writes are made that KVM has kept: they are those of all vCPUs.
    pub fn in_order(&self) -> MutexGuard<'_, ()> {
        self.order.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The guest reads at `address`; where nothing is, ones.
    pub fn read(&self, address: u64, data: &mut [u8]) {
        match self.find(address) {
            Some((window, offset)) => lock(window).read(offset, data),
            None => data.fill(0xff),
        }
    }

    /// The guest writes at `address`; where nothing is, nothing happens.
    pub fn write(&self, address: u64, data: &[u8]) {
        if let Some((window, offset)) = self.find(address) {
            lock(window).write(offset, data);
        }
    }

    fn find(&self, address: u64) -> Option<(&Mutex<MmioTransport>, u64)> {
        let relative = address.checked_sub(VIRTIO_MMIO_START)?;
        let window = self.windows.get(usize::try_from(relative / VIRTIO_MMIO_SIZE).ok()?)?;
        Some((window, relative % VIRTIO_MMIO_SIZE))
    }
}

fn lock(window: &Mutex<MmioTransport>) -> MutexGuard<'_, MmioTransport> {
    window.lock().unwrap_or_else(PoisonError::into_inner)
}
