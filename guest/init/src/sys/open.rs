//! Opening a file with one system call.
//!
//! The C library's open(3) sets close-on-exec once more with fcntl(2), for kernels before Linux 2.6.23, and everything in std that opens a
//! file calls it. A system call of a guest on a PVM host takes 0.085 ms, and a start opens some forty files.

use libc::{c_char, c_int, mode_t};

/// Stands for open(3) in the whole program: the linker takes this one before it looks into the C library.
///
/// open(3) is declared with a variable number of arguments; on x86-64 a caller passes the third one, if there is one, where a function with
/// three fixed arguments finds it. Without one, `mode` is whatever the register held, and the kernel looks at it only when a file is made,
/// for which callers give it.
///
/// # Safety
/// As open(3): `path` is a string that ends with a zero byte.
#[unsafe(no_mangle)]
unsafe extern "C" fn open(path: *const c_char, flags: c_int, mode: mode_t) -> c_int {
    // SAFETY: the caller's promise. The wrapper sets errno as open(3) does.
    unsafe { libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path, flags | libc::O_LARGEFILE, mode) as c_int }
}
