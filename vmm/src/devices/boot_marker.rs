//! The boot marker: the guest writes a byte to one port, the host stamps the time.

use std::sync::Arc;

use crate::events::{End, Events};

/// I/O port of the marker.
pub const MARKER_PORT: u16 = 0x5b0;

/// Value that ends the VM.
const POWER_OFF: u8 = 0xff;

/// The device.
#[derive(Debug)]
pub struct BootMarker {
    events: Arc<Events>,
}

impl BootMarker {
    /// A marker that writes its stamps to `events`.
    pub fn new(events: Arc<Events>) -> Self {
        Self { events }
    }

    /// Stamps `value`; 255 powers the machine off.
    pub fn write(&self, value: u8) -> Option<End> {
        #[cfg(debug_assertions)]
        if value == rkvm_guest_protocol::marker::INIT {
            rkvm_oci::timeline::delay(rkvm_oci::timeline::Phase::Boot);
        }
        self.events.mark(value);
        (value == POWER_OFF).then_some(End::PowerOff)
    }
}
