//! The memory behind the register windows: what the guest reads of its devices.
//!
//! KVM maps it read-only into the guest, so reading a register is no exit, and a device that is probed is read 50 times. A write still
//! exits. So each register always shows what a read of it would give: a write that changes others updates them before the guest goes on.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

use vm_memory::mmap::MmapRegion;
use vm_memory::{VolatileMemory, VolatileSlice};

use crate::error::{Error, Result};

/// Bytes of a window.
pub const WINDOW_BYTES: usize = 0x1000;

/// The memory of all devices' windows, one behind the other.
#[derive(Debug, Clone)]
pub struct Windows {
    memory: Arc<MmapRegion>,
}

/// One device's window.
#[derive(Debug, Clone)]
pub struct Window {
    memory: Arc<MmapRegion>,
    /// Where it begins, bytes.
    start: usize,
}

impl Windows {
    /// Memory for `count` windows, at least one.
    ///
    /// # Errors
    /// The host has no memory.
    pub fn new(count: usize) -> Result<Self> {
        let memory = MmapRegion::new(count.max(1) * WINDOW_BYTES).map_err(|error| {
            Error::os("map the devices' registers")(std::io::Error::other(error.to_string()))
        })?;
        Ok(Self { memory: Arc::new(memory) })
    }

    /// Where it is in this process, and how long it is.
    pub fn place(&self) -> (*mut u8, usize) {
        (self.memory.as_ptr(), self.memory.size())
    }

    /// The window number `index`, or the last one.
    pub fn window(&self, index: usize) -> Window {
        let start = (index * WINDOW_BYTES).min(self.memory.size() - WINDOW_BYTES);
        Window { memory: Arc::clone(&self.memory), start }
    }
}

impl Window {
    /// The register at `offset`, if there is one.
    fn register(&self, offset: u32) -> Option<&AtomicU32> {
        let offset = usize::try_from(offset).ok().filter(|offset| *offset < WINDOW_BYTES)?;
        self.memory.get_atomic_ref(self.start + offset).ok()
    }

    fn bytes(&self, offset: usize, count: usize) -> Option<VolatileSlice<'_>> {
        let end = offset.checked_add(count).filter(|end| *end <= WINDOW_BYTES)?;
        self.memory.get_slice(self.start + offset, end - offset).ok()
    }

    /// Shows `value` in the register at `offset`.
    pub fn set(&self, offset: u32, value: u32) {
        if let Some(register) = self.register(offset) {
            register.store(value, Ordering::SeqCst);
        }
    }

    /// Shows further bits in the register at `offset`.
    pub fn set_bits(&self, offset: u32, bits: u32) {
        if let Some(register) = self.register(offset) {
            register.fetch_or(bits, Ordering::SeqCst);
        }
    }

    /// Takes bits out of the register at `offset`.
    pub fn clear_bits(&self, offset: u32, bits: u32) {
        if let Some(register) = self.register(offset) {
            register.fetch_and(!bits, Ordering::SeqCst);
        }
    }

    /// Shows `data` from `offset` on.
    pub fn write(&self, offset: usize, data: &[u8]) {
        if let Some(bytes) = self.bytes(offset, data.len()) {
            bytes.copy_from(data);
        }
    }

    /// What the guest reads from `offset` on; zeros beyond the window.
    pub fn read(&self, offset: usize, data: &mut [u8]) {
        data.fill(0);
        let count = data.len().min(WINDOW_BYTES.saturating_sub(offset));
        if let Some(bytes) = self.bytes(offset, count) {
            bytes.copy_to(&mut data[..count]);
        }
    }
}
