//! Console device (virtio 1.2, section 5.3): `hvc0` in the guest, a terminal, pipe or socket on the host.

mod handler;

use std::fs::File;
use std::os::fd::OwnedFd;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use virtio_bindings::virtio_ids::VIRTIO_ID_CONSOLE;

use self::handler::ConsoleHandler;
use super::{
    Activation, CONFIG_SPACE_BYTES, ConfigSpace, FEATURE_EVENT_IDX, FEATURE_VERSION_1, Handler, Interrupt,
    VirtioDevice, sys,
};
use crate::error::{Error, Result};

/// VIRTIO_CONSOLE_F_SIZE: the configuration has the terminal's size.
const FEATURE_SIZE: u64 = 1;
/// What the host types, what the guest prints.
const QUEUE_SIZES: [u16; 2] = [64, 64];

/// Size of the terminal, characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TerminalSize {
    /// Characters a line.
    pub columns: u16,
    /// Lines.
    pub rows: u16,
}

/// Tells the guest of a new size of the terminal.
#[derive(Debug, Clone)]
pub struct ConsoleControl {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    size: Mutex<TerminalSize>,
    generation: AtomicU32,
    /// Of the driver that is running.
    interrupt: Mutex<Option<Interrupt>>,
}

impl Shared {
    /// The configuration space, and its generation.
    fn show(&self, config: &mut ConfigSpace) -> u32 {
        let size = *self.size.lock().unwrap_or_else(PoisonError::into_inner);
        config[..2].copy_from_slice(&size.columns.to_le_bytes());
        config[2..4].copy_from_slice(&size.rows.to_le_bytes());
        self.generation.load(Ordering::SeqCst)
    }
}

impl ConsoleControl {
    /// Sets the size.
    pub fn resize(&self, size: TerminalSize) {
        *self.shared.size.lock().unwrap_or_else(PoisonError::into_inner) = size;
        self.shared.generation.fetch_add(1, Ordering::SeqCst);
        if let Some(interrupt) = &*self.shared.interrupt.lock().unwrap_or_else(PoisonError::into_inner) {
            interrupt.config_changed(|config| self.shared.show(config));
        }
    }
}

/// The device.
#[derive(Debug)]
pub struct Console {
    input: File,
    output: File,
    shared: Arc<Shared>,
}

impl Console {
    /// A console that gets what can be read from `input` and prints to `output`. Both become non-blocking, for all who share them; neither
    /// may be a regular file.
    ///
    /// # Errors
    /// A descriptor cannot be made non-blocking.
    pub fn new(input: OwnedFd, output: OwnedFd, size: TerminalSize) -> Result<Self> {
        let (input, output) = (File::from(input), File::from(output));
        for descriptor in [&input, &output] {
            sys::set_non_blocking(descriptor).map_err(Error::os("set a console's end to non-blocking"))?;
        }
        let shared =
            Shared { size: Mutex::new(size), generation: AtomicU32::new(0), interrupt: Mutex::default() };
        Ok(Self { input, output, shared: Arc::new(shared) })
    }

    /// For telling the guest of a new size.
    pub fn control(&self) -> ConsoleControl {
        ConsoleControl { shared: Arc::clone(&self.shared) }
    }
}

impl VirtioDevice for Console {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_CONSOLE
    }

    fn queue_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        FEATURE_VERSION_1 | FEATURE_EVENT_IDX | FEATURE_SIZE
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn read_config(&self, offset: usize, data: &mut [u8]) {
        let mut config = [0; CONFIG_SPACE_BYTES];
        self.shared.show(&mut config);
        super::copy_config(&config, offset, data);
    }

    fn config_generation(&self) -> u32 {
        self.shared.generation.load(Ordering::SeqCst)
    }

    fn activate(&mut self, activation: Activation) -> Result<Handler> {
        let share = |file: &File| file.try_clone().map_err(Error::os("share a console's descriptor"));
        let interrupt = activation.interrupt.clone();
        let handler = ConsoleHandler::new(
            share(&self.input)?,
            share(&self.output)?,
            Arc::clone(&self.shared),
            activation,
        )?;
        *self.shared.interrupt.lock().unwrap_or_else(PoisonError::into_inner) = Some(interrupt);
        Ok(Box::new(handler))
    }
}
