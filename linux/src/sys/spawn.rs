//! Making processes and joining namespaces.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use super::check;

/// `struct clone_args` of clone3(2), the part up to `cgroup`.
#[repr(C)]
#[derive(Default)]
struct CloneArgs {
    flags: u64,
    pidfd: u64,
    child_tid: u64,
    parent_tid: u64,
    exit_signal: u64,
    stack: u64,
    stack_size: u64,
    tls: u64,
    set_tid: u64,
    set_tid_size: u64,
    cgroup: u64,
}

/// Flag of clone3(2) beyond the 32 bits that clone(2) has.
const CLONE_INTO_CGROUP: u64 = 1 << 33;

/// Whose child the new process is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Parent {
    /// The caller's.
    Caller,
    /// A sibling of the caller: its parent waits for it.
    CallersParent,
}

/// Which side of a fork this is.
#[derive(Debug)]
pub enum Side {
    /// The new process.
    Child,
    /// The caller.
    Parent {
        /// The new process's id.
        pid: i32,
        /// Its pidfd, close-on-exec.
        pidfd: OwnedFd,
    },
}

/// clone3(2) with the memory copied (a fork), straight into the new `namespaces` and the unified cgroup `cgroup`.
///
/// The caller must have no other thread: the child may then go on as ordinary code. [`is_single_threaded`] tells, and
/// [`fork`] is the way for those that have threads.
///
/// # Errors
/// A privilege or memory is missing, or a limit of namespaces is reached.
pub fn clone3(namespaces: u64, parent: Parent, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Side> {
    let mut pidfd: RawFd = -1;
    let sibling = if parent == Parent::CallersParent { libc::CLONE_PARENT as u64 } else { 0 };
    let arguments = CloneArgs {
        flags: namespaces | sibling | libc::CLONE_PIDFD as u64 | cgroup.map_or(0, |_| CLONE_INTO_CGROUP),
        // A descriptor that is open is not negative.
        cgroup: cgroup.map_or(0, |folder| folder.as_raw_fd() as u64),
        pidfd: &raw mut pidfd as u64,
        exit_signal: if sibling == 0 { libc::SIGCHLD as u64 } else { 0 },
        ..Default::default()
    };
    // SAFETY: without CLONE_VM and CLONE_THREAD this is a fork; `pidfd` outlives the call.
    let pid =
        check(unsafe { libc::syscall(libc::SYS_clone3, &raw const arguments, size_of::<CloneArgs>()) })?;
    if pid == 0 {
        return Ok(Side::Child);
    }
    // SAFETY: the kernel has stored a new descriptor there.
    Ok(Side::Parent { pid: pid as i32, pidfd: unsafe { OwnedFd::from_raw_fd(pidfd) } })
}

/// fork(3) of the C library, which leaves its locks usable in the child even when the caller has threads.
///
/// # Errors
/// Memory or a process number is missing.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: the child is a copy with one thread; glibc resets its allocator's locks.
    let pid = check(libc::c_long::from(unsafe { libc::fork() }))?;
    Ok((pid != 0).then_some(pid as i32))
}

/// Whether this process has one thread only.
pub fn is_single_threaded() -> bool {
    use std::os::unix::fs::MetadataExt;
    // One link for each thread, beside the folder's own two.
    std::fs::metadata("/proc/self/task").is_ok_and(|folder| folder.nlink() == 3)
}

/// setns(2): joins the namespaces `kinds` of a namespace file or a pidfd.
///
/// # Errors
/// A privilege is missing, or the descriptor is not of that kind.
pub fn setns(namespace: BorrowedFd<'_>, kinds: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::setns(namespace.as_raw_fd(), kinds) })).map(drop)
}

/// unshare(2).
///
/// # Errors
/// A privilege is missing or a limit of namespaces is reached.
pub fn unshare(kinds: i32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::unshare(kinds) })).map(drop)
}

/// _exit(2): ends the process without running anything that its memory image, a copy of the parent's, has registered.
pub fn exit_now(code: i32) -> ! {
    // SAFETY: ends the process.
    unsafe { libc::_exit(code) }
}

/// pidfd_open(2).
///
/// # Errors
/// There is no such process.
pub fn pidfd_open(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointers; a descriptor comes back.
    check(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) })
        .map(|fd| unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// pidfd_send_signal(2).
///
/// # Errors
/// `ESRCH` when the process has ended.
pub fn pidfd_signal(process: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: a null siginfo makes the kernel fill in kill(2)'s.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            process.as_raw_fd(),
            signal,
            std::ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
    .map(drop)
}
