//! System calls without a safe wrapper: the floor's child.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::ptr;

/// Runs `/true` of `rootfs` in six new namespaces with `rootfs` as root, and waits. 0, or the number of the step of the
/// child that failed.
pub fn run_in_namespaces(rootfs: &Path) -> i32 {
    let rootfs = CString::new(rootfs.as_os_str().as_bytes()).expect("path without NUL");
    let argv = [c"/true".as_ptr(), ptr::null()];
    let envp = [ptr::null()];
    let namespaces = libc::CLONE_NEWPID
        | libc::CLONE_NEWNET
        | libc::CLONE_NEWNS
        | libc::CLONE_NEWUTS
        | libc::CLONE_NEWIPC
        | libc::CLONE_NEWUSER;
    // SAFETY: all fields of `clone_args` are integers, for which zero is valid (clone(2)).
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = namespaces as u64;
    args.exit_signal = libc::SIGCHLD as u64;
    // SAFETY: without CLONE_VM and with a zero stack, clone3 is fork(2): the child has a copy of everything, and calls nothing but
    // async-signal-safe functions on memory that was prepared before.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, &raw mut args, size_of::<libc::clone_args>()) };
    assert!(pid >= 0, "clone3: {}", std::io::Error::last_os_error());
    if pid == 0 {
        let none = ptr::null::<libc::c_char>();
        // SAFETY: the strings and arrays end with NUL and live until execve or _exit; no call here keeps a pointer.
        unsafe {
            let here = c".".as_ptr();
            let check = |step: i32, result: libc::c_long| {
                if result != 0 {
                    libc::_exit(step);
                }
            };
            let private = libc::MS_REC | libc::MS_PRIVATE;
            check(1, libc::mount(none, c"/".as_ptr(), none, private, ptr::null()).into());
            check(2, libc::mount(rootfs.as_ptr(), rootfs.as_ptr(), none, libc::MS_BIND, ptr::null()).into());
            check(3, libc::chdir(rootfs.as_ptr()).into());
            check(4, libc::syscall(libc::SYS_pivot_root, here, here));
            check(5, libc::umount2(here, libc::MNT_DETACH).into());
            libc::execve(argv[0], argv.as_ptr(), envp.as_ptr());
            libc::_exit(6);
        }
    }
    let mut status = 0;
    // SAFETY: `status` lives until the call returns.
    let waited = unsafe { libc::waitpid(pid as libc::pid_t, &raw mut status, 0) };
    assert_eq!(i64::from(waited), pid, "waitpid: {}", std::io::Error::last_os_error());
    if libc::WIFEXITED(status) { libc::WEXITSTATUS(status) } else { -1 }
}
