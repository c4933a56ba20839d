//! The host's terminal that stands for one of the guest's: its slave is relayed, its master is the caller's.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use nix::fcntl::OFlag;
use nix::pty::posix_openpt;
use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
use nix::sys::termios::{SetArg, cfmakeraw, tcgetattr, tcsetattr};
use oci_spec::runtime::Process;
use rkvm_linux::sys::pty;
use rkvm_oci::{Error, Result};

/// Both sides of a terminal.
#[derive(Debug)]
pub struct Pair {
    /// For the caller.
    pub master: OwnedFd,
    /// For the relay: raw, because the guest's terminal does what terminals do.
    pub slave: OwnedFd,
}

fn failed<E: Into<rkvm_oci::error::Source>>(action: &'static str) -> impl Fn(E) -> Error {
    move |source| Error::failed(action, "a terminal", source)
}

/// Opens a terminal of the size that `process` asks for.
///
/// # Errors
/// The host has no devpts, or no terminal left.
pub fn open(process: Option<&Process>) -> Result<Pair> {
    let master = posix_openpt(OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC).map_err(failed("open"))?;
    // Owned in another way from here on: the type of nix has no conversion that keeps the descriptor.
    let master = master.as_fd().try_clone_to_owned().map_err(failed("open"))?;
    let slave = pty::slave_of(master.as_fd()).map_err(failed("open"))?;
    let mut raw = tcgetattr(&slave).map_err(failed("set up"))?;
    cfmakeraw(&mut raw);
    tcsetattr(&slave, SetArg::TCSANOW, &raw).map_err(failed("set up"))?;
    if let Some(size) = process.and_then(|process| process.console_size()) {
        // Terminals count in 16 bits; more than that is no terminal.
        let short = |number: u64| u16::try_from(number).unwrap_or(u16::MAX);
        pty::set_size(slave.as_fd(), short(size.height()), short(size.width())).map_err(failed("set up"))?;
    }
    Ok(Pair { master, slave })
}

/// Sends a terminal's master to the caller (runc's console socket protocol: the descriptor with its name as data).
///
/// # Errors
/// The socket is closed.
pub fn send(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<()> {
    let fds = [master.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    let data = [std::io::IoSlice::new(b"/dev/ptmx")];
    sendmsg::<()>(socket.as_raw_fd(), &data, &control, MsgFlags::MSG_NOSIGNAL, None)
        .map(drop)
        .map_err(|source| Error::failed("send the terminal over", "the console socket", source))
}
