//! The streams of one process: between the guest's stream and descriptors of the host.

use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rkvm_oci::ExitStatus;
use rkvm_oci::failure::Failure;

use super::connection::Received;
use super::{Connection, Error, Result};
use crate::{MAX_STREAM_DATA, STDIN_WINDOW, ToGuest, ToHost};

/// Output of the guest that waits here for the host's descriptors before no more is read of it, bytes.
const MAX_WAITING: usize = 256 << 10;
/// What a pipe that is ready takes without blocking (PIPE_BUF of pipe(7)). The descriptors belong to others too, so they are not
/// made non-blocking.
const ATOMIC_WRITE: usize = 4096;

/// The host's side of a process's streams.
#[derive(Debug)]
pub enum Streams {
    /// Three descriptors.
    Files {
        /// Standard input.
        stdin: OwnedFd,
        /// Standard output.
        stdout: OwnedFd,
        /// Standard error.
        stderr: OwnedFd,
    },
    /// A terminal of the host in raw mode: the slave of a pair whose master the user holds, or the user's own.
    Terminal(OwnedFd),
}

/// Which descriptor `poll` spoke of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Slot {
    /// The guest's stream.
    Guest,
    /// Standard input, or the terminal's input.
    Input,
    /// Standard output, or the terminal's output.
    Output,
    /// Standard error.
    Errors,
}

/// How a process that was relayed ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ended {
    /// By itself or by a signal.
    Process(ExitStatus),
    /// It was never executed.
    Failed(Failure),
}

/// Output on its way to a descriptor of the host.
#[derive(Debug)]
struct Output {
    file: Option<File>,
    waiting: Vec<u8>,
}

impl Output {
    fn new(file: Option<File>) -> Self {
        Self { file, waiting: Vec::new() }
    }

    fn add(&mut self, bytes: &[u8]) {
        // Nobody reads it: the process goes on, as one whose output goes to /dev/null.
        if self.file.is_some() {
            self.waiting.extend_from_slice(bytes);
        }
    }

    /// Once `poll` has said that it is writable.
    fn write(&mut self) {
        let Some(file) = &mut self.file else { return };
        let chunk = &self.waiting[..self.waiting.len().min(ATOMIC_WRITE)];
        match file.write(chunk) {
            Ok(count) => drop(self.waiting.drain(..count)),
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {}
            Err(_) => {
                self.file = None;
                self.waiting.clear();
            }
        }
    }
}

/// Relays the streams of one process until it has ended.
#[derive(Debug)]
pub struct Relay {
    connection: Connection,
    input: Option<File>,
    output: Output,
    errors: Output,
    /// Bytes of standard input that may still be sent.
    window: usize,
    started: Option<u32>,
    oom_kills: u64,
    ended: Option<Ended>,
}

impl Relay {
    /// Takes over a connection whose process has been asked for ([`ToGuest::Start`] or [`ToGuest::Exec`]), with what has been received
    /// already: no descriptor speaks of that any more.
    ///
    /// # Errors
    /// A terminal's descriptor cannot be duplicated, or the guest does not keep to the protocol.
    pub fn new(connection: Connection, streams: Streams) -> Result<Self> {
        let (input, output, errors) = match streams {
            Streams::Files { stdin, stdout, stderr } => (stdin, stdout, Some(stderr)),
            Streams::Terminal(terminal) => {
                let both = terminal
                    .try_clone()
                    .map_err(|source| Error::Stream { action: "share the terminal of", source })?;
                (terminal, both, None)
            }
        };
        let mut relay = Self {
            connection,
            input: Some(input.into()),
            output: Output::new(Some(output.into())),
            errors: Output::new(errors.map(File::from)),
            window: STDIN_WINDOW,
            started: None,
            oom_kills: 0,
            ended: None,
        };
        relay.take_received()?;
        Ok(relay)
    }

    /// The process's id inside, once it has been executed.
    pub fn started(&self) -> Option<u32> {
        self.started
    }

    /// How many processes the guest says that its kernel has killed for want of memory: known once the process has ended.
    pub fn oom_kills(&self) -> u64 {
        self.oom_kills
    }

    /// How the process ended, once it has and all of its output has been written.
    pub fn ended(&self) -> Option<&Ended> {
        let done = self.output.waiting.is_empty() && self.errors.waiting.is_empty();
        self.ended.as_ref().filter(|_| done)
    }

    /// Queues a message (signal, window size); it goes out with the next [`Relay::handle`] or at once where there is room.
    ///
    /// # Errors
    /// The stream is broken.
    pub fn send(&mut self, message: &ToGuest) -> Result<()> {
        self.connection.send(message);
        self.connection.flush()
    }

    /// Descriptors to `poll`, each with what for.
    pub fn interests(&self) -> Vec<(Slot, BorrowedFd<'_>, PollFlags)> {
        let mut wanted = Vec::with_capacity(4);
        let waiting = self.output.waiting.len().max(self.errors.waiting.len());
        if self.ended.is_none() {
            let mut events = self.connection.events();
            events.set(PollFlags::POLLIN, waiting < MAX_WAITING);
            // Without anything to wait for, a guest that has hung up would wake the caller without end.
            if !events.is_empty() {
                wanted.push((Slot::Guest, self.connection.as_fd(), events));
            }
            if let Some(input) = self.input.as_ref().filter(|_| self.reads_input()) {
                wanted.push((Slot::Input, input.as_fd(), PollFlags::POLLIN));
            }
        }
        for (slot, output) in [(Slot::Output, &self.output), (Slot::Errors, &self.errors)] {
            if let Some(file) = output.file.as_ref().filter(|_| !output.waiting.is_empty()) {
                wanted.push((slot, file.as_fd(), PollFlags::POLLOUT));
            }
        }
        wanted
    }

    fn reads_input(&self) -> bool {
        self.window > 0 && self.connection.queued() < MAX_WAITING
    }

    /// `poll` says that something is to be done for `slot`.
    ///
    /// # Errors
    /// The guest is gone or does not keep to the protocol: its process is lost.
    pub fn handle(&mut self, slot: Slot) -> Result<()> {
        match slot {
            Slot::Guest => self.hear_guest(),
            Slot::Input => self.read_input(),
            Slot::Output => {
                self.output.write();
                Ok(())
            }
            Slot::Errors => {
                self.errors.write();
                Ok(())
            }
        }
    }

    fn hear_guest(&mut self) -> Result<()> {
        self.connection.flush()?;
        let received = self.connection.receive()?;
        self.take_received()?;
        if received == Received::End && self.ended.is_none() { Err(Error::Closed) } else { Ok(()) }
    }

    fn take_received(&mut self) -> Result<()> {
        while self.ended.is_none()
            && let Some(message) = self.connection.next_message()?
        {
            self.obey(message)?;
        }
        Ok(())
    }

    fn obey(&mut self, message: ToHost) -> Result<()> {
        match message {
            ToHost::Stdout(bytes) => self.output.add(&bytes),
            ToHost::Stderr(bytes) => self.errors.add(&bytes),
            ToHost::StdinTaken(bytes) => self.window = STDIN_WINDOW.min(self.window + bytes as usize),
            ToHost::StdinClosed => self.input = None,
            ToHost::Started { pid } if self.started.is_none() => self.started = Some(pid),
            ToHost::OomKills(count) if self.started.is_some() => self.oom_kills = count,
            ToHost::Ended(status) if self.started.is_some() => self.ended = Some(Ended::Process(status)),
            ToHost::Failed(failure) => self.ended = Some(Ended::Failed(*failure)),
            _ => return Err(Error::Unexpected),
        }
        Ok(())
    }

    fn read_input(&mut self) -> Result<()> {
        let Some(input) = &mut self.input else { return Ok(()) };
        let mut bytes = vec![0; self.window.min(MAX_STREAM_DATA)];
        match input.read(&mut bytes) {
            Ok(count) if count > 0 => {
                bytes.truncate(count);
                self.window -= count;
                self.send(&ToGuest::Stdin(bytes))
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::Interrupted | io::ErrorKind::WouldBlock) => {
                Ok(())
            }
            // The end, or a terminal whose other side is gone.
            _ => {
                self.input = None;
                self.send(&ToGuest::StdinEnd)
            }
        }
    }

    /// Relays until the process has ended: for a caller that has nothing else to wait for.
    ///
    /// # Errors
    /// As [`Relay::handle`].
    pub fn run(mut self) -> Result<Ended> {
        loop {
            if let Some(ended) = self.ended() {
                return Ok(ended.clone());
            }
            let ready = {
                let interests = self.interests();
                let mut set: Vec<PollFd<'_>> =
                    interests.iter().map(|(_, fd, events)| PollFd::new(*fd, *events)).collect();
                match poll(&mut set, PollTimeout::NONE) {
                    Ok(_) | Err(nix::Error::EINTR) => {}
                    Err(errno) => return Err(Error::Stream { action: "wait for", source: errno.into() }),
                }
                interests
                    .iter()
                    .zip(&set)
                    .filter(|(_, entry)| entry.revents().is_some_and(|events| !events.is_empty()))
                    .map(|((slot, ..), _)| *slot)
                    .collect::<Vec<_>>()
            };
            for slot in ready {
                self.handle(slot)?;
            }
        }
    }
}
