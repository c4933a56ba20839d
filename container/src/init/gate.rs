//! The gate between `create` and `start`: two fifos in the state folder.
//!
//! The process holds both open from its birth, waits for a byte in one, and the other tells `start` how execve
//! went: closed (by close-on-exec) means done, text means the reason. Only `read` and `write` are needed inside, which
//! every seccomp profile allows, and a process that has died is seen at once because nobody reads its fifo any more.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::stat::Mode;
use rkvm_oci::{Error, Result};

use rkvm_oci::failure::Failure;

use super::leftovers::{Change, Leftovers};

const START: &str = "start.fifo";
const RESULT: &str = "exec.fifo";

/// The process's side.
#[derive(Debug)]
pub struct Gate {
    start: File,
    result: File,
}

fn both_ways(path: &Path) -> Result<File> {
    OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_CLOEXEC)
        .open(path)
        .map_err(|source| Error::failed("open", path.display(), source))
}

impl Gate {
    /// Makes the fifos in `state_dir` and opens them.
    ///
    /// # Errors
    /// The folder cannot be written.
    pub fn make(state_dir: &Path) -> Result<Self> {
        let open = |name: &str| {
            let path = state_dir.join(name);
            nix::unistd::mkfifo(&path, Mode::from_bits_truncate(0o600))
                .map_err(|source| Error::failed("make", path.display(), source))?;
            both_ways(&path)
        };
        Ok(Self { start: open(START)?, result: open(RESULT)? })
    }

    /// Replaces its descriptors by those that `change` gives.
    ///
    /// # Errors
    /// Those of `change`.
    pub fn change(&mut self, change: &mut Change<'_>, left: &Leftovers) -> Result<()> {
        for file in [&mut self.start, &mut self.result] {
            if let Some(other) = change(file.as_fd())? {
                left.add(std::mem::replace(file, other.into()).into());
            }
        }
        Ok(())
    }

    /// Waits for `start`.
    ///
    /// # Errors
    /// The fifo failed.
    pub fn wait(&mut self) -> Result<()> {
        self.start
            .read_exact(&mut [0u8])
            .map_err(|source| Error::failed("wait for", "the start command", source))
    }

    /// Tells `start` why the program does not run.
    pub fn fail(&mut self, error: Error) {
        let text = serde_json::to_vec(&Failure::from(error)).unwrap_or_default();
        // The process ends next; there is nobody else to tell.
        let _ = self.result.write_all(&text);
    }
}

/// Opens the gate of the container in `state_dir`, whose init is `process` (a pidfd), and waits until its program runs.
///
/// # Errors
/// The process has ended, or its program cannot be executed.
pub fn open(state_dir: &Path, process: &OwnedFd) -> Result<()> {
    let fifo = |name: &str| -> PathBuf { state_dir.join(name) };
    let gone = |source: nix::Error| {
        Error::failed("start", state_dir.display(), source)
            .hint("the container's init process has ended before it was started; delete the container")
    };
    let result = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(fifo(RESULT))
        .map_err(|source| Error::failed("open", fifo(RESULT).display(), source))?;
    let mut start = OpenOptions::new()
        .write(true)
        .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
        .open(fifo(START))
        .map_err(|_| gone(nix::Error::ESRCH))?;
    start.write_all(b"s").map_err(|_| gone(nix::Error::EPIPE))?;
    let mut text = Vec::new();
    loop {
        let mut waited =
            [PollFd::new(result.as_fd(), PollFlags::POLLIN), PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        match poll(&mut waited, PollTimeout::NONE) {
            Err(nix::Error::EINTR) => continue,
            Err(errno) => return Err(gone(errno)),
            Ok(_) => {}
        }
        let events = waited[0].revents().unwrap_or(PollFlags::empty());
        if events.contains(PollFlags::POLLIN) {
            let mut buffer = [0u8; 4096];
            if let Ok(length) = (&result).read(&mut buffer) {
                text.extend_from_slice(&buffer[..length]);
            }
        } else if events.contains(PollFlags::POLLHUP) {
            break;
        } else if waited[1].any() == Some(true) {
            // Killed between the two, so that neither program nor reason came; the fifo was closed first otherwise.
            if text.is_empty() && !hung_up(&result) {
                return Err(gone(nix::Error::ESRCH));
            }
            break;
        }
    }
    for name in [START, RESULT] {
        let _ = std::fs::remove_file(fifo(name));
    }
    if text.is_empty() {
        return Ok(());
    }
    match serde_json::from_slice::<Failure>(&text) {
        Ok(failure) => Err(failure.into()),
        Err(source) => Err(Error::Malformed { path: fifo(RESULT), source }),
    }
}

fn hung_up(fifo: &File) -> bool {
    let mut waited = [PollFd::new(fifo.as_fd(), PollFlags::POLLIN)];
    poll(&mut waited, PollTimeout::ZERO).is_ok()
        && waited[0].revents().is_some_and(|events| events.contains(PollFlags::POLLHUP))
}
