//! Signals of this process, read from a descriptor: they are the container's.

use std::io;

use nix::sys::signal::{SigSet, SigmaskHow, Signal as Named, sigprocmask};
use nix::sys::signalfd::{SfdFlags, SignalFd};
use rkvm_oci::Signal;

/// Signals that stand for a fault of this process itself.
const FAULTS: [Named; 6] =
    [Named::SIGSEGV, Named::SIGBUS, Named::SIGILL, Named::SIGFPE, Named::SIGABRT, Named::SIGTRAP];

/// Blocks every signal that can be passed on, in this thread and those that it makes. The real-time signals stay as they are: one of
/// them interrupts the virtual processors.
///
/// # Errors
/// No descriptor is left.
pub(crate) fn block() -> io::Result<SignalFd> {
    let mut set = SigSet::empty();
    for signal in Named::iterator() {
        if !FAULTS.contains(&signal) {
            set.add(signal);
        }
    }
    sigprocmask(SigmaskHow::SIG_BLOCK, Some(&set), None)?;
    Ok(SignalFd::with_flags(&set, SfdFlags::SFD_CLOEXEC | SfdFlags::SFD_NONBLOCK)?)
}

/// The signals that have come since the last call.
pub(crate) fn read(signals: &SignalFd) -> Vec<Signal> {
    let mut all = vec![];
    while let Ok(Some(info)) = signals.read_signal() {
        all.extend(Signal::from_number(info.ssi_signo as i32));
    }
    all
}
