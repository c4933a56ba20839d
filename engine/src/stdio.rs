//! The standard streams of a container's process, as the monitor, or the client of `exec`, holds them.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socketpair};
use nix::sys::stat::fstat;
use nix::unistd::{Uid, fchown, pipe2, read, write};

use rkvm_oci::Stdio;
use rustix::process::{Pid, PidfdFlags, pidfd_open};

use crate::log::Stream;
use crate::sys;

/// Most bytes that wait for the container to read its standard input.
const MAX_WAITING: usize = 64 << 10;

/// Our ends of the streams.
#[derive(Debug)]
pub enum Ends {
    /// Three pipes.
    Pipes {
        /// Write end of standard input, until it is closed.
        stdin: Option<OwnedFd>,
        /// Read end of standard output, until its end.
        stdout: Option<OwnedFd>,
        /// Read end of standard error, until its end.
        stderr: Option<OwnedFd>,
    },
    /// The socket on which the terminal's master arrives.
    Console(OwnedFd),
    /// The terminal's master, until its end.
    Terminal(Option<OwnedFd>),
}

/// Our half.
#[derive(Debug)]
pub struct Streams {
    ends: Ends,
    waiting: Vec<u8>,
    close_when_empty: bool,
}

/// How a process is connected.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wanted {
    /// It gets a terminal.
    pub tty: bool,
    /// Its standard input is fed; otherwise it is empty.
    pub stdin: bool,
}

/// A descriptor that becomes readable when process `pid` ends.
///
/// # Errors
/// There is no such process.
pub fn watch_end(pid: i32) -> io::Result<OwnedFd> {
    let pid = Pid::from_raw(pid).ok_or(io::ErrorKind::InvalidInput)?;
    Ok(pidfd_open(pid, PidfdFlags::empty())?)
}

/// Makes both halves for a process. Never the client's own descriptors: what a container is given it may reopen for
/// reading and writing, and a terminal it may read.
///
/// # Errors
/// The kernel has no more descriptors.
pub fn make(wanted: Wanted) -> io::Result<(Stdio, Streams)> {
    let (stdio, ends) = if wanted.tty {
        let (ours, theirs) = socketpair(AddressFamily::Unix, SockType::Stream, None, SockFlag::SOCK_CLOEXEC)?;
        (Stdio::Terminal { console: theirs }, Ends::Console(ours))
    } else {
        let (stdin, our_stdin) = if wanted.stdin {
            let (read, write) = pipe2(OFlag::O_CLOEXEC)?;
            (read, Some(write))
        } else {
            (std::fs::File::open("/dev/null")?.into(), None)
        };
        let (our_stdout, stdout) = pipe2(OFlag::O_CLOEXEC)?;
        let (our_stderr, stderr) = pipe2(OFlag::O_CLOEXEC)?;
        let ends = Ends::Pipes { stdin: our_stdin, stdout: Some(our_stdout), stderr: Some(our_stderr) };
        (Stdio::Fds { stdin, stdout, stderr }, ends)
    };
    let streams = Streams { ends, waiting: Vec::new(), close_when_empty: false };
    if let Ends::Pipes { stdin, stdout, stderr } = &streams.ends {
        for end in [stdin, stdout, stderr].into_iter().flatten() {
            nonblocking(end.as_fd())?;
        }
    }
    Ok((stdio, streams))
}

/// Gives pipes to the container's user, whose host id is `uid`: a program may open `/dev/stdout` by name, and in a user namespace
/// of its own not even its root could open a pipe of the host's root.
///
/// # Errors
/// The kernel refuses.
pub fn give(stdio: &Stdio, uid: u32) -> io::Result<()> {
    let Stdio::Fds { stdin, stdout, stderr } = stdio else { return Ok(()) };
    for fd in [stdin, stdout, stderr] {
        if fstat(fd)?.st_mode & libc::S_IFMT == libc::S_IFIFO {
            fchown(fd, Some(Uid::from_raw(uid)), None)?;
        }
    }
    Ok(())
}

fn nonblocking(fd: BorrowedFd<'_>) -> io::Result<()> {
    let flags = OFlag::from_bits_retain(fcntl(fd, FcntlArg::F_GETFL)?);
    fcntl(fd, FcntlArg::F_SETFL(flags | OFlag::O_NONBLOCK))?;
    Ok(())
}

impl Streams {
    /// After the container has been created: takes the terminal, if it has one, and gives it a size.
    ///
    /// # Errors
    /// The backend sent no terminal.
    pub fn connect(&mut self, size: Option<(u16, u16)>) -> io::Result<()> {
        if let Ends::Console(socket) = &self.ends {
            let master = sys::receive_fd(socket.as_fd())?;
            nonblocking(master.as_fd())?;
            self.ends = Ends::Terminal(Some(master));
        }
        if let Some((rows, columns)) = size {
            self.resize(rows, columns);
        }
        Ok(())
    }

    /// Sets the terminal's size; nothing without one.
    pub fn resize(&self, rows: u16, columns: u16) {
        if let Ends::Terminal(Some(master)) = &self.ends {
            // A size that the kernel does not take leaves the one before.
            let _ = sys::resize(master.as_fd(), rows, columns);
        }
    }

    /// The descriptors that output comes from.
    pub fn outputs(&self) -> impl Iterator<Item = (Stream, BorrowedFd<'_>)> {
        let (out, err) = match &self.ends {
            Ends::Pipes { stdout, stderr, .. } => (stdout.as_ref(), stderr.as_ref()),
            Ends::Terminal(master) => (master.as_ref(), None),
            Ends::Console(_) => (None, None),
        };
        [(Stream::Stdout, out), (Stream::Stderr, err)]
            .into_iter()
            .filter_map(|(stream, fd)| Some((stream, fd?.as_fd())))
    }

    /// Reads once from `stream`. `None` when nothing is there now; empty at the end, after which the stream is closed.
    pub fn read<'a>(&mut self, stream: Stream, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
        let slot = match (&mut self.ends, stream) {
            (Ends::Pipes { stdout, .. }, Stream::Stdout) => stdout,
            (Ends::Pipes { stderr, .. }, Stream::Stderr) => stderr,
            (Ends::Terminal(master), Stream::Stdout) => master,
            _ => return None,
        };
        let count = match read(slot.as_ref()?, buffer) {
            Ok(count) => count,
            Err(Errno::EAGAIN | Errno::EINTR) => return None,
            // EIO is how a terminal says that nobody has its other side open.
            Err(_) => 0,
        };
        if count == 0 {
            *slot = None;
        }
        Some(&buffer[..count])
    }

    /// The descriptor that input goes to, when some is waiting.
    pub fn input(&self) -> Option<BorrowedFd<'_>> {
        if self.waiting.is_empty() { None } else { self.stdin().map(AsFd::as_fd) }
    }

    fn stdin(&self) -> Option<&OwnedFd> {
        match &self.ends {
            Ends::Pipes { stdin, .. } => stdin.as_ref(),
            Ends::Terminal(master) => master.as_ref(),
            Ends::Console(_) => None,
        }
    }

    /// Whether more input can be taken now.
    pub fn has_room(&self) -> bool {
        self.waiting.len() < MAX_WAITING
    }

    /// Takes input for the container.
    pub fn feed(&mut self, bytes: &[u8]) {
        if self.stdin().is_some() && !self.close_when_empty {
            self.waiting.extend_from_slice(bytes);
            self.flush();
        }
    }

    /// Writes what is waiting, as far as the container takes it.
    pub fn flush(&mut self) {
        while !self.waiting.is_empty() {
            let Some(stdin) = self.stdin() else { break };
            match write(stdin, &self.waiting) {
                Ok(count) => {
                    self.waiting.drain(..count);
                }
                Err(Errno::EAGAIN | Errno::EINTR) => return,
                // The container has closed it.
                Err(_) => {
                    self.waiting.clear();
                    self.close_stdin();
                }
            }
        }
        self.waiting = Vec::new();
        if self.close_when_empty {
            self.close_stdin();
        }
    }

    /// Ends standard input after what is waiting. A terminal has no end.
    pub fn end_input(&mut self) {
        self.close_when_empty = true;
        self.flush();
    }

    fn close_stdin(&mut self) {
        if let Ends::Pipes { stdin, .. } = &mut self.ends {
            *stdin = None;
        }
    }
}
