//! How a new process gets into the cgroup without anybody being moved.
//!
//! Moving a process by its id (`cgroup.procs`) takes a lock over all forks and exits of the host, whose writer waits for an
//! RCU grace period: 5 to 15 ms on an idle host. A thread that writes `0` into v1's `tasks` moves only itself and needs
//! no such lock, and on v2 clone3(2) gives birth inside the cgroup (CLONE_INTO_CGROUP). Both take microseconds.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use nix::unistd::write;

/// Where a process that uses an [`Entrance`] comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Born {
    /// From clone3 with CLONE_INTO_CGROUP: it is in the unified hierarchy already.
    Inside,
    /// From a plain fork.
    Outside,
}

/// Open doors of a [`Cgroup`](super::Cgroup), for new processes. The descriptors are close-on-exec; the permission to join
/// v1 goes by who opened them, so a process that has no privileges of its own may use them.
#[derive(Debug)]
pub struct Entrance {
    pub(super) tasks: Vec<File>,
    pub(super) unified: Option<OwnedFd>,
}

impl Entrance {
    /// Descriptor for the field `cgroup` of clone3's arguments, with the flag CLONE_INTO_CGROUP; `None` on a host without
    /// the unified hierarchy.
    pub fn clone_into(&self) -> Option<BorrowedFd<'_>> {
        self.unified.as_ref().map(AsFd::as_fd)
    }

    /// Joins the hierarchies: called by the new process itself, while it has one thread and its first user id, and before it
    /// makes its cgroup namespace.
    ///
    /// # Errors
    /// The kernel's errno, e.g. ENOSPC for a cpuset without CPUs.
    pub fn join(&self, born: Born) -> nix::Result<()> {
        if let (Born::Outside, Some(unified)) = (born, &self.unified) {
            let procs = openat(unified, "cgroup.procs", OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
            enter(&procs)?;
        }
        self.tasks.iter().try_for_each(enter)
    }
}

fn enter(file: impl AsFd) -> nix::Result<()> {
    match write(file, b"0")? {
        1 => Ok(()),
        _ => Err(Errno::EIO),
    }
}
