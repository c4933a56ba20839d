//! How a child process ended.

use nix::sys::wait::{WaitStatus, waitpid};
use nix::unistd::Pid;
use rkvm_oci::{Error, ExitStatus, Result, Signal};

/// Waits for child `pid`.
///
/// # Errors
/// It is not a child of the caller.
pub fn wait_for(pid: i32) -> Result<ExitStatus> {
    loop {
        return match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => Ok(ExitStatus::Exited(code as u8)),
            Ok(WaitStatus::Signaled(_, signal, _)) => {
                Ok(ExitStatus::Signaled(Signal::from_number(signal as i32).unwrap_or(Signal::KILL)))
            }
            Ok(_) | Err(nix::Error::EINTR) => continue,
            // A realtime signal has no name in nix: asked for again without it.
            Err(nix::Error::EINVAL) => Ok(ExitStatus::Signaled(Signal::KILL)),
            Err(errno) => Err(Error::failed("wait for process", pid, errno)),
        };
    }
}

/// How a process that was waited for has ended, for messages.
pub fn end_of(status: nix::Result<WaitStatus>) -> String {
    match status {
        Ok(WaitStatus::Signaled(_, signal, _)) => format!("it was killed by {signal}"),
        Ok(WaitStatus::Exited(_, code)) => format!("it exited with code {code}"),
        _ => "it ended".to_owned(),
    }
}
