//! SIGINT, SIGTERM and SIGHUP end a measurement in an orderly way.

use std::sync::atomic::{AtomicBool, Ordering};

use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};

mod sys;

static REQUESTED: AtomicBool = AtomicBool::new(false);

extern "C" fn note(_signal: i32) {
    REQUESTED.store(true, Ordering::Relaxed);
}

/// From now on the three signals only make [`requested`] true. A second one ends the process as usual. One that is ignored stays so: a
/// measurement below nohup(1) outlives its terminal.
pub fn watch() {
    // SA_RESETHAND: whoever insists is not held up. SA_RESTART: no call fails because of it.
    let flags = SaFlags::SA_RESETHAND | SaFlags::SA_RESTART;
    let action = SigAction::new(SigHandler::Handler(note), flags, SigSet::empty());
    let ignored = SigAction::new(SigHandler::SigIgn, SaFlags::empty(), SigSet::empty());
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        let before = sys::install(signal, &action);
        if signal == Signal::SIGHUP
            && before.is_some_and(|before| matches!(before.handler(), SigHandler::SigIgn))
        {
            sys::install(signal, &ignored);
        }
    }
}

/// Whether one of the signals has come.
pub fn requested() -> bool {
    REQUESTED.load(Ordering::Relaxed)
}
