//! The clients that are attached to a container.

use std::io::{self, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::UnixStream;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rkvm_engine::log::Stream;
use rkvm_engine::protocol::{Decoder, Hello, Kind, push_frame};
use serde::Serialize;

/// Above this, bytes, the container's output waits until the client has read: nothing is lost, and nothing piles up here.
const MAX_WAITING: usize = 64 << 10;

/// One connection.
#[derive(Debug)]
pub struct Client {
    socket: UnixStream,
    decoder: Decoder,
    hello: Option<Hello>,
    waiting: Vec<u8>,
    gone: bool,
    left_on_purpose: bool,
}

impl Client {
    /// A client whose bytes so far are in `decoder`, and who has said `hello` or nothing yet.
    ///
    /// # Errors
    /// The socket cannot be made nonblocking.
    pub fn new(socket: UnixStream, decoder: Decoder, hello: Option<Hello>) -> io::Result<Self> {
        socket.set_nonblocking(true)?;
        Ok(Self { socket, decoder, hello, waiting: Vec::new(), gone: false, left_on_purpose: false })
    }

    /// Its socket.
    pub fn fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Whether something waits to be sent.
    pub fn is_behind(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Whether the connection has ended.
    pub fn is_gone(&self) -> bool {
        self.gone
    }

    /// Whether it feeds standard input and went without ending it or saying that it detaches.
    pub fn broke_off_input(&self) -> bool {
        self.gone && !self.left_on_purpose && self.hello.as_ref().is_some_and(|hello| hello.stdin)
    }

    /// What it said at first.
    pub fn hello(&self) -> Option<&Hello> {
        self.hello.as_ref()
    }

    /// Reads what came.
    pub fn fill(&mut self) {
        match self.decoder.fill(&self.socket) {
            Ok(0) => self.gone = true,
            Ok(_) => {}
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(_) => self.gone = true,
        }
    }

    /// The next frame; the first one must be a [`Hello`], which is kept and given too. Whoever sends something else is cut off.
    pub fn next_frame(&mut self) -> Option<(Kind, Vec<u8>)> {
        let frame = match self.decoder.next_frame() {
            Ok(frame) => frame?,
            Err(_) => {
                self.gone = true;
                return None;
            }
        };
        match (frame.0, &self.hello) {
            (Kind::Hello, None) => {
                self.hello = serde_json::from_slice(&frame.1).ok();
                self.gone |= self.hello.is_none();
            }
            (Kind::Detach, Some(_)) => self.left_on_purpose = true,
            (_, Some(_)) => {}
            (_, None) => self.gone = true,
        }
        (!self.gone).then_some(frame)
    }

    fn send(&mut self, kind: Kind, payload: &[u8]) {
        push_frame(&mut self.waiting, kind, payload);
        self.flush();
    }

    /// Sends what waits, as far as the client takes it.
    pub fn flush(&mut self) {
        while !self.waiting.is_empty() && !self.gone {
            match self.socket.write(&self.waiting) {
                Ok(count) => {
                    self.waiting.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(_) => self.gone = true,
            }
        }
        self.waiting = Vec::new();
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct Clients {
    /// In the order in which they came.
    pub list: Vec<Client>,
}

impl Clients {
    /// Passes output on to whoever wants it.
    pub fn output(&mut self, stream: Stream, bytes: &[u8]) {
        for client in &mut self.list {
            let wants = client.hello.as_ref().is_some_and(|hello| match stream {
                Stream::Stdout => hello.stdout,
                Stream::Stderr => hello.stderr,
            });
            if wants {
                client.send(
                    match stream {
                        Stream::Stdout => Kind::Stdout,
                        Stream::Stderr => Kind::Stderr,
                    },
                    bytes,
                );
            }
        }
    }

    /// Tells all of them something.
    pub fn tell<T: Serialize>(&mut self, kind: Kind, value: &T) {
        let Ok(payload) = serde_json::to_vec(value) else { return };
        for client in &mut self.list {
            client.send(kind, &payload);
        }
    }

    /// Whether all of them keep up with the output.
    pub fn keep_up(&self) -> bool {
        self.list.iter().all(|client| client.waiting.len() < MAX_WAITING)
    }

    /// Waits until each has been sent everything or is gone.
    pub fn finish(&mut self) {
        loop {
            self.list.iter_mut().for_each(Client::flush);
            self.list.retain(|client| client.is_behind() && !client.gone);
            if self.list.is_empty() {
                return;
            }
            let mut fds: Vec<PollFd<'_>> =
                self.list.iter().map(|client| PollFd::new(client.fd(), PollFlags::POLLOUT)).collect();
            let _ = poll(&mut fds, PollTimeout::NONE);
        }
    }
}
