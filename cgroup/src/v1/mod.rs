//! cgroup v1: one folder per hierarchy.

mod limits;
mod stats;

use std::fs::{File, OpenOptions};
use std::path::Path;
use std::thread;
use std::time::{Duration, Instant};

use oci_spec::runtime::LinuxResources;
use rkvm_oci::stats::Stats;
use rkvm_oci::{Error, Result};
use serde::{Deserialize, Serialize};

use super::host::V1Mount;
use super::tree::{self, Folder, Made};
use super::{FREEZE_TIMEOUT, Frozen, Moment, file};

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
    /// The folders that there are; `None` when there is none.
    pub(super) fn locate(mounts: Vec<V1Mount>, relative: &Path) -> Option<Self> {
        let found = mounts.into_iter().filter_map(|V1Mount { controllers, mount }| {
            Some(Hierarchy { controllers, folder: Folder::find(&mount, relative)? })
        });
        let hierarchies: Vec<Hierarchy> = found.collect();
        (!hierarchies.is_empty()).then_some(Self { hierarchies })
    }

    /// Makes the folder in every hierarchy.
    pub(super) fn create(mounts: Vec<V1Mount>, relative: &Path) -> Result<Self> {
        let mut made = Self { hierarchies: Vec::with_capacity(mounts.len()) };
        for V1Mount { controllers, mount } in mounts {
            let cpuset = controllers.split(',').any(|one| one == "cpuset");
            let result = Folder::make(&mount, relative).and_then(|(folder, newness)| {
                made.hierarchies.push(Hierarchy { controllers, folder });
                if cpuset { inherit_cpuset(&mount.join(relative), &mount, newness) } else { Ok(()) }
            });
            if let Err(error) = result {
                made.remove()?;
                return Err(error);
            }
        }
        Ok(made)
    }

    /// The files through which a thread moves itself into each hierarchy.
    pub(super) fn open(&self) -> Result<Vec<File>> {
        self.hierarchies
            .iter()
            .map(|hierarchy| {
                let path = hierarchy.folder.path.join("tasks");
                OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .map_err(|source| Error::failed("open", path.display(), source))
            })
            .collect()
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

    /// Whether the processes are frozen; `None` when no freezer is mounted.
    pub(super) fn frozen(&self) -> Option<Result<bool>> {
        let state = file::optional(self.dir("freezer")?, "freezer.state");
        Some(state.map(|state| state.is_some_and(|state| state.trim() != "THAWED")))
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
fn inherit_cpuset(dir: &Path, mount: &Path, made: Made) -> Result<()> {
    for name in ["cpuset.cpus", "cpuset.mems"] {
        match (made, dir.parent()) {
            (Made::New, Some(parent)) => {
                let value = inherit(parent, mount, name)?;
                fill(dir, name, &value)?;
            }
            _ => {
                inherit(dir, mount, name)?;
            }
        }
    }
    Ok(())
}

fn inherit(dir: &Path, mount: &Path, name: &str) -> Result<String> {
    let own = file::read(dir, name)?;
    let Some(parent) = dir.parent().filter(|_| own.trim().is_empty() && dir != mount) else { return Ok(own) };
    let value = inherit(parent, mount, name)?;
    fill(dir, name, &value)?;
    Ok(value)
}

fn fill(dir: &Path, name: &str, value: &str) -> Result<()> {
    file::write(dir, name, value.trim())
        .map_err(|error| Error::failed("initialise", dir.join(name).display(), error))
}
