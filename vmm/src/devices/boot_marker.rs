//! The boot marker: the guest writes a byte to one port, the host stamps the time.

use rkvm_oci::timeline::MonotonicNs;

use crate::vm::End;

/// I/O port of the marker.
pub const MARKER_PORT: u16 = 0x5b0;

/// Most time stamps that are kept: a guest that writes without end must not make the host's memory grow.
const MAX_MARKERS: usize = 64;
/// Values from here on end the VM; see [`BootMarker::write`].
const POWER_OFF: u8 = 0xff;

/// A time stamp that the guest asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Marker {
    /// What the guest wrote.
    pub value: u8,
    /// When the host saw it.
    pub at: MonotonicNs,
}

/// The device.
#[derive(Debug, Default)]
pub struct BootMarker {
    markers: Vec<Marker>,
}

impl BootMarker {
    /// Stamps `value`; 255 powers the machine off.
    pub fn write(&mut self, value: u8) -> Option<End> {
        if self.markers.len() < MAX_MARKERS {
            self.markers.push(Marker { value, at: MonotonicNs::now() });
        }
        (value == POWER_OFF).then_some(End::PowerOff)
    }

    /// Stamps so far, in the order in which they came.
    pub fn markers(&self) -> &[Marker] {
        &self.markers
    }
}
