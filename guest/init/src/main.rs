//! PID 1 of the microVM: sets the machine up, runs processes, powers it off.
//!
//! One thread and one `poll` loop. The first vsock stream goes to the host and carries the machine's process; further streams come from the
//! host, one for each `exec`. Whatever goes wrong here is told to the host, and the machine is switched off: nobody is there to look at it.

mod child;
mod events;
mod fail;
mod machine;
mod root;
mod session;
mod sys;

use rkvm_guest_protocol::marker;

fn main() {
    sys::mark(marker::INIT);
    if let Err(error) = events::run() {
        // The console is the last way to say anything.
        eprintln!("rkvm-init: {error}");
    }
    machine::power_off();
}
