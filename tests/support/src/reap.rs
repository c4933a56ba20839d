//! Waiting for container processes, as a container manager does.

use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::wait;

/// Makes this process the parent of every container that `create` or `run --detach` leaves to itself.
///
/// # Panics
/// The kernel refuses.
pub fn become_subreaper() {
    prctl::set_child_subreaper(true).expect("become a subreaper");
}

/// Waits for process `pid`, an orphan that this subreaper has got, and gives its exit code (128 plus the signal's number
/// when a signal ended it).
///
/// # Panics
/// It is not a child of this process, or does not end.
#[track_caller]
pub fn wait_for(pid: i32) -> i32 {
    wait::until("the container's process to end", || {
        match waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(_, code)) => Some(code),
            Ok(WaitStatus::Signaled(_, signal, _)) => Some(128 + signal as i32),
            Ok(_) | Err(Errno::EINTR) => None,
            Err(error) => panic!("cannot wait for process {pid}: {error}"),
        }
    })
}

/// Reaps process `pid` if it has ended and is a child of this process.
pub(crate) fn reap(pid: i32) {
    let _ = waitpid(Pid::from_raw(pid), Some(WaitPidFlag::WNOHANG));
}

/// Waits for process `pid` without polling, for benchmarks; its exit code.
///
/// # Panics
/// It is not a child of this process.
#[track_caller]
pub fn wait_blocking(pid: i32) -> i32 {
    loop {
        match waitpid(Pid::from_raw(pid), None) {
            Ok(WaitStatus::Exited(_, code)) => return code,
            Ok(WaitStatus::Signaled(_, signal, _)) => return 128 + signal as i32,
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => panic!("cannot wait for process {pid}: {error}"),
        }
    }
}

/// Reaps every child that has ended. Not for tests that run in parallel: it would take their children's exit codes.
pub fn reap_all() {
    while let Ok(status) = waitpid(None, Some(WaitPidFlag::WNOHANG)) {
        if status == WaitStatus::StillAlive {
            break;
        }
    }
}
