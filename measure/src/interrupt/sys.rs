//! Installing a signal handler.

use nix::sys::signal::{SigAction, Signal, sigaction};

/// Installs `action`, whose handler must be async-signal-safe (signal-safety(7)); what was there before.
pub fn install(signal: Signal, action: &SigAction) -> Option<SigAction> {
    // SAFETY: the only handler that is passed stores to an atomic, which is async-signal-safe. SIGINT, SIGTERM and SIGHUP can be
    // caught, so the call cannot fail.
    unsafe { sigaction(signal, action) }.ok()
}
