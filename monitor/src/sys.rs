//! System calls that neither std nor nix wraps.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Closes every descriptor from 3 on: whatever the caller of `rkvm` left open is not the container's business.
pub fn close_inherited() {
    // SAFETY: called before anything has been opened, so no owned descriptor is closed behind its owner's back.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
}

/// Gives unused heap back to the kernel: starting a container needs some, watching it does not.
pub fn trim_heap() {
    // SAFETY: malloc_trim may be called at any time.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// Makes the program of `command` the leader of a process group of its own, in the foreground of its terminal if it has one.
pub fn in_foreground_group(command: &mut Command) {
    let enter = || {
        // SAFETY: all four are async-signal-safe, which is what is allowed between fork and exec; tcsetpgrp from a background
        // group sends SIGTTOU unless that is ignored.
        unsafe {
            libc::setpgid(0, 0);
            libc::signal(libc::SIGTTOU, libc::SIG_IGN);
            libc::tcsetpgrp(0, libc::getpid());
            libc::signal(libc::SIGTTOU, libc::SIG_DFL);
        }
        Ok(())
    };
    // SAFETY: `enter` allocates nothing, takes no lock and touches no memory of the parent.
    unsafe {
        command.pre_exec(enter);
    }
}
