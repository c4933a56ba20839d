//! cgroup v1: one folder per hierarchy.

mod limits;
mod stats;

use std::fs;
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rkvm_oci::stats::Stats;
use rkvm_oci::{Error, Result};
use serde::{Deserialize, Serialize};

use super::host::V1Mount;
use super::tree::{self, Folder};
use super::{FREEZE_TIMEOUT, Moment, file};

/// A container's cgroup in every v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct V1 {
    hierarchies: Vec<Hierarchy>,
}

/// The part of it in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
struct Hierarchy {
    /// As the kernel lists them: `memory`, `cpu,cpuacct`, `name=systemd`.
    controllers: String,
    #[serde(flatten)]
    folder: Folder,
}

impl V1 {
    /// Makes the folder in every hierarchy.
    pub(super) fn create(mounts: Vec<V1Mount>, relative: &Path) -> Result<Self> {
        let mut made = Self { hierarchies: Vec::with_capacity(mounts.len()) };
        for V1Mount { controllers, mount } in mounts {
            let cpuset = controllers.split(',').any(|one| one == "cpuset");
            match Folder::make(&mount, relative) {
                Ok(folder) => made.hierarchies.push(Hierarchy { controllers, folder }),
                Err(error) => {
                    made.remove()?;
                    return Err(error);
                }
            }
            if cpuset && let Err(error) = inherit_cpuset(&mount.join(relative), &mount) {
                made.remove()?;
                return Err(error);
            }
        }
        Ok(made)
    }

    /// Folder of the hierarchy that has `controller`.
    fn dir(&self, controller: &str) -> Option<&Path> {
        self.hierarchies
            .iter()
            .find(|one| one.controllers.split(',').any(|name| name == controller))
            .map(|one| one.folder.path.as_path())
    }

    pub(super) fn has(&self, controller: &str) -> bool {
        self.dir(controller).is_some()
    }

    pub(super) fn apply(&self, resources: &LinuxResources, moment: Moment) -> Result<()> {
        limits::apply(self, resources, moment)
    }

    pub(super) fn stats(&self) -> Result<Stats> {
        stats::read(self)
    }

    pub(super) fn add_process(&self, pid: i32) -> Result<()> {
        let pid = pid.to_string();
        for hierarchy in &self.hierarchies {
            let path = &hierarchy.folder.path;
            file::write(path, "cgroup.procs", &pid)
                .map_err(|error| Error::failed("add a process to cgroup", path.display(), error))?;
        }
        Ok(())
    }

    /// A folder that lists the processes: any hierarchy does, the freezer's first.
    fn any(&self) -> Option<&Path> {
        self.dir("freezer").or_else(|| self.hierarchies.first().map(|one| one.folder.path.as_path()))
    }

    pub(super) fn processes(&self) -> Result<Vec<i32>> {
        self.any().map_or(Ok(vec![]), tree::processes)
    }

    /// Freezes or thaws; `None` when no freezer is mounted.
    pub(super) fn set_frozen(&self, wanted: Frozen) -> Option<Result<()>> {
        let dir = self.dir("freezer")?;
        Some(match wanted {
            Frozen::Yes => freeze(dir),
            Frozen::No => state(dir, "THAWED"),
        })
    }

    pub(super) fn is_frozen(&self) -> Result<bool> {
        let Some(dir) = self.dir("freezer") else { return Ok(false) };
        Ok(file::optional(dir, "freezer.state")?.is_some_and(|state| state.trim() != "THAWED"))
    }

    /// Counter of processes that the kernel killed for want of memory; `None` when no memory controller is mounted.
    pub(super) fn oom_kills(&self) -> Result<Option<u64>> {
        let Some(dir) = self.dir("memory") else { return Ok(None) };
        Ok(file::optional(dir, "memory.oom_control")?.and_then(|text| file::keyed(&text, "oom_kill")))
    }

    pub(super) fn remove(&self) -> Result<()> {
        // Every hierarchy is tried, so that one that is stuck does not keep the others.
        let mut result = Ok(());
        for hierarchy in &self.hierarchies {
            result = result.and(hierarchy.folder.remove());
        }
        result
    }
}

/// What [`V1::set_frozen`] makes of the processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Frozen {
    Yes,
    No,
}

fn state(dir: &Path, value: &str) -> Result<()> {
    file::write(dir, "freezer.state", value)
        .map_err(|error| Error::failed("write", dir.join("freezer.state").display(), error))
}

/// Freezing is a request: the state stays FREEZING while a process is on its way, and a process forked meanwhile can
/// keep it there for good, which writing the request again resolves.
fn freeze(dir: &Path) -> Result<()> {
    let deadline = Instant::now() + FREEZE_TIMEOUT;
    let mut pause = Duration::from_micros(20);
    loop {
        state(dir, "FROZEN")?;
        if file::read(dir, "freezer.state")?.trim() == "FROZEN" {
            return Ok(());
        }
        if Instant::now() >= deadline {
            state(dir, "THAWED")?;
            return Err(Error::failed(
                "freeze",
                dir.display(),
                std::io::Error::from(std::io::ErrorKind::TimedOut),
            )
            .hint("a process is stuck in the kernel; it was thawed again"));
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}

/// A new cpuset has neither CPUs nor memory nodes, and accepts no process until it has: what is empty is copied from
/// the parent, up to the mount point.
fn inherit_cpuset(dir: &Path, mount: &Path) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        inherit(dir, mount, name)?;
    }
    Ok(())
}

fn inherit(dir: &Path, mount: &Path, name: &str) -> Result<String> {
    let copied = |error| Error::failed("initialise", dir.join(name).display(), error);
    let own = fs::read_to_string(dir.join(name)).map_err(copied)?;
    let Some(parent) = dir.parent().filter(|_| own.trim().is_empty() && dir != mount) else { return Ok(own) };
    let value = inherit(parent, mount, name)?;
    file::write(dir, name, value.trim()).map_err(copied)?;
    Ok(value)
}
