//! Opening a file with one system call.
//!
//! The C library's open(3) sets close-on-exec once more with fcntl(2), for kernels before Linux 2.6.23, and everything in std that opens a
//! file calls it. A system call of a guest on a PVM host takes 0.085 ms, and a start opens some twenty files.

use libc::{c_char, c_int, mode_t};

// Stands for open(3) in the whole program: the linker takes this one before it looks into the C library. open(3) is declared with a variable
// number of arguments, which Rust cannot define; in the machine's calling convention (System V ABI for x86-64, section 3.2.3) the third one
// lies where a function of three arguments finds it. In assembler, so that the compiler never sees a definition that differs from the
// declaration.
std::arch::global_asm!(".globl open", ".type open, @function", "open:", "jmp {open_at}", open_at = sym open_at);

/// What open(3) does. Without a third argument, `mode` is whatever the register held: the kernel looks at it only when a file is made, for
/// which callers give it.
///
/// # Safety
/// `path` is a string that ends with a zero byte.
unsafe extern "C" fn open_at(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's promise. The wrapper sets errno as open(3) does.
    unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags | libc::O_LARGEFILE, mode) as c_int }
}

#[cfg(test)]
mod tests {
    use std::ffi::CString;
    use std::fs;
    use std::io;
    use std::os::fd::{FromRawFd as _, OwnedFd};
    use std::os::unix::ffi::OsStrExt as _;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn files_are_opened_made_and_refused() {
        let folder = std::env::temp_dir().join(format!("rkvm-open-{}", std::process::id()));
        fs::create_dir(&folder).unwrap();
        let path = folder.join("file");
        let name = CString::new(path.as_os_str().as_bytes()).unwrap();
        let open = |flags: libc::c_int| {
            // SAFETY: the string lives through the call, and a descriptor that it gives is nobody else's.
            unsafe {
                match libc::open(name.as_ptr(), flags | libc::O_CLOEXEC, 0o640) {
                    -1 => Err(io::Error::last_os_error().raw_os_error()),
                    descriptor => Ok(OwnedFd::from_raw_fd(descriptor)),
                }
            }
        };
        let make = libc::O_WRONLY | libc::O_CREAT | libc::O_EXCL;
        let results = [libc::O_RDONLY, make, make, libc::O_RDONLY].map(|flags| open(flags).map(drop));
        let mode = fs::metadata(&path).map(|status| status.permissions().mode() & 0o777);
        fs::remove_dir_all(&folder).unwrap();
        assert_eq!(results, [Err(Some(libc::ENOENT)), Ok(()), Err(Some(libc::EEXIST)), Ok(())]);
        assert_eq!(mode.unwrap(), 0o640);
    }
}
