//! First serial port: output only, kept for the last lines before a guest's end.

use std::collections::VecDeque;
use std::io::{self, Write};

use vm_superio::{Serial, Trigger};
use vmm_sys_util::eventfd::EventFd;

use crate::error::{Error, Result};
use crate::events::End;

/// First I/O port of COM1; eight ports.
pub const SERIAL_PORT: u16 = 0x3f8;
/// Its interrupt line.
pub const SERIAL_IRQ: u32 = 4;
/// How much console output is kept, bytes: a guest that prints without end must not make the host's memory grow.
const TAIL_BYTES: usize = 16 << 10;

/// Linux's words before a panic's message (kernel/panic.c).
const PANIC: &str = "Kernel panic - not syncing: ";
/// How the message begins when no memory is left (mm/oom_kill.c).
const OUT_OF_MEMORY: &str = "Out of memory";
const DEADLOCKED_ON_MEMORY: &str = "System is deadlocked on memory";

/// Raises the port's interrupt line.
#[derive(Debug)]
struct Line(EventFd);

impl Trigger for Line {
    type E = io::Error;

    fn trigger(&self) -> io::Result<()> {
        self.0.write(1)
    }
}

/// Keeps the tail of the output, and passes all of it on where somebody wants it.
struct Output {
    tail: VecDeque<u8>,
    sink: Option<Box<dyn Write + Send>>,
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let surplus = (self.tail.len() + bytes.len()).saturating_sub(TAIL_BYTES).min(self.tail.len());
        self.tail.drain(..surplus);
        self.tail.extend(bytes);
        if let Some(sink) = &mut self.sink {
            sink.write_all(bytes)?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        self.sink.as_mut().map_or(Ok(()), |sink| sink.flush())
    }
}

/// The port.
pub struct SerialConsole {
    serial: Serial<Line, vm_superio::serial::NoEvents, Output>,
}

impl std::fmt::Debug for SerialConsole {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SerialConsole").field("kept", &self.serial.writer().tail.len()).finish()
    }
}

impl SerialConsole {
    /// A port that raises `interrupt` and passes its output to `sink`.
    pub fn new(interrupt: EventFd, sink: Option<Box<dyn Write + Send>>) -> Self {
        Self { serial: Serial::new(Line(interrupt), Output { tail: VecDeque::new(), sink }) }
    }

    /// The guest wrote `value` to register `offset` (0 to 7).
    ///
    /// # Errors
    /// The sink cannot be written.
    pub fn write(&mut self, offset: u8, value: u8) -> Result<()> {
        self.serial.write(offset, value).map_err(|error| Error::Os {
            action: "write the guest's console output",
            source: match error {
                vm_superio::serial::Error::Trigger(source) | vm_superio::serial::Error::IOError(source) => {
                    source
                }
                vm_superio::serial::Error::FullFifo => io::ErrorKind::StorageFull.into(),
            },
        })
    }

    /// The guest reads register `offset` (0 to 7).
    pub fn read(&mut self, offset: u8) -> u8 {
        self.serial.read(offset)
    }

    /// The last lines of output, at most `lines`.
    pub fn last_lines(&self, lines: usize) -> String {
        let text = self.tail();
        let all: Vec<&str> = text.lines().collect();
        all[all.len().saturating_sub(lines)..].join("\n")
    }

    /// What a guest that has crashed said about it: a Linux kernel's panic message.
    pub fn panic(&self) -> Option<End> {
        let text = self.tail();
        let message = text.lines().rev().find_map(|line| line.split_once(PANIC))?.1.trim();
        Some(match message {
            text if text.starts_with(OUT_OF_MEMORY) || text.starts_with(DEADLOCKED_ON_MEMORY) => {
                End::OutOfMemory(text.to_owned())
            }
            text => End::Panic(text.to_owned()),
        })
    }

    fn tail(&self) -> String {
        let tail: Vec<u8> = self.serial.writer().tail.iter().copied().collect();
        String::from_utf8_lossy(&tail).into_owned()
    }
}
