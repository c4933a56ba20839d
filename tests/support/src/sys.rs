//! System calls without a safe wrapper.

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

nix::ioctl_write_ptr_bad!(tiocswinsz, nix::libc::TIOCSWINSZ, nix::libc::winsize);

/// Sets a terminal's size (TIOCSWINSZ, ioctl_tty(2)).
pub(crate) fn set_window_size(terminal: &impl AsRawFd, rows: u16, columns: u16) -> nix::Result<()> {
    let size = nix::libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the descriptor is open, and TIOCSWINSZ reads one `winsize`, which lives until the call returns.
    unsafe { tiocswinsz(terminal.as_raw_fd(), &raw const size) }.map(drop)
}
