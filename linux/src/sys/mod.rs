//! System calls that neither std nor nix wraps, one safe function each. The only place of this crate with `unsafe`.

use std::ffi::CString;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

pub mod exe;
pub mod fs;
pub mod memory;
pub mod mount;
pub mod process;
pub mod pty;
pub mod spawn;

/// The result of a raw system call.
fn check(result: libc::c_long) -> io::Result<libc::c_long> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// `text` for the kernel.
///
/// # Errors
/// It contains a NUL byte.
pub fn c_string(text: impl AsRef<[u8]>) -> io::Result<CString> {
    CString::new(text.as_ref()).map_err(|_| io::Error::from_raw_os_error(libc::EINVAL))
}

/// `path` for the kernel.
///
/// # Errors
/// It contains a NUL byte.
pub fn c_path(path: &Path) -> io::Result<CString> {
    c_string(path.as_os_str().as_bytes())
}
