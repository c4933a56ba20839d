//! The process on the host that stands for one that `exec` has started in a guest: holds its streams, passes signals on, and ends as
//! it ends.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signalfd::SignalFd;
use rkvm_guest_protocol::host::{Connection, Ended, Relay, Slot, Streams};
use rkvm_guest_protocol::{ToGuest, WindowSize};
use rkvm_linux::sys::process::CapabilitySets;
use rkvm_linux::sys::{fs, process, pty};
use rkvm_oci::failure::Failure;
use rkvm_oci::{Error, ExitStatus, KillScope, Result};

use super::channel::{Channel, Report};
use crate::jail::seccomp::{self, Thread};
use crate::process::signals;
use crate::process::sys::{die_by, exit_now};

/// The streams of the process.
#[derive(Debug)]
pub(super) enum Given {
    /// This process's own.
    Inherited,
    /// Standard input, output and error.
    Files([OwnedFd; 3]),
    /// The slave of a terminal.
    Terminal(OwnedFd),
}

/// What `poll` spoke of.
enum Ready {
    Signals,
    Relay(Slot),
}

/// Relays until the guest's process has ended. To be called in a new process; never returns.
pub(super) fn main(connection: Connection, given: Given, channel: Channel) -> ! {
    let mut channel = Some(channel);
    match run(connection, given, &mut channel) {
        Ok(ExitStatus::Exited(code)) => exit_now(code.into()),
        Ok(ExitStatus::Signaled(signal)) => {
            die_by(signal.number());
            exit_now(ExitStatus::Signaled(signal).code().into())
        }
        Err(error) => {
            let code = error.exit_code();
            if let Some(channel) = channel {
                let _ = channel.send(&Report::Failed(Failure::from(error)));
            }
            exit_now(code.into())
        }
    }
}

fn guest(error: rkvm_guest_protocol::host::Error) -> Error {
    Error::failed("speak to", "the guest", super::chain(&error))
}

fn run(connection: Connection, given: Given, channel: &mut Option<Channel>) -> Result<ExitStatus> {
    let failed = |source: std::io::Error| Error::failed("take over", "the streams of the process", source);
    // This process is a copy of its caller, whose ends of the same streams must not stay open here: the input would never end.
    let mut kept = vec![0, 1, 2, connection.as_fd().as_raw_fd()];
    kept.extend(channel.as_ref().map(|channel| channel.as_fd().as_raw_fd()));
    match &given {
        Given::Inherited => {}
        Given::Files(files) => kept.extend(files.each_ref().map(AsRawFd::as_raw_fd)),
        Given::Terminal(slave) => kept.push(slave.as_raw_fd()),
    }
    fs::close_all_but(&kept).map_err(failed)?;
    process::reset_signals();
    let signals = signals::block().map_err(|source| Error::failed("catch", "signals", source))?;
    // A group of its own, so that signals of the caller's terminal come once.
    let _ = nix::unistd::setsid();
    let mut terminal = None;
    let streams = match given {
        Given::Inherited => own_streams().map_err(failed)?,
        Given::Files([stdin, stdout, stderr]) => Streams::Files { stdin, stdout, stderr },
        Given::Terminal(slave) => {
            pty::make_controlling(slave.as_fd()).map_err(failed)?;
            terminal = Some(slave.try_clone().map_err(failed)?);
            Streams::Terminal(slave)
        }
    };
    let relay = Relay::new(connection, streams).map_err(guest)?;
    // It parses what a guest says: without the privileges of whoever called `exec`.
    give_up_privileges().map_err(failed)?;
    serve(relay, &signals, terminal.as_ref(), channel)
}

fn give_up_privileges() -> std::io::Result<()> {
    process::no_new_privileges()?;
    process::set_capabilities(CapabilitySets { effective: 0, permitted: 0, inheritable: 0 })?;
    nix::unistd::chdir("/")?;
    seccomp::confine(Thread::Main)
}

fn own_streams() -> std::io::Result<Streams> {
    Ok(Streams::Files {
        stdin: std::io::stdin().as_fd().try_clone_to_owned()?,
        stdout: std::io::stdout().as_fd().try_clone_to_owned()?,
        stderr: std::io::stderr().as_fd().try_clone_to_owned()?,
    })
}

fn serve(
    mut relay: Relay,
    signals: &SignalFd,
    terminal: Option<&OwnedFd>,
    channel: &mut Option<Channel>,
) -> Result<ExitStatus> {
    loop {
        if relay.started().is_some()
            && let Some(channel) = channel.take()
        {
            // The caller is gone when this fails, and the process runs all the same, as a container's would.
            let _ = channel.send(&Report::Started);
            if let Some(size) = terminal.and_then(size) {
                relay.send(&ToGuest::Resize(size)).map_err(guest)?;
            }
        }
        match relay.ended().cloned() {
            Some(Ended::Process(status)) => return Ok(status),
            Some(Ended::Failed(failure)) => return Err(failure.into()),
            None => {}
        }
        for ready in wait(&relay, signals)? {
            match ready {
                Ready::Relay(slot) => relay.handle(slot).map_err(guest)?,
                Ready::Signals => {
                    for signal in signals::read(signals) {
                        let message = match (signal.number(), terminal) {
                            (libc::SIGWINCH, Some(terminal)) => size(terminal).map(ToGuest::Resize),
                            (libc::SIGCHLD | libc::SIGPIPE, _) => None,
                            _ => Some(ToGuest::Signal(signal, KillScope::Init)),
                        };
                        if let Some(message) = message {
                            relay.send(&message).map_err(guest)?;
                        }
                    }
                }
            }
        }
    }
}

fn wait(relay: &Relay, signals: &SignalFd) -> Result<Vec<Ready>> {
    let mut wanted = vec![(Ready::Signals, signals.as_fd(), PollFlags::POLLIN)];
    wanted.extend(relay.interests().into_iter().map(|(slot, fd, events)| (Ready::Relay(slot), fd, events)));
    let mut set: Vec<PollFd<'_>> = wanted.iter().map(|(_, fd, events)| PollFd::new(*fd, *events)).collect();
    match poll(&mut set, PollTimeout::NONE) {
        Ok(_) | Err(nix::Error::EINTR) => {}
        Err(errno) => return Err(Error::failed("wait for", "the guest", errno)),
    }
    let ready: Vec<bool> =
        set.iter().map(|entry| entry.revents().is_some_and(|events| !events.is_empty())).collect();
    Ok(wanted.into_iter().zip(ready).filter(|(_, ready)| *ready).map(|((what, ..), _)| what).collect())
}

fn size(terminal: &OwnedFd) -> Option<WindowSize> {
    let (rows, columns) = pty::size(terminal.as_fd()).ok()?;
    (rows > 0 && columns > 0).then_some(WindowSize { rows, columns })
}
