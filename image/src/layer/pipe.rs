//! A byte pipe between two threads that hands whole buffers over and uses them again.

use std::io::{self, BufRead, Read};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// Large enough that handing over costs nothing, small enough for the cache.
const BUFFER_BYTES: usize = 128 * 1024;
/// Buffers on the way: the reader may be making files for a while without the writer having to stop.
const DEPTH: usize = 16;

/// The end that is written to.
#[derive(Debug)]
pub(super) struct PipeWriter {
    full: SyncSender<Vec<u8>>,
    empty: Receiver<Vec<u8>>,
}

/// The end that is read from.
#[derive(Debug)]
pub(super) struct PipeReader {
    full: Receiver<Vec<u8>>,
    empty: SyncSender<Vec<u8>>,
    current: Vec<u8>,
    position: usize,
}

pub(super) fn pipe() -> (PipeWriter, PipeReader) {
    let (full_in, full_out) = sync_channel(DEPTH);
    let (empty_in, empty_out) = sync_channel(DEPTH + 2);
    let writer = PipeWriter { full: full_in, empty: empty_out };
    (writer, PipeReader { full: full_out, empty: empty_in, current: vec![], position: 0 })
}

impl PipeWriter {
    /// A buffer to fill.
    pub(super) fn buffer(&self) -> Vec<u8> {
        let mut buffer = self.empty.try_recv().unwrap_or_default();
        buffer.resize(BUFFER_BYTES, 0);
        buffer
    }

    /// Hands a filled buffer over; `false` when the reader is gone.
    pub(super) fn send(&self, buffer: Vec<u8>) -> bool {
        self.full.send(buffer).is_ok()
    }
}

impl BufRead for PipeReader {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        while self.position == self.current.len() {
            match self.full.recv() {
                Ok(next) => {
                    // If the writer is gone or has enough, the old buffer is just freed.
                    let _ = self.empty.try_send(std::mem::replace(&mut self.current, next));
                    self.position = 0;
                }
                Err(_) => return Ok(&[]),
            }
        }
        Ok(&self.current[self.position..])
    }

    fn consume(&mut self, amount: usize) {
        self.position += amount;
    }
}

impl Read for PipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let available = self.fill_buf()?;
        let length = available.len().min(buffer.len());
        buffer[..length].copy_from_slice(&available[..length]);
        self.consume(length);
        Ok(length)
    }
}
