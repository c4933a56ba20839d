//! PID 1 of the microVM: sets the machine up, runs the OCI process in a container inside it, powers it off.
//!
//! One thread and one `poll` loop. The container is made by the container backend's own code, so that everything which config.json
//! can say means the same in both isolations. The first vsock stream goes to the host and carries the container's process; further
//! streams come from the host, one for each `exec` and each question. Whatever goes wrong here is told to the host, and the machine
//! is switched off: nobody is there to look at it.

mod disks;
mod events;
mod machine;
mod network;
mod processes;
mod root;
mod session;
mod sys;
mod workload;

use rkvm_guest_protocol::marker;

#[global_allocator]
static HEAP: sys::heap::Heap = sys::heap::Heap::new();

fn main() {
    if let Err(error) = machine::first_mounts() {
        machine::tell(&error.to_string());
        machine::power_off();
    }
    let mut marker = sys::Marker::open();
    marker.mark(marker::INIT);
    if let Err(error) = machine::load_modules().and_then(|()| events::run(&mut marker)) {
        let source = std::error::Error::source(&error).map_or(String::new(), ToString::to_string);
        machine::tell(&format!("{error}: {source}"));
    }
    machine::power_off();
}
