//! Whether a container's monitor lives: it holds a POSIX record lock for as long as it does.
//!
//! A record lock belongs to the process, not to the descriptor: children do not inherit it, the kernel drops it however the
//! process ends, and asking for it names the holder. A pid file can do none of this.

use std::fs::{File, OpenOptions};
use std::io;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, fcntl};

use crate::error::{Error, Result};

/// The lock that a monitor holds while it lives. Closing *any* descriptor of the lock file in the monitor would drop the lock.
#[derive(Debug)]
pub struct MonitorLock {
    _file: File,
}

/// Name of the lock file in a monitor's folder.
const LOCK: &str = "lock";

fn whole_file(kind: i32) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Takes the monitor's lock in `folder`, making the folder; `None` when another process has it.
///
/// # Errors
/// The folder or file cannot be made.
pub fn acquire(folder: &Path) -> Result<Option<MonitorLock>> {
    std::fs::create_dir_all(folder).map_err(|source| Error::file("create", folder, source))?;
    let path = folder.join(LOCK);
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(&path)
        .map_err(|source| Error::file("open", &path, source))?;
    match fcntl(&file, FcntlArg::F_SETLK(&whole_file(libc::F_WRLCK))) {
        Ok(_) => Ok(Some(MonitorLock { _file: file })),
        Err(Errno::EAGAIN | Errno::EACCES) => Ok(None),
        Err(errno) => Err(Error::file("lock", path, errno)),
    }
}

/// Process id of the monitor whose folder this is; `None` when there is none.
///
/// # Errors
/// The lock file is there but cannot be asked.
pub fn holder(folder: &Path) -> Result<Option<i32>> {
    let path = folder.join(LOCK);
    let file = match OpenOptions::new().write(true).open(&path) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(source) => return Err(Error::file("open", path, source)),
    };
    let mut lock = whole_file(libc::F_WRLCK);
    fcntl(&file, FcntlArg::F_GETLK(&mut lock)).map_err(|errno| Error::file("ask", &path, errno))?;
    Ok((i32::from(lock.l_type) != libc::F_UNLCK).then_some(lock.l_pid))
}
