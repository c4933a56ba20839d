//! The receiving end of `--console-socket`.

use std::fs::File;
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::{sys, wait};

/// A listening socket for `--console-socket`.
#[derive(Debug)]
pub struct ConsoleSocket {
    path: PathBuf,
    listener: UnixListener,
}

impl ConsoleSocket {
    /// Listens at `folder`/console.sock (`folder` must be short: socket names are limited to 108 bytes).
    ///
    /// # Panics
    /// The socket cannot be made.
    pub fn listen(folder: &Path) -> Self {
        let path = folder.join("console.sock");
        let listener = UnixListener::bind(&path).expect("console socket");
        listener.set_nonblocking(true).expect("non-blocking socket");
        Self { path, listener }
    }

    /// The path to give to `--console-socket`.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Waits for the runtime to send the terminal's master.
    ///
    /// # Panics
    /// It does not come, or is not a terminal.
    #[track_caller]
    pub fn accept(&self) -> Console {
        let (stream, _) = wait::until("a connection to the console socket", || self.listener.accept().ok());
        stream.set_nonblocking(false).expect("blocking socket");
        stream.set_read_timeout(Some(wait::PATIENCE)).expect("socket timeout");
        let (master, name) = sys::receive_fd(&stream).expect("console message").expect("a descriptor");
        assert!(nix::unistd::isatty(&master).expect("isatty"), "the descriptor is not a terminal");
        Console { master: File::from(master), name, seen: String::new() }
    }
}

/// The master of a container's terminal.
#[derive(Debug)]
pub struct Console {
    master: File,
    /// The text that came with the descriptor.
    pub name: String,
    seen: String,
}

impl Console {
    /// A console from a terminal's master that the test made itself.
    pub fn from_master(master: OwnedFd) -> Self {
        Self { master: File::from(master), name: String::new(), seen: String::new() }
    }

    /// Types `text`.
    ///
    /// # Panics
    /// The terminal is closed.
    pub fn type_in(&mut self, text: &str) {
        self.master.write_all(text.as_bytes()).expect("write to the terminal");
    }

    /// Sets the terminal's size.
    ///
    /// # Panics
    /// The terminal is closed.
    pub fn resize(&self, rows: u16, columns: u16) {
        sys::set_window_size(&self.master, rows, columns).expect("set the window size");
    }

    /// Reads until `text` has come, and returns everything so far.
    ///
    /// # Panics
    /// It does not come.
    #[track_caller]
    pub fn expect(&mut self, text: &str) -> String {
        let deadline = Instant::now() + wait::PATIENCE;
        while !self.seen.contains(text) {
            let more = self.read_some(deadline);
            assert!(more, "no {text:?} on the terminal, only {:?}", self.seen);
        }
        self.seen.clone()
    }

    /// Reads until the terminal is closed, and returns everything.
    pub fn to_end(&mut self) -> String {
        let deadline = Instant::now() + wait::PATIENCE;
        while self.read_some(deadline) {}
        self.seen.clone()
    }

    /// Whether something was read (not: closed, or out of time).
    fn read_some(&mut self, deadline: Instant) -> bool {
        let left = deadline.saturating_duration_since(Instant::now());
        let timeout = PollTimeout::try_from(left.min(Duration::from_secs(60))).unwrap_or(PollTimeout::MAX);
        let mut fds = [PollFd::new(self.master.as_fd(), PollFlags::POLLIN)];
        if poll(&mut fds, timeout).unwrap_or(0) == 0 {
            return false;
        }
        let mut buffer = [0u8; 4096];
        match self.master.read(&mut buffer) {
            Ok(0) | Err(_) => false,
            Ok(length) => {
                self.seen.push_str(&String::from_utf8_lossy(&buffer[..length]));
                true
            }
        }
    }
}
