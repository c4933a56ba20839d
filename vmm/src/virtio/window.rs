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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_lie_apart_and_end_where_they_end() {
        let windows = Windows::new(2).unwrap();
        assert_eq!(windows.place().1, 2 * WINDOW_BYTES);
        let (first, second) = (windows.window(0), windows.window(1));
        let end = WINDOW_BYTES as u32;
        first.set(end - 4, 7);
        // Behind its end, and across it.
        for offset in [end - 2, end, end + 4, u32::MAX - 3] {
            first.set(offset, 9);
            first.set_bits(offset, 9);
        }
        first.write(WINDOW_BYTES - 1, &[5, 5]);
        let mut bytes = [9; 8];
        first.read(WINDOW_BYTES - 4, &mut bytes);
        assert_eq!(bytes, [7, 0, 0, 0, 0, 0, 0, 0]);
        first.read(usize::MAX, &mut bytes);
        assert_eq!(bytes, [0; 8]);
        second.read(0, &mut bytes);
        assert_eq!(bytes, [0; 8]);
    }

    #[test]
    fn bits_come_and_go_alone() {
        let window = Windows::new(1).unwrap().window(0);
        window.set(0x60, 4);
        window.set_bits(0x60, 3);
        window.clear_bits(0x60, 1);
        let mut bytes = [0; 4];
        window.read(0x60, &mut bytes);
        assert_eq!(bytes, [6, 0, 0, 0]);
    }
}
