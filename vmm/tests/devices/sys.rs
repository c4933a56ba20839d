//! A network namespace for one thread.

/// Puts the calling thread into a network namespace of its own, which ends with it.
pub fn leave_network() {
    // SAFETY: no descriptor table or memory is unshared.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNET) }.unwrap();
}
