//! System calls without a safe wrapper in the libraries in use.

use std::io;

use rkvm_oci::signal::Signal;

/// Sends a signal to one process; unlike nix's, any signal, realtime ones included.
pub(super) fn kill(pid: i32, signal: Signal) -> io::Result<()> {
    // SAFETY: kill(2) takes two numbers and touches no memory of this process.
    match unsafe { libc::kill(pid, signal.number()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
