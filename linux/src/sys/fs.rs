//! Files: resolution inside a root, descriptors.

use std::fs::Metadata;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use super::{c_path, check};

/// openat2(2): symlinks, `..` and absolute paths all stay below the starting folder.
const RESOLVE_IN_ROOT: u64 = 0x10;
/// openat2(2): `/proc/PID/fd/N` and the like are not followed.
const RESOLVE_NO_MAGICLINKS: u64 = 0x02;
/// openat2(2): no mount point is crossed.
const RESOLVE_NO_XDEV: u64 = 0x01;

/// Whether this is of `kind` (`S_IFDIR`, `S_IFREG`), and only this user, or nobody, can have written it.
pub fn is_trusted(metadata: &Metadata, kind: libc::mode_t) -> bool {
    metadata.mode() & libc::S_IFMT == kind
        && metadata.uid() == nix::unistd::geteuid().as_raw()
        && metadata.mode() & 0o022 == 0
}

/// `struct open_how` of openat2(2).
#[repr(C)]
struct OpenHow {
    flags: u64,
    mode: u64,
    resolve: u64,
}

fn openat2(dir: BorrowedFd<'_>, path: &Path, how: &OpenHow) -> io::Result<OwnedFd> {
    let path = c_path(path)?;
    loop {
        // SAFETY: the path is NUL-terminated and `how` has the size that is passed.
        let result = check(unsafe {
            libc::syscall(
                libc::SYS_openat2,
                dir.as_raw_fd(),
                path.as_ptr(),
                how as *const OpenHow,
                size_of::<OpenHow>(),
            )
        });
        match result {
            // SAFETY: the kernel has just given us this descriptor.
            Ok(fd) => return Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) }),
            // EAGAIN: a rename on the host raced with `..`; the kernel asks for a retry.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EAGAIN | libc::EINTR)) => {}
            Err(error) => return Err(error),
        }
    }
}

/// Opens `path` as a process whose root is `root` would see it: no symlink, however it changes while this runs, leads
/// out. Always close-on-exec.
///
/// # Errors
/// As open(2).
pub fn open_in_root(root: BorrowedFd<'_>, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS,
    };
    openat2(root, path, &how)
}

/// Opens `path` below `dir` without leaving its file system, for folders whose file system is known (procfs).
///
/// # Errors
/// As open(2); `EXDEV` when something is mounted in between.
pub fn open_same_fs(dir: BorrowedFd<'_>, path: &Path, flags: i32) -> io::Result<OwnedFd> {
    let how = OpenHow {
        flags: (flags | libc::O_CLOEXEC) as u64,
        mode: 0,
        resolve: RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS | RESOLVE_NO_XDEV,
    };
    openat2(dir, path, &how)
}

/// Makes `fd` the descriptor `number` of this process, without close-on-exec.
///
/// # Errors
/// As dup2(2).
pub fn dup_to(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<()> {
    if fd.as_raw_fd() == number {
        // SAFETY: only a flag of a descriptor that the caller holds changes.
        return check(libc::c_long::from(unsafe { libc::fcntl(number, libc::F_SETFD, 0) })).map(drop);
    }
    // SAFETY: callers pass 0, 1 or 2, which no OwnedFd of this program wraps.
    check(libc::c_long::from(unsafe { libc::dup2(fd.as_raw_fd(), number) })).map(drop)
}

/// Makes `fd` the descriptor `number`, close-on-exec. What had that number is closed, and must have no other owner.
///
/// # Errors
/// As dup3(2).
pub fn dup_to_cloexec(fd: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: the caller answers for `number`, and `fd` differs from it (dup3 says EINVAL otherwise).
    check(libc::c_long::from(unsafe { libc::dup3(fd.as_raw_fd(), number, libc::O_CLOEXEC) }))?;
    // SAFETY: dup3 has just made this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Closes every descriptor from `first` on. Owners of such descriptors must never be dropped: for a process that only goes on
/// to execve or _exit.
///
/// # Errors
/// A kernel before 5.9.
pub fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: callers keep no owner that is dropped later.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) }).map(drop)
}

/// Closes every descriptor that is not in `kept`. As with [`close_from`], owners of the others must never be dropped.
///
/// # Errors
/// A kernel before 5.9.
pub fn close_all_but(kept: &[RawFd]) -> io::Result<()> {
    let mut kept: Vec<u32> = kept.iter().map(|fd| fd.cast_unsigned()).collect();
    kept.sort_unstable();
    let mut first = 0;
    for fd in kept {
        if fd > first {
            // SAFETY: callers keep no owner that is dropped later.
            check(unsafe { libc::syscall(libc::SYS_close_range, first, fd - 1, 0) })?;
        }
        first = fd + 1;
    }
    close_from(first)
}

/// Sets close-on-exec on every descriptor from `first` on.
///
/// # Errors
/// A kernel before 5.11.
pub fn close_on_exec_from(first: u32) -> io::Result<()> {
    const CLOSE_RANGE_CLOEXEC: u32 = 4;
    // SAFETY: no pointers, and nothing is closed now.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, CLOSE_RANGE_CLOEXEC) }).map(drop)
}

/// Takes `fd` out of the way of the numbers below `first`, close-on-exec.
///
/// # Errors
/// No descriptor is free.
pub fn move_above(fd: OwnedFd, first: RawFd) -> io::Result<OwnedFd> {
    Ok(copy_above(fd.as_fd(), first)?.unwrap_or(fd))
}

/// A copy of `fd` that is out of the way of the numbers below `first`, close-on-exec; `None` when `fd` itself is.
///
/// # Errors
/// No descriptor is free.
pub fn copy_above(fd: BorrowedFd<'_>, first: RawFd) -> io::Result<Option<OwnedFd>> {
    if fd.as_raw_fd() >= first {
        return Ok(None);
    }
    // SAFETY: a copy of a descriptor that we hold.
    let copy =
        check(libc::c_long::from(unsafe { libc::fcntl(fd.as_raw_fd(), libc::F_DUPFD_CLOEXEC, first) }))?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(Some(unsafe { OwnedFd::from_raw_fd(copy as RawFd) }))
}

/// Path of the current directory as the kernel tells it, for the check that it is inside the root: the kernel answers
/// `(unreachable)...` for a folder outside (CVE-2024-21626).
///
/// # Errors
/// The folder has been deleted.
pub fn cwd_is_reachable() -> io::Result<bool> {
    let mut buffer = [0u8; 4096];
    // SAFETY: the kernel writes at most the buffer's length.
    let length = match check(unsafe { libc::syscall(libc::SYS_getcwd, buffer.as_mut_ptr(), buffer.len()) }) {
        Ok(length) => length as usize,
        // A path longer than the buffer still begins inside the root or does not.
        Err(error) => return Err(error),
    };
    Ok(length > 0 && buffer[0] == b'/')
}

/// Copies descriptor `number` of another process (pidfd_getfd(2)).
///
/// # Errors
/// It is not open there, or ptrace(2) of the process would not be allowed.
pub fn take_from(process: BorrowedFd<'_>, number: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: no pointers.
    let fd = check(unsafe { libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0) })?;
    // SAFETY: the kernel has just given us this descriptor.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as RawFd) })
}

/// Id of the mount that `fd` is on; the file system itself is not asked. `None` before Linux 5.8.
///
/// # Errors
/// As statx(2).
pub fn mount_id(fd: BorrowedFd<'_>) -> io::Result<Option<u64>> {
    // SAFETY: plain numbers, for which zero is a value.
    let mut status: libc::statx = unsafe { std::mem::zeroed() };
    let flags = libc::AT_EMPTY_PATH | libc::AT_STATX_DONT_SYNC;
    // SAFETY: the empty path is a literal; the kernel writes one structure.
    check(libc::c_long::from(unsafe {
        libc::statx(fd.as_raw_fd(), c"".as_ptr(), flags, libc::STATX_MNT_ID, &raw mut status)
    }))?;
    Ok((status.stx_mask & libc::STATX_MNT_ID != 0).then_some(status.stx_mnt_id))
}

/// Whether `fd` is a character device with these numbers.
///
/// # Errors
/// As fstat(2).
pub fn is_device(fd: BorrowedFd<'_>, major: u64, minor: u64) -> io::Result<bool> {
    let status = nix::sys::stat::fstat(fd)?;
    let character = status.st_mode & libc::S_IFMT == libc::S_IFCHR;
    Ok(character && status.st_rdev == nix::sys::stat::makedev(major, minor))
}

/// Whether `fd` is the multiplexer of pseudoterminals (character device 5:2).
///
/// # Errors
/// As fstat(2).
pub fn is_ptmx(fd: BorrowedFd<'_>) -> io::Result<bool> {
    is_device(fd, 5, 2)
}

/// Receives the descriptor that comes over a socket (SCM_RIGHTS), close-on-exec.
///
/// # Errors
/// The socket is closed, or the message has no descriptor.
pub fn receive(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    receive_in(socket, &mut nix::cmsg_space!([RawFd; 1]))?
        .into_iter()
        .next()
        .ok_or_else(|| io::ErrorKind::UnexpectedEof.into())
}

/// Most descriptors of one message (SCM_MAX_FD of the kernel).
pub const MAX_DESCRIPTORS: usize = 253;

/// Receives the descriptors that come with one message over a socket (SCM_RIGHTS), close-on-exec.
///
/// # Errors
/// The socket is closed, or the message has none.
pub fn receive_all(socket: BorrowedFd<'_>) -> io::Result<Vec<OwnedFd>> {
    receive_in(socket, &mut nix::cmsg_space!([RawFd; MAX_DESCRIPTORS]))
}

fn receive_in(socket: BorrowedFd<'_>, space: &mut [u8]) -> io::Result<Vec<OwnedFd>> {
    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
    let mut data = [0u8; 256];
    let mut parts = [io::IoSliceMut::new(&mut data)];
    let message = recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control {
            // SAFETY: the kernel has just made these descriptors for us.
            return Ok(fds.into_iter().map(|fd| unsafe { OwnedFd::from_raw_fd(fd) }).collect());
        }
    }
    Err(io::ErrorKind::UnexpectedEof.into())
}
