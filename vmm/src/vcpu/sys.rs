//! Kicks: a signal that ends `KVM_RUN`, or the next one if it comes just before.

use std::cell::Cell;
use std::ptr;
use std::thread::JoinHandle;

use kvm_bindings::{KVM_INTERNAL_ERROR_EMULATION, kvm_run};
use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{Killable, register_signal_handler};

use crate::error::{Error, Result};

thread_local! {
    // Without a destructor and initialised at compile time, so that the signal handler can read it at any moment.
    static RUN: Cell<*mut kvm_run> = const { Cell::new(ptr::null_mut()) };
}

fn signal() -> libc::c_int {
    vmm_sys_util::signal::SIGRTMIN()
}

extern "C" fn on_kick(_: libc::c_int, _: *mut libc::siginfo_t, _: *mut libc::c_void) {
    let run = RUN.get();
    if !run.is_null() {
        // SAFETY: `Kicked` keeps the pointer only while the vCPU's shared page is mapped; this is one byte that KVM reads.
        unsafe { ptr::addr_of_mut!((*run).immediate_exit).write_volatile(1) }
    }
}

/// Installs the signal handler that [`kick`] needs.
pub(crate) fn install_kick() -> Result<()> {
    register_signal_handler(signal(), on_kick).map_err(|error| Error::Os {
        action: "install a signal handler",
        source: std::io::Error::from_raw_os_error(error.errno()),
    })
}

/// Takes the vCPU of `thread` out of the guest.
pub(crate) fn kick(thread: &JoinHandle<()>) {
    // A thread that has ended needs no kick.
    let _ = thread.kill(signal());
}

/// While it lives, kicks of this thread reach a vCPU.
pub(super) struct Kicked;

impl Kicked {
    pub fn register(vcpu: &mut VcpuFd) -> Self {
        RUN.set(ptr::from_mut(vcpu.get_kvm_run()));
        Self
    }
}

impl Drop for Kicked {
    fn drop(&mut self) {
        RUN.set(ptr::null_mut());
    }
}

/// What KVM says after an exit for an internal error.
pub(super) fn internal_error(vcpu: &mut VcpuFd) -> String {
    // SAFETY: `internal` is the union's member for this exit reason, and all of it is plain numbers.
    let error = unsafe { vcpu.get_kvm_run().__bindgen_anon_1.internal };
    if error.suberror != KVM_INTERNAL_ERROR_EMULATION {
        return format!("KVM failed inside (suberror {})", error.suberror);
    }
    // data[0]: flags, 1 = instruction bytes follow; data[1]: their number (1 byte) and the bytes (api.rst, emulation_failure).
    let bytes: Vec<u8> = error.data[1..4].iter().flat_map(|word| word.to_le_bytes()).collect();
    let known = if error.ndata >= 4 && error.data[0] & 1 != 0 { usize::from(bytes[0]).min(15) } else { 0 };
    let hex: Vec<String> = bytes[1..=known].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("KVM cannot emulate the guest's instruction [{}]", hex.join(" "))
}
