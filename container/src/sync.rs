//! What the runtime and the process it makes say to each other over one socket until the process is ready.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockType, send, socketpair};
use rkvm_oci::failure::Failure;
use rkvm_oci::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::init::leftovers::{Change, Leftovers};

/// From the runtime to the process: the one step that it may take now. They come in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Go {
    /// The user namespace has its mappings.
    Mapped = b'm' as isize,
    /// There is room for the limits that it sets itself.
    Limited = b'l' as isize,
    /// Hooks `prestart` and `createRuntime` have run.
    HooksDone = b'h' as isize,
    /// The seccomp listener has reached its agent.
    ListenerSent = b's' as isize,
    /// The container is recorded, so that later commands find the process: it may outlive the runtime.
    Recorded = b'r' as isize,
}

/// From the process to the runtime.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// The intermediate process wants its new user namespace mapped.
    MapMe,
    /// The intermediate process has made the container's process, with this id.
    Spawned(i32),
    /// Everything is mounted: the hooks of the runtime's namespace may run.
    Mounted,
    /// A seccomp filter has been loaded; its listener is this descriptor of the process.
    Listener(i32),
    /// Only `execve` is left.
    Ready,
    /// It cannot go on.
    Failed(Failure),
}

/// One end of the socket.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Longest message, bytes.
const MAX_MESSAGE: usize = 16 << 10;

impl Channel {
    /// Both ends: the runtime's and the process's.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|source| Error::failed("make", "a socket pair", source))?;
        Ok((Self(one), Self(other)))
    }

    /// Replaces its descriptor by the one that `change` gives.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn change(&mut self, change: &mut Change<'_>, left: &Leftovers) -> Result<()> {
        if let Some(other) = change(self.0.as_fd())? {
            left.add(std::mem::replace(&mut self.0, other));
        }
        Ok(())
    }

    /// Lets the process take a step.
    ///
    /// # Errors
    /// The process has ended; what [`Channel::receive`] says then is the better message.
    pub fn go(&self, step: Go) -> nix::Result<()> {
        let byte = [step as u8];
        send(self.0.as_raw_fd(), &byte, MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    /// Waits until the runtime allows `step`.
    ///
    /// # Errors
    /// The runtime has ended.
    pub fn wait_for(&self, step: Go) -> Result<()> {
        let mut byte = [0u8];
        loop {
            match nix::unistd::read(&self.0, &mut byte) {
                Ok(1) if byte[0] == step as u8 => return Ok(()),
                Err(nix::Error::EINTR) => {}
                _ => {
                    return Err(Error::failed(
                        "go on after the runtime ended at step",
                        format!("{step:?}"),
                        nix::Error::EPIPE,
                    ));
                }
            }
        }
    }

    /// Sends a report, with write(2): after the seccomp filter is loaded that is the call which works.
    ///
    /// # Errors
    /// The runtime has ended.
    pub fn report(&self, report: &Report) -> Result<()> {
        let text = serde_json::to_vec(report).unwrap_or_default();
        nix::unistd::write(&self.0, &text)
            .map(drop)
            .map_err(|source| Error::failed("report to", "the runtime", source))
    }

    /// As [`Channel::receive`], of the process `speaker` (a pidfd) that may have been killed when it had made another, which then holds its
    /// end of the socket and waits to be spoken to.
    ///
    /// # Errors
    /// As [`Channel::receive`].
    pub fn receive_of(&self, speaker: BorrowedFd<'_>) -> Result<Option<Report>> {
        let ready = |limit| {
            let mut set = [self.0.as_fd(), speaker].map(|fd| PollFd::new(fd, PollFlags::POLLIN));
            match poll(&mut set, limit) {
                Ok(_) => Ok(set.map(|entry| entry.any().unwrap_or(false))),
                Err(nix::Error::EINTR) => Ok([false; 2]),
                Err(source) => Err(Error::failed("wait for", "the container's process", source)),
            }
        };
        loop {
            let [heard, gone] = ready(PollTimeout::NONE)?;
            // What it said just before its end may have come between the looks at the two.
            if heard || (gone && ready(PollTimeout::ZERO)?[0]) {
                return self.receive();
            }
            if gone {
                return Ok(None);
            }
        }
    }

    /// Waits for a report; `None` when the process has ended without one.
    ///
    /// # Errors
    /// The socket failed or the message is not one of ours.
    pub fn receive(&self) -> Result<Option<Report>> {
        let mut buffer = vec![0u8; MAX_MESSAGE];
        let length = loop {
            match nix::unistd::read(&self.0, &mut buffer) {
                Ok(length) => break length,
                // ECONNRESET: it ended with a step unread. Told once; what it reported before is still to come.
                Err(nix::Error::EINTR | nix::Error::ECONNRESET) => {}
                Err(source) => return Err(Error::failed("hear from", "the container's process", source)),
            }
        };
        if length == 0 {
            return Ok(None);
        }
        serde_json::from_slice(&buffer[..length])
            .map(Some)
            .map_err(|source| Error::failed("understand", "the container's process", source))
    }
}

#[cfg(test)]
mod tests {
    use std::process::Command;

    use rkvm_linux::sys::spawn::pidfd_open;

    use super::*;

    /// A process that has been killed, whose end of the socket another one holds.
    #[test]
    fn a_killed_speaker_is_not_waited_for_and_its_last_word_is_heard() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut speaker = Command::new("sleep").arg("20").spawn().unwrap();
        let process = pidfd_open(speaker.id() as i32).unwrap();
        theirs.report(&Report::Spawned(7)).unwrap();
        speaker.kill().unwrap();
        assert!(matches!(ours.receive_of(process.as_fd()), Ok(Some(Report::Spawned(7)))));
        assert!(matches!(ours.receive_of(process.as_fd()), Ok(None)));
        speaker.wait().unwrap();
        assert!(matches!(ours.receive_of(process.as_fd()), Ok(None)));
        drop(theirs);
    }

    #[test]
    fn a_speaker_that_ends_by_itself_is_heard_too() {
        let (ours, theirs) = Channel::pair().unwrap();
        let mut speaker = Command::new("sleep").arg("20").spawn().unwrap();
        let process = pidfd_open(speaker.id() as i32).unwrap();
        drop(theirs);
        assert!(matches!(ours.receive_of(process.as_fd()), Ok(None)), "the end of the socket");
        speaker.kill().unwrap();
        speaker.wait().unwrap();
    }
}
