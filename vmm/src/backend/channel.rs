//! What the process that creates a machine and the machine's process say to each other, until the machine is recorded.

use std::io::IoSlice;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::socket::{
    AddressFamily, ControlMessage, MsgFlags, SockFlag, SockType, recv, send, sendmsg, socketpair,
};
use rkvm_linux::sys::fs;
use rkvm_oci::failure::Failure;
use rkvm_oci::timeline::MonotonicNs;
use rkvm_oci::{Error, Result};
use serde::{Deserialize, Serialize};

use crate::template::Snapshot;

/// From the machine's process to its creator.
#[derive(Debug, Serialize, Deserialize)]
pub enum Report {
    /// Its new user namespace wants its mappings.
    MapMe,
    /// Its namespaces are there, and the host's file systems still are: the hooks of the runtime may run.
    Enclosed,
    /// The guest runs. What takes long to take apart comes next ([`Channel::send_descriptors`]): KVM's descriptor of the machine, and the mount
    /// namespace of the process.
    Machine,
    /// The guest has everything that its process needs.
    Ready(Stamps),
    /// The machine stands still, to be recorded as a template.
    Recordable(Box<Snapshot>),
    /// A further process has been executed.
    Started,
    /// It cannot go on.
    Failed(Failure),
    /// It cannot go on, and the guest has not been heard of since it was to go on from a template.
    NotResumed(Failure),
}

/// When what happened, by the clock of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stamps {
    /// The first vCPU entered the guest.
    pub entered: MonotonicNs,
    /// The first instruction of the guest's init.
    pub init: MonotonicNs,
    /// Everything for the container's process was in place.
    pub ready: MonotonicNs,
    /// The program was executed, where it is at once.
    pub executed: Option<MonotonicNs>,
}

/// From the creator to the machine's process: the one step that it may take now.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Go {
    /// The user namespace has its mappings.
    Mapped,
    /// All that was not known when the process was made is: as many descriptors come next ([`Channel::send_descriptors`]), the first of
    /// which is the [plan](super::plan::Plan).
    Build(usize),
    /// The hooks have run.
    HooksDone,
    /// The template has been recorded, or never will be.
    TemplateDone,
    /// The machine is recorded, so that later commands find it: it may outlive its creator.
    Recorded,
}

/// One end of the conversation.
#[derive(Debug)]
pub struct Channel(OwnedFd);

/// Longest message, bytes: what an error with the last lines of a console takes, with room to spare.
const MAX_MESSAGE: usize = 64 << 10;

impl Channel {
    /// Both ends.
    ///
    /// # Errors
    /// No descriptors are left.
    pub fn pair() -> Result<(Self, Self)> {
        let (one, other) = socketpair(AddressFamily::Unix, SockType::SeqPacket, None, SockFlag::SOCK_CLOEXEC)
            .map_err(|source| Error::failed("make", "a socket pair", source))?;
        Ok((Self(one), Self(other)))
    }

    /// The end that has been handed to this process.
    pub fn of(socket: OwnedFd) -> Self {
        Self(socket)
    }

    /// Its descriptor.
    pub fn into_fd(self) -> OwnedFd {
        self.0
    }

    /// Sends a message.
    ///
    /// # Errors
    /// The other side has ended; what [`Channel::receive`] says then is the better message.
    pub fn send(&self, message: &impl Serialize) -> nix::Result<()> {
        let text = serde_json::to_vec(message).map_err(|_| nix::Error::EINVAL)?;
        send(self.0.as_raw_fd(), &text, MsgFlags::MSG_NOSIGNAL).map(drop)
    }

    /// Sends descriptors, each message of one byte with as many as it can carry. The other side gets them also when this process has ended by
    /// then.
    ///
    /// # Errors
    /// The other side has ended.
    pub fn send_descriptors(&self, descriptors: &[RawFd]) -> nix::Result<()> {
        descriptors.chunks(fs::MAX_DESCRIPTORS).try_for_each(|some| {
            let control = [ControlMessage::ScmRights(some)];
            let data = [IoSlice::new(&[0])];
            sendmsg::<()>(self.0.as_raw_fd(), &data, &control, MsgFlags::MSG_NOSIGNAL, None).map(drop)
        })
    }

    /// Receives `count` descriptors that were sent so.
    ///
    /// # Errors
    /// The other side has ended, or sends something else.
    pub fn receive_descriptors(&self, count: usize) -> Result<Vec<OwnedFd>> {
        let mut all = Vec::with_capacity(count);
        while all.len() < count {
            let some = fs::receive_all(self.0.as_fd());
            all.extend(some.map_err(|source| Error::failed("receive", "descriptors", source))?);
        }
        Ok(all)
    }

    /// Waits for a message; `None` when the other side has ended without one.
    ///
    /// # Errors
    /// The socket failed, or the message is not one of ours.
    pub fn receive<T: for<'a> Deserialize<'a>>(&self) -> Result<Option<T>> {
        let mut buffer = vec![0u8; MAX_MESSAGE];
        let length = loop {
            match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
                Ok(length) => break length,
                // ECONNRESET: it ended with a message unread. Told once; what it sent before is still to come.
                Err(nix::Error::EINTR | nix::Error::ECONNRESET) => {}
                Err(source) => return Err(Error::failed("hear from", "the machine's process", source)),
            }
        };
        if length == 0 {
            return Ok(None);
        }
        serde_json::from_slice(&buffer[..length])
            .map(Some)
            .map_err(|source| Error::failed("understand", "the machine's process", source))
    }

    /// Waits until the creator allows `step`.
    ///
    /// # Errors
    /// The creator has ended.
    pub fn wait_for(&self, step: Go) -> Result<()> {
        match self.receive::<Go>()? {
            Some(there) if there == step => Ok(()),
            _ => Err(Error::failed(
                "go on after the creator ended at step",
                format!("{step:?}"),
                nix::Error::EPIPE,
            )),
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
