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
        delay(value);
        self.events.mark(value);
        (value == POWER_OFF).then_some(End::PowerOff)
    }
}

/// The phase that `value` ends takes longer in a test that says so.
#[cfg(debug_assertions)]
fn delay(value: u8) {
    use rkvm_guest_protocol::marker;
    use rkvm_oci::timeline::{Phase, delay};
    match value {
        marker::INIT | marker::RESUMED => delay(Phase::Boot),
        marker::READY => delay(Phase::Process),
        marker::EXEC => delay(Phase::Exec),
        _ => {}
    }
}
