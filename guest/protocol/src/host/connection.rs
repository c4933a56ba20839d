//! One stream to the guest.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use super::{Error, Result};
use crate::{Answer, FrameReader, MAX_STREAM_DATA, Question, SERVICE_PORT, ToGuest, ToHost, VERSION};

/// A stream to the guest, non-blocking, with what waits to be sent on it.
#[derive(Debug)]
pub struct Connection {
    stream: UnixStream,
    reader: FrameReader,
    outgoing: Vec<u8>,
}

/// What [`Connection::receive`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Received {
    /// Bytes, or nothing yet.
    Open,
    /// The guest's end.
    End,
}

impl Connection {
    /// Takes over a stream that is connected to the guest already: the machine's own.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn new(stream: UnixStream) -> Result<Self> {
        stream.set_nonblocking(true).map_err(|source| Error::Stream { action: "set up", source })?;
        Ok(Self { stream, reader: FrameReader::new(), outgoing: Vec::new() })
    }

    /// Connects to `port` of the guest through the socket of its VMM at `path`, and reads the guest's greeting.
    ///
    /// # Errors
    /// There is no VMM, its guest does not listen, or does not answer within `limit`.
    pub fn open(path: &Path, port: u32, limit: Duration) -> Result<Self> {
        let error = |source| Error::Connect { path: path.to_owned(), source };
        let deadline = Instant::now() + limit;
        let mut stream = UnixStream::connect(path).map_err(error)?;
        stream.set_nonblocking(true).map_err(error)?;
        stream.write_all(format!("CONNECT {port}\n").as_bytes()).map_err(error)?;
        // `OK PORT`: a byte at a time, because what follows is the guest's.
        let mut answer = Vec::new();
        while answer.last() != Some(&b'\n') {
            let mut byte = [0];
            match stream.read(&mut byte) {
                Ok(1) if answer.len() < 32 => answer.push(byte[0]),
                Ok(_) => return Err(Error::Closed),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    wait_for(stream.as_fd(), PollFlags::POLLIN, deadline, limit)?;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => return Err(Error::Stream { action: "read", source }),
            }
        }
        if !answer.starts_with(b"OK ") {
            return Err(Error::Unexpected);
        }
        let mut connection = Self::new(stream)?;
        connection.greet(deadline.saturating_duration_since(Instant::now()))?;
        Ok(connection)
    }

    /// Reads the guest's first message and checks its version.
    ///
    /// # Errors
    /// It does not come within `limit`, or is of another version.
    pub fn greet(&mut self, limit: Duration) -> Result<()> {
        match self.wait(limit)? {
            ToHost::Hello { version: VERSION } => Ok(()),
            ToHost::Hello { version } => Err(Error::Version { theirs: version }),
            _ => Err(Error::Unexpected),
        }
    }

    /// Queues a message; [`Connection::flush`] or [`Connection::wait`] send it.
    pub fn send(&mut self, message: &ToGuest) {
        self.outgoing.extend_from_slice(&message.encode());
    }

    /// Sends `message` and waits for the answer; [`ToHost::Failed`] is an error.
    ///
    /// # Errors
    /// The guest failed, has ended, or did not answer within `limit`.
    pub fn call(&mut self, message: &ToGuest, limit: Duration) -> Result<ToHost> {
        self.send(message);
        match self.wait(limit)? {
            ToHost::Failed(failure) => Err(Error::Failed(*failure)),
            other => Ok(other),
        }
    }

    /// Waits for the guest's next message, and sends what is queued meanwhile.
    ///
    /// # Errors
    /// None comes within `limit`, or none will.
    pub fn wait(&mut self, limit: Duration) -> Result<ToHost> {
        let deadline = Instant::now() + limit;
        loop {
            if let Some(message) = self.arrived()? {
                return Ok(message);
            }
            wait_for(self.stream.as_fd(), self.events(), deadline, limit)?;
        }
    }

    /// The guest's next message, if it is there; sends what is queued. To be asked before every `poll` for its descriptor: one read may
    /// bring several messages, and of those `poll` says nothing any more.
    ///
    /// # Errors
    /// None will come.
    pub fn arrived(&mut self) -> Result<Option<ToHost>> {
        self.flush()?;
        if let Some(message) = self.next_message()? {
            return Ok(Some(message));
        }
        let received = self.receive()?;
        match self.next_message()? {
            None if received == Received::End => Err(Error::Closed),
            message => Ok(message),
        }
    }

    /// What to `poll` its descriptor for.
    pub(super) fn events(&self) -> PollFlags {
        let writes = if self.outgoing.is_empty() { PollFlags::empty() } else { PollFlags::POLLOUT };
        PollFlags::POLLIN | writes
    }

    /// Bytes that wait to be sent.
    pub(super) fn queued(&self) -> usize {
        self.outgoing.len()
    }

    /// Sends as much as goes without blocking.
    ///
    /// # Errors
    /// The stream has ended.
    pub fn flush(&mut self) -> Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // What the guest said before it closed the stream is still to be read.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => self.outgoing.clear(),
                Err(source) => return Err(Error::Stream { action: "write to", source }),
            }
        }
        Ok(())
    }

    /// Reads once.
    pub(super) fn receive(&mut self) -> Result<Received> {
        let mut bytes = vec![0; MAX_STREAM_DATA + 8];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Ok(Received::End),
            Ok(count) => self.reader.push(&bytes[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(Received::End),
            Err(source) => return Err(Error::Stream { action: "read", source }),
        }
        Ok(Received::Open)
    }

    /// The next whole message that has been received.
    pub(super) fn next_message(&mut self) -> Result<Option<ToHost>> {
        Ok(self.reader.next_message()?)
    }
}

impl AsFd for Connection {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.stream.as_fd()
    }
}

/// Asks the guest behind the VMM's socket at `path`.
///
/// # Errors
/// The guest failed, has ended, or did not answer within `limit`.
pub fn ask(path: &Path, question: Question, limit: Duration) -> Result<Answer> {
    let mut connection = Connection::open(path, SERVICE_PORT, limit)?;
    match connection.call(&ToGuest::Ask(Box::new(question)), limit)? {
        ToHost::Answer(answer) => Ok(*answer),
        _ => Err(Error::Unexpected),
    }
}

fn wait_for(fd: BorrowedFd<'_>, events: PollFlags, deadline: Instant, limit: Duration) -> Result<()> {
    let left = deadline.saturating_duration_since(Instant::now());
    // What is there already is taken, however late it is.
    let ms = if left.is_zero() { 0 } else { left.as_millis() + 1 };
    match poll(&mut [PollFd::new(fd, events)], PollTimeout::try_from(ms).unwrap_or(PollTimeout::MAX)) {
        Ok(0) if left.is_zero() => Err(Error::TimedOut(limit)),
        Ok(_) | Err(nix::Error::EINTR) => Ok(()),
        Err(errno) => Err(Error::Stream { action: "wait for", source: errno.into() }),
    }
}
