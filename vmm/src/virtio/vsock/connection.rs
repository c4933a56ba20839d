//! One stream between a guest port and a Unix socket, with the credit of both directions (virtio 1.2, section 5.10.6.3).

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::num::Wrapping;
use std::os::unix::net::UnixStream;

use vm_memory::bitmap::BitmapSlice;
use vm_memory::{ReadVolatile, VolatileMemoryError, VolatileSlice, WriteVolatile};

/// What the guest may send before the host's program has read it, bytes. Also the most that is kept here for one
/// connection: a guest that ignores its credit is cut off.
pub(super) const BUFFER_BYTES: u32 = 256 << 10;
/// Longest first line that a host program may send, bytes.
const MAX_GREETING: usize = 32;

/// How far a connection has come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    /// A host program has connected and has not named its port yet.
    Greeting,
    /// The guest has been asked and has not answered yet.
    Requested,
    /// Data flows.
    Open,
}

/// What a host program's first line turned out to be.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Greeting {
    /// Not complete yet.
    Partial,
    /// `CONNECT PORT`.
    Connect(u32),
    /// Anything else, or the end of the stream.
    Refused,
}

/// A connection.
#[derive(Debug)]
pub(super) struct Connection {
    pub(super) stream: UnixStream,
    pub(super) phase: Phase,
    /// Bytes from the guest that the host's program has not taken yet.
    backlog: VecDeque<u8>,
    /// Bytes that the host's program has taken, which the guest is told as our `fwd_cnt`.
    forwarded: Wrapping<u32>,
    /// The `forwarded` that the guest was last told.
    announced: Wrapping<u32>,
    /// Bytes sent to the guest.
    sent: Wrapping<u32>,
    /// The guest's buffer and what its program has taken out of it, as the guest last said.
    peer_buffer: u32,
    peer_forwarded: Wrapping<u32>,
    /// The host's program sends no more.
    pub(super) host_done: bool,
    /// The guest sends no more.
    pub(super) guest_done: bool,
    /// The guest neither sends nor takes any more: the connection ends when the host's program has everything.
    pub(super) hung_up: bool,
    /// Whether the event loop watches the stream.
    pub(super) watched: bool,
    greeting: Vec<u8>,
}

impl Connection {
    pub(super) fn new(stream: UnixStream, phase: Phase) -> io::Result<Self> {
        stream.set_nonblocking(true)?;
        Ok(Self {
            stream,
            phase,
            backlog: VecDeque::new(),
            forwarded: Wrapping(0),
            announced: Wrapping(0),
            sent: Wrapping(0),
            peer_buffer: 0,
            peer_forwarded: Wrapping(0),
            host_done: false,
            guest_done: false,
            hung_up: false,
            watched: false,
            greeting: Vec::new(),
        })
    }

    /// Takes over what a packet's header says of the guest's buffer.
    pub(super) fn peer_credit(&mut self, buffer: u32, forwarded: u32) {
        (self.peer_buffer, self.peer_forwarded) = (buffer, Wrapping(forwarded));
    }

    /// Bytes that may be sent to the guest now. A guest that claims to have taken more than was sent gets nothing.
    pub(super) fn credit(&self) -> u32 {
        self.peer_buffer.saturating_sub((self.sent - self.peer_forwarded).0)
    }

    /// Our own `fwd_cnt`, for the header of a packet; from then on the guest knows it.
    pub(super) fn announce(&mut self) -> u32 {
        self.announced = self.forwarded;
        self.forwarded.0
    }

    /// Whether the guest should be told of new room before it runs out of credit: at half the buffer.
    pub(super) fn wants_credit_update(&self) -> bool {
        (self.forwarded - self.announced).0 >= BUFFER_BYTES / 2
    }

    /// Takes data of the guest, straight out of its memory; `Err` when it sends more than its credit, or the host's program has gone.
    pub(super) fn take<B: BitmapSlice>(&mut self, data: &VolatileSlice<'_, B>) -> io::Result<()> {
        if self.backlog.len() + data.len() > BUFFER_BYTES as usize {
            return Err(io::ErrorKind::QuotaExceeded.into());
        }
        let mut done = 0;
        while self.backlog.is_empty() && done < data.len() {
            let rest = data.offset(done).map_err(io::Error::other)?;
            match self.stream.write_volatile(&rest) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    done += count;
                    self.forwarded += count as u32;
                }
                Err(VolatileMemoryError::IOError(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    break;
                }
                Err(VolatileMemoryError::IOError(error)) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(io::Error::other(error)),
            }
        }
        if done < data.len() {
            let mut rest = vec![0; data.len() - done];
            data.offset(done).map_err(io::Error::other)?.copy_to(&mut rest[..]);
            self.backlog.extend(rest);
        }
        Ok(())
    }

    /// Reads data of the host's program, straight into the guest's memory; at most as much as the guest has room for. 0 is the end.
    pub(super) fn give<B: BitmapSlice>(&mut self, room: &VolatileSlice<'_, B>) -> io::Result<usize> {
        let bytes = room.len().min(self.credit() as usize);
        let mut room = room.subslice(0, bytes).map_err(io::Error::other)?;
        match self.stream.read_volatile(&mut room) {
            Ok(count) => {
                self.sent += count as u32;
                Ok(count)
            }
            Err(VolatileMemoryError::IOError(error)) => Err(error),
            Err(error) => Err(io::Error::other(error)),
        }
    }

    /// Passes as much of the backlog on as the host's program takes without blocking.
    pub(super) fn flush(&mut self) -> io::Result<()> {
        while !self.backlog.is_empty() {
            let (front, _) = self.backlog.as_slices();
            match self.stream.write(front) {
                Ok(0) => return Err(io::ErrorKind::WriteZero.into()),
                Ok(count) => {
                    self.backlog.drain(..count);
                    self.forwarded += count as u32;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if self.guest_done {
            // The end of the guest's stream follows its last byte.
            self.stream.shutdown(std::net::Shutdown::Write)?;
        }
        Ok(())
    }

    /// Whether data waits for the host's program.
    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    /// Reads on in the host program's first line, a byte at a time so that nothing behind it is swallowed.
    pub(super) fn read_greeting(&mut self) -> Greeting {
        let mut byte = [0];
        loop {
            match self.stream.read(&mut byte) {
                Ok(1) if byte[0] == b'\n' => break,
                Ok(1) if self.greeting.len() < MAX_GREETING => self.greeting.push(byte[0]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Greeting::Partial,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                _ => return Greeting::Refused,
            }
        }
        let port = std::str::from_utf8(&self.greeting)
            .ok()
            .and_then(|line| line.strip_prefix("CONNECT "))
            .and_then(|port| port.trim_end().parse().ok());
        port.map_or(Greeting::Refused, Greeting::Connect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair(phase: Phase) -> (Connection, UnixStream) {
        let (ours, theirs) = UnixStream::pair().unwrap();
        (Connection::new(ours, phase).unwrap(), theirs)
    }

    #[test]
    fn a_guest_that_claims_to_have_taken_more_than_was_sent_gets_nothing() {
        let (mut connection, _peer) = pair(Phase::Open);
        connection.peer_credit(1000, 0);
        connection.sent += 400;
        assert_eq!(connection.credit(), 600);
        connection.peer_credit(1000, 500);
        assert_eq!(connection.credit(), 0);
    }

    #[test]
    fn counters_that_wrap_around_keep_the_right_credit() {
        let (mut connection, _peer) = pair(Phase::Open);
        connection.sent += u32::MAX;
        connection.sent += 11;
        connection.peer_credit(100, u32::MAX);
        assert_eq!(connection.credit(), 89);
    }

    #[test]
    fn a_guest_that_ignores_its_credit_is_cut_off() {
        let (mut connection, _peer) = pair(Phase::Open);
        let mut chunk = vec![0; 64 << 10];
        let chunk = VolatileSlice::from(&mut chunk[..]);
        let taken = (0..100).take_while(|_| connection.take(&chunk).is_ok()).count();
        assert!(taken < 100, "a backlog without bound");
    }

    #[test]
    fn greetings() {
        for (line, expected) in [
            ("CONNECT 52\n", Greeting::Connect(52)),
            ("CONNECT 4294967296\n", Greeting::Refused),
            ("GET / HTTP/1.1\n", Greeting::Refused),
            ("CONNECT 5", Greeting::Partial),
            (&"x".repeat(100), Greeting::Refused),
        ] {
            let (mut connection, mut peer) = pair(Phase::Greeting);
            peer.write_all(line.as_bytes()).unwrap();
            assert_eq!(connection.read_greeting(), expected, "{line:?}");
        }
    }
}
