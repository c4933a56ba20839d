//! System calls that neither std nor nix wraps.

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

/// A process that does nothing, kept only for the namespaces it was made with. Dropping it ends it.
#[derive(Debug)]
pub struct NamespaceHolder {
    pid: i32,
}

impl NamespaceHolder {
    /// Forks a process into the new namespaces `flags` (`CLONE_NEW*`); they exist when this returns.
    ///
    /// # Errors
    /// The kernel refuses them.
    pub fn new(flags: i32) -> io::Result<Self> {
        let flags = libc::c_ulong::from(flags as u32) | libc::SIGCHLD as libc::c_ulong;
        // SAFETY: no pointers.
        let parent = unsafe { libc::getpid() };
        // SAFETY: without CLONE_VM this is fork: the child has a copy of this address space and its own stack (no new one is
        // given). It calls nothing but async-signal-safe functions until the parent kills it.
        let pid = unsafe { libc::syscall(libc::SYS_clone, flags, 0, 0, 0, 0) };
        match pid {
            -1 => Err(io::Error::last_os_error()),
            0 => {
                // SAFETY: none of these calls takes a pointer here; all are async-signal-safe. Should the parent die before it
                // can kill this process, the kernel does; should it have died before the kernel was asked to, it is not the parent
                // any more.
                unsafe {
                    libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL);
                    while libc::getppid() == parent {
                        libc::pause();
                    }
                    libc::_exit(1)
                }
            }
            pid => Ok(Self { pid: pid as i32 }),
        }
    }

    /// Its process id.
    pub fn pid(&self) -> i32 {
        self.pid
    }
}

impl Drop for NamespaceHolder {
    fn drop(&mut self) {
        // SAFETY: the process is an unreaped child of this one, so its number cannot have been given to another; waitpid
        // allows a null status.
        unsafe {
            libc::kill(self.pid, libc::SIGKILL);
            libc::waitpid(self.pid, std::ptr::null_mut(), 0);
        }
    }
}

fn path_cstring(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_bytes()).map_err(io::Error::from)
}

/// A detached copy of the mount at `path`, as `open_tree(2)` with `OPEN_TREE_CLONE` gives it.
///
/// # Errors
/// Those of open_tree.
pub fn clone_mount(path: &Path) -> io::Result<OwnedFd> {
    let path = path_cstring(path)?;
    let flags = libc::OPEN_TREE_CLONE | libc::OPEN_TREE_CLOEXEC;
    // SAFETY: `path` is a valid C string for the time of the call.
    let fd = unsafe { libc::syscall(libc::SYS_open_tree, libc::AT_FDCWD, path.as_ptr(), flags) };
    if fd < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: the kernel has just given this descriptor to us and nobody else has it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd as i32) })
}

/// Makes the detached mount `mount` show owners as the user namespace `userns` maps them (`mount_setattr(2)`).
///
/// # Errors
/// EINVAL when the file system cannot be idmapped.
pub fn idmap_mount(mount: BorrowedFd<'_>, userns: BorrowedFd<'_>) -> io::Result<()> {
    let attributes = libc::mount_attr {
        attr_set: libc::MOUNT_ATTR_IDMAP,
        attr_clr: 0,
        propagation: 0,
        userns_fd: userns.as_raw_fd() as u64,
    };
    // SAFETY: the empty path and `attributes`, whose size is given, are valid for the time of the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_EMPTY_PATH,
            &raw const attributes,
            size_of::<libc::mount_attr>(),
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// Attaches the detached mount `mount` at `target` (`move_mount(2)`).
///
/// # Errors
/// Those of move_mount.
pub fn attach_mount(mount: BorrowedFd<'_>, target: &Path) -> io::Result<()> {
    let target = path_cstring(target)?;
    // SAFETY: both paths are valid C strings for the time of the call.
    let result = unsafe {
        libc::syscall(
            libc::SYS_move_mount,
            mount.as_raw_fd(),
            c"".as_ptr(),
            libc::AT_FDCWD,
            target.as_ptr(),
            libc::MOVE_MOUNT_F_EMPTY_PATH,
        )
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

/// `SECBIT_NO_SETUID_FIXUP` of linux/securebits.h.
const SECBIT_NO_SETUID_FIXUP: libc::c_ulong = 1 << 2;

/// Runs `body` with the file system user and group `id`, all capabilities kept.
///
/// # Errors
/// The process may not change its securebits (CAP_SETPCAP).
pub fn with_fs_owner<T>(id: u32, body: impl FnOnce() -> T) -> io::Result<T> {
    // SAFETY: these prctl options take integers only.
    let before = unsafe { libc::prctl(libc::PR_GET_SECUREBITS) };
    if before < 0 {
        return Err(io::Error::last_os_error());
    }
    let set = |bits: libc::c_ulong| {
        // SAFETY: as above.
        match unsafe { libc::prctl(libc::PR_SET_SECUREBITS, bits) } {
            0 => Ok(()),
            _ => Err(io::Error::last_os_error()),
        }
    };
    let before = before as libc::c_ulong;
    set(before | SECBIT_NO_SETUID_FIXUP)?;
    let group = nix::unistd::setfsgid(id.into());
    let user = nix::unistd::setfsuid(id.into());
    let result = body();
    nix::unistd::setfsuid(user);
    nix::unistd::setfsgid(group);
    set(before)?;
    Ok(result)
}

/// Receives one descriptor that the other side of `socket` sent with SCM_RIGHTS.
///
/// # Errors
/// The read fails, or there was none.
pub fn receive_fd(socket: BorrowedFd<'_>) -> io::Result<OwnedFd> {
    let mut data = [0; 4096];
    let mut parts = [io::IoSliceMut::new(&mut data)];
    let mut space = nix::cmsg_space!([i32; 1]);
    let message =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC)?;
    for control in message.cmsgs()? {
        if let ControlMessageOwned::ScmRights(fds) = control
            && let Some(fd) = fds.first()
        {
            // SAFETY: the kernel has just given this descriptor to us; there is room for no other.
            return Ok(unsafe { OwnedFd::from_raw_fd(*fd) });
        }
    }
    Err(io::Error::from(io::ErrorKind::UnexpectedEof))
}

/// Sets the size of the terminal whose master this is.
///
/// # Errors
/// It is no terminal.
pub fn resize(master: BorrowedFd<'_>, rows: u16, columns: u16) -> io::Result<()> {
    let size = libc::winsize { ws_row: rows, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCSWINSZ reads a winsize, which is valid for the time of the call.
    match unsafe { libc::ioctl(master.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls `body` in a forked process; its exit code. `body` may make system calls and nothing else: the process has a copy of one thread.
    fn forked(body: impl FnOnce() -> i32) -> i32 {
        // SAFETY: the child makes system calls only, and ends without running what this process has registered.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            let code = body();
            // SAFETY: ends the process.
            unsafe { libc::_exit(code) }
        }
        let mut status = 0;
        // SAFETY: `status` is valid for the time of the call.
        assert_eq!(unsafe { libc::waitpid(pid, &raw mut status, 0) }, pid);
        libc::WEXITSTATUS(status)
    }

    #[test]
    fn a_holder_ends_with_its_parent_however_early_that_is() {
        // SAFETY: none of these calls takes a pointer.
        let unshared = || unsafe { libc::unshare(libc::CLONE_NEWPID) == 0 };
        let code = forked(|| {
            if !unshared() {
                return 77;
            }
            // The first process of a pid namespace gets the orphans of it, and they end with it.
            forked(|| {
                for _ in 0..200 {
                    forked(|| match NamespaceHolder::new(libc::CLONE_NEWUTS) {
                        Ok(holder) => {
                            std::mem::forget(holder);
                            0
                        }
                        Err(_) => 1,
                    });
                }
                for _ in 0..500 {
                    // SAFETY: a null status is allowed.
                    match unsafe { libc::waitpid(-1, std::ptr::null_mut(), libc::WNOHANG) } {
                        -1 => return 0,
                        0 => std::thread::sleep(std::time::Duration::from_millis(10)),
                        _ => {}
                    }
                }
                1
            })
        });
        if code == 77 {
            eprintln!("skipped: no pid namespace can be made here");
            return;
        }
        assert_eq!(code, 0, "a process without a parent goes on");
    }
}
