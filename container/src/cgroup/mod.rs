//! Control groups: resource limits, device access, freezing, counting, and ending all processes at once.
//!
//! [`Cgroup`] is serialisable: the process that makes it stores it in the container's record, and later processes take it
//! from there without looking at the host's mounts again.

mod devices;
mod file;
mod host;
mod hugetlb;
mod path;
mod rdma;
mod sys;
#[cfg(test)]
mod tests;
mod tree;
mod v1;

use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rkvm_oci::signal::Signal;
use rkvm_oci::stats::Stats;
use rkvm_oci::{Error, Result};
use serde::{Deserialize, Serialize};

use v1::{Frozen, V1};

/// How long freezing waits for processes that are busy in the kernel.
const FREEZE_TIMEOUT: Duration = Duration::from_secs(2);

/// How long [`Cgroup::kill_all`] waits for killed processes to be gone.
const KILL_TIMEOUT: Duration = Duration::from_secs(10);

/// When limits are applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// To a new, empty cgroup: whatever is absent keeps the kernel's default, and devices are closed.
    Create,
    /// To a cgroup in use: whatever is absent stays as it is.
    Update,
}

/// A container's control group, in every hierarchy of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgroup {
    /// Each controller has a hierarchy of its own.
    V1(V1),
}

impl Cgroup {
    /// Makes the cgroup, empty, and applies `resources` to it; without any, devices are limited to the default ones.
    ///
    /// `cgroups_path` is `linux.cgroupsPath`: absolute below the hierarchies' roots, relative below `rkvm`, absent for
    /// `rkvm-<id>`.
    ///
    /// # Errors
    /// The path is not usable or in use, or a limit cannot be enforced on this host (the message names its field). Then
    /// nothing of the cgroup is left behind.
    pub fn create(cgroups_path: Option<&Path>, id: &str, resources: Option<&LinuxResources>) -> Result<Self> {
        let relative = path::resolve(cgroups_path, id)?;
        let mounts = host::discover()?;
        let cgroup = Self::V1(V1::create(mounts.v1, &relative)?);
        let none = LinuxResources::default();
        if let Err(error) = cgroup.apply(resources.unwrap_or(&none), Moment::Create) {
            // The limit is what the user must hear about.
            let _ = cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    fn apply(&self, resources: &LinuxResources, moment: Moment) -> Result<()> {
        match self {
            Self::V1(v1) => v1.apply(resources, moment),
        }
    }

    /// Changes limits; fields that are absent stay as they are.
    ///
    /// # Errors
    /// A limit that the kernel refuses or this host cannot enforce, named.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.apply(resources, Moment::Update)
    }

    /// Moves a process, with all its threads, into the cgroup. Its children are born there.
    ///
    /// # Errors
    /// The process is gone, or a hierarchy refuses it.
    pub fn add_process(&self, pid: i32) -> Result<()> {
        match self {
            Self::V1(v1) => v1.add_process(pid),
        }
    }

    /// Process ids, on the host, of every process in the cgroup and below it; none once it is removed.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        match self {
            Self::V1(v1) => v1.processes(),
        }
    }

    /// Stops every process until [`Cgroup::thaw`]. Returns when all of them stand still.
    ///
    /// # Errors
    /// The host has no freezer, or a process does not stop in time; then all run on.
    pub fn freeze(&self) -> Result<()> {
        self.set_frozen(Frozen::Yes)
    }

    /// Lets the processes run again.
    ///
    /// # Errors
    /// The host has no freezer.
    pub fn thaw(&self) -> Result<()> {
        self.set_frozen(Frozen::No)
    }

    fn set_frozen(&self, wanted: Frozen) -> Result<()> {
        match self {
            Self::V1(v1) => v1.set_frozen(wanted),
        }
        .unwrap_or_else(|| {
            Err(Error::unsupported(
                "pause and resume",
                "this host has no cgroup freezer; mount it, or cgroup v2",
            ))
        })
    }

    /// Whether the processes are frozen; `false` for a removed cgroup and on a host without a freezer.
    ///
    /// # Errors
    /// The state cannot be read.
    pub fn is_frozen(&self) -> Result<bool> {
        match self {
            Self::V1(v1) => v1.is_frozen(),
        }
    }

    /// Resource use so far.
    ///
    /// # Errors
    /// A counter cannot be read. One that the host does not have is `None`.
    pub fn stats(&self) -> Result<Stats> {
        match self {
            Self::V1(v1) => v1.stats(),
        }
    }

    /// How many of its processes the kernel has killed for want of memory; `None` where it does not count them. The
    /// count ends with the cgroup: read it before [`Cgroup::remove`].
    ///
    /// # Errors
    /// The counter cannot be read.
    pub fn oom_kills(&self) -> Result<Option<u64>> {
        match self {
            Self::V1(v1) => v1.oom_kills(),
        }
    }

    /// Sends a signal to every process, once. Processes are frozen meanwhile where that is possible, so that none
    /// escapes by forking.
    ///
    /// # Errors
    /// The list of processes cannot be read.
    pub fn signal_all(&self, signal: Signal) -> Result<()> {
        let frozen_before = self.is_frozen()?;
        let frozen = frozen_before || self.freeze().is_ok();
        let sent = self.processes().map(|pids| {
            for pid in pids {
                // One that has ended meanwhile needs no signal.
                let _ = sys::kill(pid, signal);
            }
        });
        // A frozen v1 process does not even die.
        if frozen && (!frozen_before || signal == Signal::KILL) {
            self.thaw()?;
        }
        sent
    }

    /// Ends every process with SIGKILL and waits until all have left the cgroup.
    ///
    /// # Errors
    /// Processes remain after [`KILL_TIMEOUT`] (stuck in the kernel); the message lists them.
    pub fn kill_all(&self) -> Result<()> {
        let deadline = Instant::now() + KILL_TIMEOUT;
        let mut pause = Duration::from_micros(50);
        loop {
            let pids = self.processes()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(Error::failed(
                    "kill",
                    format!("processes {pids:?}"),
                    std::io::Error::from(std::io::ErrorKind::TimedOut),
                )
                .hint("they are stuck in the kernel; a device or network file system may not answer"));
            }
            self.signal_all(Signal::KILL)?;
            thread::sleep(pause);
            pause = (pause * 2).min(Duration::from_millis(10));
        }
    }

    /// Removes the cgroup from every hierarchy, with the cgroups that the container made below it. Removing it again is
    /// fine.
    ///
    /// # Errors
    /// A process is still in it; the message names it.
    pub fn remove(&self) -> Result<()> {
        match self {
            Self::V1(v1) => v1.remove(),
        }
    }
}
