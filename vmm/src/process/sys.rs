//! Descriptors that the process was started with.

use std::io;
use std::os::fd::{FromRawFd, OwnedFd};

/// Takes over descriptor `number`, which the program's starter has left open for it.
///
/// # Errors
/// It is not open.
pub(crate) fn inherited(number: i32) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD takes no pointer.
    if unsafe { libc::fcntl(number, libc::F_GETFD) } < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: FD_CLOEXEC is a valid flag; the descriptor is open.
    unsafe { libc::fcntl(number, libc::F_SETFD, libc::FD_CLOEXEC) };
    // SAFETY: it is open, and each number is taken over once, before anything else opens descriptors of its own.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Has all threads allocate from one arena of the C library. An arena of a thread's own looks into /proc before it gives memory back, and
/// the thread's filter ends the process for that.
pub(crate) fn one_arena() {
    // SAFETY: no pointers, and no other thread yet.
    unsafe { libc::mallopt(libc::M_ARENA_MAX, 1) };
}

/// Makes the table of descriptors as large as most machines ever need it, while this process has one thread. The kernel replaces a table that
/// several threads share only after a grace period (expand_files in fs/file.c), 4 ms in which a request of the guest would wait.
pub(crate) fn make_room_for_descriptors() {
    /// Descriptors: a share's inodes are one each.
    const ROOM: libc::c_int = 1024;
    // SAFETY: no pointer is passed, and the new descriptor is nobody else's. Without room (a low limit) the table grows as it is used.
    unsafe {
        let last = libc::fcntl(libc::STDIN_FILENO, libc::F_DUPFD_CLOEXEC, ROOM - 1);
        if last >= 0 {
            libc::close(last);
        }
    }
}

/// Ends the process without running destructors: the kernel takes the machine apart faster.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// Ends the process by `signal`, as the guest's process ended. Comes back only when the signal does not end processes.
pub(crate) fn die_by(signal: i32) {
    // SAFETY: plain system calls; the set is initialised before it is used. A core of this process would be of no use to anybody, so
    // it is made undumpable.
    unsafe {
        libc::prctl(libc::PR_SET_DUMPABLE, 0);
        libc::signal(signal, libc::SIG_DFL);
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, signal);
        libc::pthread_sigmask(libc::SIG_UNBLOCK, &raw const set, std::ptr::null_mut());
        libc::raise(signal);
    }
}
