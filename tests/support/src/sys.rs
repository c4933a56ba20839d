//! The one system call here without a safe wrapper.

use std::io::IoSliceMut;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::net::UnixStream;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Receives one message with one descriptor (SCM_RIGHTS, unix(7)): the descriptor and the message's text.
pub(crate) fn receive_fd(socket: &UnixStream) -> nix::Result<Option<(OwnedFd, String)>> {
    let mut text = [0u8; 4096];
    let mut control = nix::cmsg_space!([std::os::fd::RawFd; 4]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut control), MsgFlags::MSG_CMSG_CLOEXEC)?;
    let length = message.bytes;
    let mut received = vec![];
    for part in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = part {
            for fd in fds {
                // SAFETY: the kernel has just made this descriptor for us, and nothing else knows its number.
                received.push(unsafe { OwnedFd::from_raw_fd(fd) });
            }
        }
    }
    let text = String::from_utf8_lossy(&text[..length]).into_owned();
    Ok(received.into_iter().next().map(|fd| (fd, text)))
}
