//! The client between its own streams and those of a process that it started itself (`exec`).

use std::io;
use std::os::fd::{AsFd, OwnedFd};

use anyhow::Result;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use rkvm_engine::log::Stream;
use rkvm_engine::stdio::Streams;

use super::keys::{DetachKeys, Scanner};
use super::outputs::Outputs;
use super::terminal::{self, RawMode};
use super::{SignalProxy, watch_signals};

/// Why relaying is over.
#[derive(Debug)]
pub enum End {
    /// The process has ended, and its output has been passed on, as far as these took it.
    Ended(Outputs),
    /// The detach keys were typed.
    Detached,
    /// The client got this signal.
    Signaled(i32),
}

/// Passes everything on both ways until the process whose end `ended` tells has ended. `keys`: it has a terminal.
///
/// # Errors
/// The client's own streams fail.
pub fn relay(streams: &mut Streams, ended: &OwnedFd, feeds: bool, keys: Option<DetachKeys>) -> Result<End> {
    let tty = keys.is_some();
    // Without a terminal to restore, signals do what they always do.
    let signals = if tty { Some(watch_signals(tty, SignalProxy::Off)?) } else { None };
    let raw = if tty && feeds { RawMode::enter()? } else { None };
    let mut scanner = keys.map(Scanner::new);
    let mut feeds = feeds;
    let mut outputs = Outputs::default();
    loop {
        let ready = wait(streams, ended, signals.as_ref(), feeds)?;
        for stream in [Stream::Stdout, Stream::Stderr] {
            if ready.ended {
                while pass_on(streams, stream, &mut outputs) {}
            } else {
                pass_on(streams, stream, &mut outputs);
            }
        }
        if ready.ended {
            drop(raw);
            return Ok(End::Ended(outputs));
        }
        streams.flush();
        if let Some(signals) = &signals
            && ready.signal
            && let Some(number) = take_signals(signals, streams)?
        {
            return Ok(End::Signaled(number));
        }
        if ready.stdin {
            let mut buffer = [0; 16 << 10];
            let count = match nix::unistd::read(io::stdin(), &mut buffer) {
                Ok(count) => count,
                Err(nix::errno::Errno::EINTR | nix::errno::Errno::EAGAIN) => continue,
                Err(_) => 0,
            };
            if count == 0 {
                feeds = false;
                streams.end_input();
                continue;
            }
            match &mut scanner {
                Some(scanner) => {
                    let (pass, detach) = scanner.scan(&buffer[..count]);
                    streams.feed(&pass);
                    if detach {
                        return Ok(End::Detached);
                    }
                }
                None => streams.feed(&buffer[..count]),
            }
        }
    }
}

#[derive(Default)]
struct Ready {
    ended: bool,
    signal: bool,
    stdin: bool,
}

fn wait(streams: &Streams, ended: &OwnedFd, signals: Option<&SignalFd>, feeds: bool) -> Result<Ready> {
    let stdin = io::stdin();
    let mut fds = vec![PollFd::new(ended.as_fd(), PollFlags::POLLIN)];
    let signal_at = signals.map(|signals| {
        fds.push(PollFd::new(signals.as_fd(), PollFlags::POLLIN));
        fds.len() - 1
    });
    let stdin_at = (feeds && streams.has_room()).then(|| {
        fds.push(PollFd::new(stdin.as_fd(), PollFlags::POLLIN));
        fds.len() - 1
    });
    fds.extend(streams.outputs().map(|(_, fd)| PollFd::new(fd, PollFlags::POLLIN)));
    fds.extend(streams.input().map(|fd| PollFd::new(fd, PollFlags::POLLOUT)));
    match poll(&mut fds, PollTimeout::NONE) {
        Err(nix::errno::Errno::EINTR) => return Ok(Ready::default()),
        other => other?,
    };
    let is_ready = |index: Option<usize>| {
        index
            .and_then(|index| fds.get(index))
            .and_then(PollFd::revents)
            .is_some_and(|events| !events.is_empty())
    };
    Ok(Ready { ended: is_ready(Some(0)), signal: is_ready(signal_at), stdin: is_ready(stdin_at) })
}

/// Passes on what is there now of one stream; whether there may be more.
fn pass_on(streams: &mut Streams, stream: Stream, outputs: &mut Outputs) -> bool {
    let mut buffer = [0; 16 << 10];
    match streams.read(stream, &mut buffer) {
        None | Some([]) => false,
        Some(bytes) => {
            outputs.write(stream, bytes);
            true
        }
    }
}

/// Passes on the terminal's new size; the number of a signal that ends the client.
fn take_signals(signals: &SignalFd, streams: &Streams) -> Result<Option<i32>> {
    while let Some(info) = signals.read_signal()? {
        let number = info.ssi_signo as i32;
        if number != libc::SIGWINCH {
            return Ok(Some(number));
        }
        if let Some((rows, columns)) = terminal::size() {
            streams.resize(rows, columns);
        }
    }
    Ok(None)
}
