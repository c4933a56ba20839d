//! How a new process gets into the cgroup without anybody being moved.
//!
//! Moving a process by its id (`cgroup.procs`) takes a lock over all forks and exits of the host, whose writer waits for an
//! RCU grace period: 5 to 15 ms on an idle host. A thread that writes `0` into v1's `tasks` moves only itself and needs
//! no such lock, and on v2 clone3(2) gives birth inside the cgroup (CLONE_INTO_CGROUP). Both take microseconds.

use std::fs::File;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::errno::Errno;
use nix::unistd::write;

/// Open doors of a [`Cgroup`](super::Cgroup), for one new process. The descriptors are close-on-exec; the permission to
/// join goes by who opened them, so a process that has no privileges of its own may use them.
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

    /// Joins the v1 hierarchies: called by the new process itself, while it has one thread, and before it makes its cgroup
    /// namespace. Allocates nothing, so it may be called between `clone` and `execve`.
    ///
    /// # Errors
    /// The kernel's errno, e.g. ENOSPC for a cpuset without CPUs.
    pub fn join(&self) -> nix::Result<()> {
        for tasks in &self.tasks {
            match write(tasks, b"0") {
                Ok(1) => {}
                Ok(_) => return Err(Errno::EIO),
                Err(errno) => return Err(errno),
            }
        }
        Ok(())
    }
}
