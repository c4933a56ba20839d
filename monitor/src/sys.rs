//! System calls that neither std nor nix wraps.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::process::Command;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// Closes every descriptor from 3 on: whatever the caller of `rkvm` left open is not the container's business.
pub fn close_inherited() {
    // SAFETY: called before anything has been opened, so no owned descriptor is closed behind its owner's back.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
}

/// A descriptor that becomes readable when process `pid` ends (`pidfd_open(2)`).
///
/// # Errors
/// There is no such process.
pub fn pidfd(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: takes integers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Receives one descriptor that the other side of `socket` sent with SCM_RIGHTS.
///
/// # Errors
/// The read fails, or there was none.
pub fn receive_fd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut data = [0; 4096];
    let mut parts = [io::IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just given this descriptor to us; there is room for no other.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// Sets the size of the terminal whose master this is.
///
/// # Errors
/// It is no terminal.
pub fn resize(master: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize, which is valid for the time of the call.
    match unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Gives unused heap back to the kernel: starting a container needs some, watching it does not.
pub fn trim_heap() {
    // SAFETY: malloc_trim may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes the program of `command` the leader of a process group of its own, in the foreground of its terminal if it has one.
pub fn in_foreground_group(command: &mut Command) {
    let enter = || {
        // SAFETY: all four are async-signal-safe, which is what is allowed between fork and exec; tcsetpgrp from a background
        // group sends SIGTTOU unless that is ignored.
        unsafe {
            libc::setpgid(0, 0);
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            libc::tcsetpgrp(0, libc::getpid());
            libc::signal(libc::SIGTTOU, libc::SIG_DFL);
        }
        Ok(())
    };
    // SAFETY: `enter` allocates nothing, takes no lock and touches no memory of the parent.
    unsafe {
        command.pre_exec(enter);
    }
}
