//! A client attached to a container: standard streams, terminal, signals, detach keys.

pub mod keys;
mod outputs;
pub mod relay;
mod sys;
pub mod terminal;

use std::io::{self, Write};
use std::os::fd::AsFd;

use anyhow::{Result, bail};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{SigSet, Signal as Named};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rkvm_engine::Error;
use rkvm_engine::client::Connection;
use rkvm_engine::log::Stream;
use rkvm_engine::protocol::{Exited, Kind, StartFailed, Started, push_frame};

use keys::{DetachKeys, Scanner};
use outputs::Outputs;
use terminal::RawMode;

/// How a client is attached.
#[derive(Debug, Clone)]
pub struct Options {
    /// Feed standard input.
    pub stdin: bool,
    /// The container has a terminal.
    pub tty: bool,
    /// Pass signals on to the container.
    pub signals: SignalProxy,
    /// Keys that detach; only looked for on a terminal.
    pub detach_keys: DetachKeys,
}

/// What becomes of signals that the client gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalProxy {
    /// The container gets them.
    On,
    /// The client ends by them.
    Off,
}

/// Why a client is not attached any more.
#[derive(Debug)]
pub enum End {
    /// The run has ended.
    Exited(Exited),
    /// The program could not be started.
    Failed(StartFailed),
    /// The detach keys were typed.
    Detached,
    /// The client got this signal, and does not pass signals on.
    Signaled(i32),
}

/// Signals that end a client which does not pass them on: the terminal is restored first.
const ENDING: [Named; 4] = [Named::SIGHUP, Named::SIGINT, Named::SIGQUIT, Named::SIGTERM];

/// Waits for the end of the run, passing everything on both ways. `on_start` is told when the program runs.
///
/// # Errors
/// The monitor was killed, or the client's own streams fail.
pub fn attach(
    connection: &mut Connection,
    id: &str,
    options: &Options,
    mut on_start: impl FnMut(Started),
) -> Result<End> {
    let signals = watch_signals(options.tty, options.signals)?;
    let raw = if options.tty && options.stdin { RawMode::enter()? } else { None };
    // Restored with `raw` on every way out of here, panics included.
    let mut attached = Attached {
        connection,
        id,
        waiting: Vec::new(),
        stdin: options.stdin,
        scanner: (raw.is_some() || options.tty).then(|| Scanner::new(options.detach_keys.clone())),
        outputs: Outputs::default(),
    };
    attached.connection.socket.set_nonblocking(true)?;
    loop {
        if let Some(end) = attached.receive(&mut on_start)? {
            return Ok(end);
        }
        let ready = attached.wait(&signals)?;
        if ready.signal
            && let Some(end) = attached.take_signal(&signals, options)?
        {
            return Ok(end);
        }
        if ready.stdin && attached.take_input()? {
            attached.push(Kind::Detach, &[]);
            attached.connection.socket.set_nonblocking(false)?;
            attached.flush();
            return Ok(End::Detached);
        }
        attached.flush();
    }
}

/// Everything that may come as a signal, except what the kernel or the shell needs the client itself for.
fn watch_signals(tty: bool, proxy: SignalProxy) -> Result<SignalFd> {
    let mut set = SigSet::empty();
    if tty {
        set.add(Named::SIGWINCH);
    }
    match proxy {
        SignalProxy::On => {
            for signal in Named::iterator() {
                let own = matches!(
                    signal,
                    Named::SIGKILL
                        | Named::SIGSTOP
                        | Named::SIGCHLD
                        | Named::SIGPIPE
                        | Named::SIGURG
                        | Named::SIGWINCH
                        | Named::SIGTSTP
                        | Named::SIGTTIN
                        | Named::SIGTTOU
                        | Named::SIGSEGV
                        | Named::SIGBUS
                        | Named::SIGILL
                        | Named::SIGFPE
                        | Named::SIGABRT
                        | Named::SIGTRAP
                        | Named::SIGSYS
                );
                if !own {
                    set.add(signal);
                }
            }
        }
        SignalProxy::Off => ENDING.into_iter().for_each(|signal| set.add(signal)),
    }
    set.thread_block()?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

#[derive(Default)]
struct Ready {
    stdin: bool,
    signal: bool,
}

struct Attached<'a> {
    connection: &'a mut Connection,
    id: &'a str,
    /// What the monitor has not taken yet; more input is read only when this is empty.
    waiting: Vec<u8>,
    stdin: bool,
    scanner: Option<Scanner>,
    outputs: Outputs,
}

impl Attached<'_> {
    fn push(&mut self, kind: Kind, payload: &[u8]) {
        push_frame(&mut self.waiting, kind, payload);
    }

    /// Sends what is waiting, as far as the monitor takes it.
    fn flush(&mut self) {
        while !self.waiting.is_empty() {
            match (&self.connection.socket).write(&self.waiting) {
                Ok(count) => {
                    self.waiting.drain(..count);
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                // Later, or never: the end of the connection is seen on the reading side.
                Err(_) => return,
            }
        }
    }

    fn wait(&mut self, signals: &SignalFd) -> Result<Ready> {
        let stdin = io::stdin();
        let mut socket = PollFlags::POLLIN;
        socket.set(PollFlags::POLLOUT, !self.waiting.is_empty());
        let mut fds = vec![
            PollFd::new(self.connection.socket.as_fd(), socket),
            PollFd::new(signals.as_fd(), PollFlags::POLLIN),
        ];
        if self.stdin && self.waiting.is_empty() {
            fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        }
        match poll(&mut fds, PollTimeout::NONE) {
            Err(nix::errno::Errno::EINTR) => return Ok(Ready::default()),
            other => other?,
        };
        let is_ready =
            |index: usize| fds.get(index).and_then(PollFd::revents).is_some_and(|events| !events.is_empty());
        Ok(Ready { signal: is_ready(1), stdin: is_ready(2) })
    }

    /// Reads what the monitor sent; output goes on to the client's own streams.
    fn receive(&mut self, on_start: &mut impl FnMut(Started)) -> Result<Option<End>> {
        loop {
            while let Some((kind, payload)) = self.connection.decoder.next_frame()? {
                match kind {
                    Kind::Stdout => self.outputs.write(Stream::Stdout, &payload),
                    Kind::Stderr => self.outputs.write(Stream::Stderr, &payload),
                    Kind::Started => on_start(self.parse(&payload)?),
                    Kind::Failed => return Ok(Some(End::Failed(self.parse(&payload)?))),
                    Kind::Exited => {
                        let exited: Exited = self.parse(&payload)?;
                        let exit_code = self.outputs.exit_code(exited.exit_code);
                        return Ok(Some(End::Exited(Exited { exit_code, ..exited })));
                    }
                    _ => {}
                }
            }
            match self.connection.decoder.fill(&self.connection.socket) {
                Ok(0) => bail!(Error::MonitorLost { id: self.id.to_owned() }),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(None),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => bail!(Error::MonitorLost { id: self.id.to_owned() }),
            }
        }
    }

    fn parse<T: serde::de::DeserializeOwned>(&self, payload: &[u8]) -> Result<T> {
        serde_json::from_slice(payload).map_err(|_| Error::MonitorLost { id: self.id.to_owned() }.into())
    }

    fn take_signal(&mut self, signals: &SignalFd, options: &Options) -> Result<Option<End>> {
        while let Some(info) = signals.read_signal()? {
            let number = info.ssi_signo as i32;
            if number == libc::SIGWINCH {
                if let Some((rows, columns)) = terminal::size() {
                    let [r0, r1] = rows.to_le_bytes();
                    let [c0, c1] = columns.to_le_bytes();
                    self.push(Kind::Resize, &[r0, r1, c0, c1]);
                }
            } else if options.signals == SignalProxy::On {
                self.push(Kind::Signal, &number.to_le_bytes());
            } else {
                return Ok(Some(End::Signaled(number)));
            }
        }
        Ok(None)
    }

    /// Reads standard input once; whether the detach keys were typed.
    fn take_input(&mut self) -> Result<bool> {
        let mut buffer = [0; 16 << 10];
        // Around std's buffer, which poll cannot see into.
        let count = match nix::unistd::read(io::stdin(), &mut buffer) {
            Ok(count) => count,
            Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => return Ok(false),
            Err(_) => 0,
        };
        if count == 0 {
            self.stdin = false;
            self.push(Kind::StdinEnd, &[]);
            return Ok(false);
        }
        match &mut self.scanner {
            Some(scanner) => {
                let (pass, detach) = scanner.scan(&buffer[..count]);
                if !pass.is_empty() {
                    self.push(Kind::Stdin, &pass);
                }
                Ok(detach)
            }
            None => {
                self.push(Kind::Stdin, &buffer[..count]);
                Ok(false)
            }
        }
    }
}
