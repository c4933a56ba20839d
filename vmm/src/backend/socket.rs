//! Unix sockets in the state folder, whose path may be longer than a socket's address.

use std::fs::File;
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};

use nix::sys::socket::{AddressFamily, Backlog, SockFlag, SockType, UnixAddr, bind, socket};
use nix::sys::stat::{Mode, fchmod};
use rkvm_oci::{Error, Result};

/// Name of the socket for commands.
pub const CONTROL: &str = "vmm.sock";
/// Name of the socket behind which the guest's are.
pub const VSOCK: &str = "vsock.sock";

/// A short path to `name` in `folder`: by a descriptor, because a socket's address has 108 bytes (unix(7)).
fn short(folder: &File, name: &str) -> PathBuf {
    format!("/proc/self/fd/{}/{name}", folder.as_raw_fd()).into()
}

/// Listens at `name` in `folder`; nobody but the owner may connect.
///
/// # Errors
/// The socket cannot be made there.
pub fn listen(folder: &Path, name: &str) -> Result<UnixListener> {
    let failed = |source: std::io::Error| Error::failed("listen at", folder.join(name).display(), source);
    let dir = File::open(folder).map_err(failed)?;
    let listening = || -> nix::Result<UnixListener> {
        let socket = socket(AddressFamily::Unix, SockType::Stream, SockFlag::SOCK_CLOEXEC, None)?;
        // Before it has a path: the file is made with the permissions of the socket, and there is no moment with others.
        fchmod(socket.as_fd(), Mode::S_IRUSR | Mode::S_IWUSR)?;
        bind(socket.as_raw_fd(), &UnixAddr::new(&short(&dir, name))?)?;
        nix::sys::socket::listen(&socket, Backlog::new(64)?)?;
        Ok(socket.into())
    };
    listening().map_err(|errno| failed(errno.into()))
}

/// Connects to `name` in `folder`.
///
/// # Errors
/// Nobody listens there.
pub fn connect(folder: &Path, name: &str) -> std::io::Result<UnixStream> {
    UnixStream::connect(short(&File::open(folder)?, name))
}
