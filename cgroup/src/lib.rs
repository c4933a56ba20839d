//! Control groups: resource limits, device access, freezing, counting, and ending all processes at once.
//!
//! [`Cgroup`] is serialisable: the process that makes it stores it in the container's record, and later processes take it
//! from there without looking at the host's mounts again.

mod devices;
mod entrance;
mod file;
mod host;
mod hugetlb;
mod hybrid;
mod path;
mod rdma;
mod sys;
#[cfg(test)]
mod tests;
mod tree;
mod v1;
mod v2;

use std::io;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rkvm_oci::signal::Signal;
use rkvm_oci::stats::Stats;
use rkvm_oci::{Error, Result};
use serde::{Deserialize, Serialize};

pub use entrance::{Born, Entrance};
pub use host::is_unified;
pub use v1::V1;
pub use v2::{V2, offer_controllers};

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

/// What becomes of the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Frozen {
    Yes,
    No,
}

/// A container's control group, in every hierarchy of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Cgroup {
    /// Each controller has a hierarchy of its own.
    V1(V1),
    /// One hierarchy for all controllers.
    V2(V2),
    /// v1 hierarchies beside the unified one, which has the controllers that no v1 hierarchy has; often none.
    Hybrid(V1, V2),
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
        let host::Mounts { v1, v2 } = host::discover()?;
        let cgroup = match v2 {
            None => Self::V1(V1::create(v1, &relative)?),
            Some(mount) if v1.is_empty() => Self::V2(V2::create(mount, &relative)?),
            Some(mount) => {
                let v1 = V1::create(v1, &relative)?;
                match V2::create(mount, &relative) {
                    Ok(v2) => Self::Hybrid(v1, v2),
                    Err(error) => {
                        v1.remove()?;
                        return Err(error);
                    }
                }
            }
        };
        let mut resources = resources.cloned().unwrap_or_default();
        // Devices are closed whether the rules are absent or empty.
        resources.devices_mut().get_or_insert_default();
        if let Err(error) = cgroup.apply(&resources, Moment::Create) {
            // The limit is what the user must hear about.
            let _ = cgroup.remove();
            return Err(error);
        }
        Ok(cgroup)
    }

    /// The cgroup that [`Cgroup::create`] with the same path and id made, wholly or in part; `None` when there is nothing of it.
    ///
    /// # Errors
    /// The path is not usable, or the host's hierarchies cannot be listed.
    pub fn locate(cgroups_path: Option<&Path>, id: &str) -> Result<Option<Self>> {
        let relative = path::resolve(cgroups_path, id)?;
        let host::Mounts { v1, v2 } = host::discover()?;
        let v1 = V1::locate(v1, &relative);
        let v2 = v2.and_then(|mount| V2::locate(mount, &relative));
        Ok(match (v1, v2) {
            (Some(v1), Some(v2)) => Some(Self::Hybrid(v1, v2)),
            (Some(v1), None) => Some(Self::V1(v1)),
            (None, Some(v2)) => Some(Self::V2(v2)),
            (None, None) => None,
        })
    }

    fn apply(&self, resources: &LinuxResources, moment: Moment) -> Result<()> {
        match self {
            Self::V1(v1) => v1.apply(resources, moment),
            Self::V2(v2) => match moment {
                Moment::Create => v2.apply(resources, moment, &v2::COUNTED),
                Moment::Update => v2.apply(resources, moment, &[]),
            },
            Self::Hybrid(v1, v2) => hybrid::apply(v1, v2, resources, moment),
        }
    }

    fn v1(&self) -> Option<&V1> {
        match self {
            Self::V1(v1) | Self::Hybrid(v1, _) => Some(v1),
            Self::V2(_) => None,
        }
    }

    fn v2(&self) -> Option<&V2> {
        match self {
            Self::V2(v2) | Self::Hybrid(_, v2) => Some(v2),
            Self::V1(_) => None,
        }
    }

    /// Changes limits; fields that are absent stay as they are.
    ///
    /// # Errors
    /// A limit that the kernel refuses or this host cannot enforce, named.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        self.apply(resources, Moment::Update)
    }

    /// Opens the way into the cgroup for a new process; see [`Entrance`].
    ///
    /// # Errors
    /// The cgroup is gone.
    pub fn entrance(&self) -> Result<Entrance> {
        Ok(Entrance {
            tasks: self.v1().map_or(Ok(vec![]), V1::open)?,
            unified: self.v2().map(V2::open).transpose()?,
        })
    }

    /// Moves a running process, with all its threads, into the cgroup; its children are born there. Slower by
    /// milliseconds than a new process's [`Entrance`].
    ///
    /// # Errors
    /// The process is gone, or a hierarchy refuses it.
    pub fn add_process(&self, pid: i32) -> Result<()> {
        self.v1().map_or(Ok(()), |v1| v1.add_process(pid))?;
        self.v2().map_or(Ok(()), |v2| v2.add_process(pid))
    }

    /// Process ids, on the host, of every process in the cgroup and below it; none once it is removed.
    ///
    /// # Errors
    /// The list cannot be read.
    pub fn processes(&self) -> Result<Vec<i32>> {
        match self {
            Self::V1(v1) => v1.processes(),
            Self::V2(v2) | Self::Hybrid(_, v2) => v2.processes(),
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
        self.v1()
            .and_then(|v1| v1.set_frozen(wanted))
            .or_else(|| self.v2().and_then(|v2| v2.set_frozen(wanted)))
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
        if let Some(state) = self.v1().and_then(V1::frozen) {
            return state;
        }
        self.v2().map_or(Ok(false), V2::is_frozen)
    }

    /// Resource use so far.
    ///
    /// # Errors
    /// A counter cannot be read. One that the host does not have is `None`.
    pub fn stats(&self) -> Result<Stats> {
        match self {
            Self::V1(v1) => v1.stats(),
            Self::V2(v2) => v2.stats(),
            Self::Hybrid(v1, v2) => Ok(hybrid::join(v1.stats()?, v2.stats()?)),
        }
    }

    /// How many of its processes the kernel has killed for want of memory; `None` where it does not count them. The
    /// count ends with the cgroup: read it before [`Cgroup::remove`].
    ///
    /// # Errors
    /// The counter cannot be read.
    pub fn oom_kills(&self) -> Result<Option<u64>> {
        if let Some(kills) = self.v1().map_or(Ok(None), V1::oom_kills)? {
            return Ok(Some(kills));
        }
        self.v2().map_or(Ok(None), V2::oom_kills)
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
    /// Processes remain after ten seconds (stuck in the kernel); the message lists them.
    pub fn kill_all(&self) -> Result<()> {
        let deadline = Instant::now() + KILL_TIMEOUT;
        if let Some(v2) = self.v2()
            && let Some(killed) = v2.kill()
        {
            killed?;
            if self.v1().and_then(V1::frozen).transpose()? == Some(true) {
                self.thaw()?;
            }
            if v2.wait_empty(KILL_TIMEOUT)? {
                return Ok(());
            }
        }
        let mut pause = Duration::from_micros(50);
        loop {
            let pids = self.processes()?;
            if pids.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                let error = io::Error::from(io::ErrorKind::TimedOut);
                return Err(Error::failed("kill", format!("processes {pids:?}"), error)
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
        let v1 = self.v1().map_or(Ok(()), V1::remove);
        let v2 = self.v2().map_or(Ok(()), V2::remove);
        v1.and(v2)
    }
}
