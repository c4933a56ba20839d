//! Devices on the guest's I/O ports.

mod boot_marker;
mod mmio_bus;
mod serial;

pub use boot_marker::{BootMarker, MARKER_PORT};
pub use mmio_bus::{Held, MmioBus};
pub use serial::{SERIAL_IRQ, SERIAL_PORT, SerialConsole};

use crate::error::Result;
use crate::events::End;

/// Keyboard controller's command port, whose only use left is the reset line.
const RESET_PORT: u16 = 0x64;
const RESET_COMMAND: u8 = 0xfe;

/// Every device that answers on an I/O port.
#[derive(Debug)]
pub struct PortBus {
    /// First serial port.
    pub console: SerialConsole,
    /// Time stamps, and the end.
    pub marker: BootMarker,
}

impl PortBus {
    /// The guest wrote `data` to `port`. Ports that nothing answers on swallow the write, as on a PC.
    ///
    /// # Errors
    /// The console's output cannot be written.
    pub fn write(&mut self, port: u16, data: &[u8]) -> Result<Option<End>> {
        // A guest chooses the width, 1 to 4 bytes; no device here has registers wider than one.
        let [value] = *data else { return Ok(None) };
        match port {
            SERIAL_PORT..=0x3ff => self.console.write((port - SERIAL_PORT) as u8, value)?,
            MARKER_PORT => return Ok(self.marker.write(value)),
            RESET_PORT if value == RESET_COMMAND => return Ok(Some(End::Reset)),
            _ => {}
        }
        Ok(None)
    }

    /// The guest reads from `port`. Ports that nothing answers on read as ones, as on a PC.
    pub fn read(&mut self, port: u16, data: &mut [u8]) {
        data.fill(0xff);
        if let [value] = data
            && (SERIAL_PORT..=0x3ff).contains(&port)
        {
            *value = self.console.read((port - SERIAL_PORT) as u8);
        }
    }
}
