//! Installing a signal handler.

use nix::sys::signal::{SigAction, Signal, sigaction};

/// Installs `action`, whose handler must be async-signal-safe (signal-safety(7)).
pub fn install(signal: Signal, action: &SigAction) {
    // SAFETY: the only handler that is passed stores to an atomic, which is async-signal-safe. SIGINT and SIGTERM can be caught,
    // so the call cannot fail.
    let _ = unsafe { sigaction(signal, action) };
}
