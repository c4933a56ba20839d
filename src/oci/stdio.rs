//! Streams of a new process: the caller's own, or a terminal whose master goes to a console socket.

use std::fs;
use std::os::unix::net::UnixStream;
use std::path::Path;

use oci_spec::runtime::Process;
use rkvm_oci::{Error, Result, Stdio};

/// What `process.terminal` and `--console-socket` ask for together.
///
/// # Errors
/// Only one of the two is given, or nobody listens on the socket.
pub fn of(process: Option<&Process>, console_socket: Option<&Path>) -> Result<Stdio> {
    let terminal = process.and_then(Process::terminal).unwrap_or(false);
    match (terminal, console_socket) {
        (false, None) => Ok(Stdio::Inherit),
        (true, Some(path)) => {
            let socket = UnixStream::connect(path)
                .map_err(|source| Error::failed("connect to --console-socket", path.display(), source))?;
            Ok(Stdio::Terminal { console: socket.into() })
        }
        (true, None) => Err(Error::invalid_spec(
            "process.terminal",
            "set, and no --console-socket is given to send the terminal to",
        )),
        (false, Some(path)) => Err(Error::invalid_spec(
            "process.terminal",
            format!("not set, and --console-socket {} is for a terminal only", path.display()),
        )),
    }
}

/// Checks that descriptors 3 to 3 + `count` are open: otherwise one of this program's own could come in their place.
///
/// # Errors
/// One is not open.
pub fn check_preserved(count: u32) -> Result<()> {
    for number in 3..3u32.saturating_add(count) {
        if fs::symlink_metadata(format!("/proc/self/fd/{number}")).is_err() {
            return Err(Error::failed(
                "preserve descriptor",
                number,
                std::io::Error::from_raw_os_error(libc::EBADF),
            )
            .hint("--preserve-fds N needs 3 to N+2 open"));
        }
    }
    Ok(())
}

/// Writes a process id the way callers wait for it: whole or not at all.
///
/// # Errors
/// The folder cannot be written.
pub fn write_pid_file(path: Option<&Path>, pid: i32) -> Result<()> {
    let Some(path) = path else { return Ok(()) };
    let mut aside = path.as_os_str().to_owned();
    aside.push(".new");
    fs::write(&aside, pid.to_string())
        .and_then(|()| fs::rename(&aside, path))
        .map_err(|source| Error::failed("write --pid-file", path.display(), source))
}

/// Descriptors of socket activation (sd_listen_fds(3)) that this process was given: they are passed on with their count.
pub fn listen_fds() -> u32 {
    let number = |name: &str| std::env::var(name).ok().and_then(|text| text.parse::<u32>().ok());
    match number("LISTEN_PID") {
        Some(pid) if pid == std::process::id() => number("LISTEN_FDS").unwrap_or(0),
        _ => 0,
    }
}

/// Sends a pidfd of `pid` over the socket of `--pidfd-socket`.
///
/// # Errors
/// Nobody listens there.
pub fn send_pidfd(path: Option<&Path>, pid: i32) -> Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    use std::os::fd::AsRawFd;
    let Some(path) = path else { return Ok(()) };
    let failed = |source: std::io::Error| Error::failed("send to --pidfd-socket", path.display(), source);
    let socket = UnixStream::connect(path).map_err(failed)?;
    let pidfd = rkvm_container::pidfd(pid).map_err(failed)?;
    let fds = [pidfd.as_raw_fd()];
    let data = [std::io::IoSlice::new(b"pidfd")];
    let control = [ControlMessage::ScmRights(&fds)];
    sendmsg::<()>(socket.as_raw_fd(), &data, &control, MsgFlags::empty(), None)
        .map(drop)
        .map_err(|errno| failed(errno.into()))
}
