//! cgroup v2: one folder in the unified hierarchy.

mod limits;
mod stats;

use std::fs::{File, OpenOptions};
use std::io::{Read, Seek};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;
use rkvm_oci::stats::Stats;
use rkvm_oci::{Error, Result};
use serde::{Deserialize, Serialize};

use super::tree::{self, Folder};
use super::{FREEZE_TIMEOUT, Frozen, Moment, file};

/// Controllers that are enabled for every container, because `stats` reads them.
pub(super) const COUNTED: [&str; 4] = ["cpu", "io", "memory", "pids"];

/// Enables the controllers that every container gets in the unified hierarchy at `mount`, before there is one: a container's own
/// [`create`](super::Cgroup::create) then finds them enabled. One that the kernel does not have is left out.
///
/// # Errors
/// The hierarchy's lists of controllers cannot be read.
pub fn offer_controllers(mount: &Path) -> Result<()> {
    enable_below(mount, &COUNTED).map(drop)
}

/// What a folder does for those below it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Enabled {
    All,
    Some,
}

/// Enables controllers for the cgroups below `dir`; those that it cannot enable are left out.
fn enable_below(dir: &Path, wanted: &[&str]) -> Result<Enabled> {
    let missing = missing(&file::read(dir, "cgroup.subtree_control")?, wanted);
    if missing.is_empty() || file::write(dir, "cgroup.subtree_control", missing.join(" ")).is_ok() {
        return Ok(Enabled::All);
    }
    // All or nothing failed: one that this level does not offer must not keep the others.
    for one in missing {
        let _ = file::write(dir, "cgroup.subtree_control", one);
    }
    Ok(Enabled::Some)
}

/// Which of `wanted` a list of the kernel's lacks, as it takes them.
fn missing(have: &str, wanted: &[&str]) -> Vec<String> {
    let have: Vec<&str> = have.split_whitespace().collect();
    wanted.iter().filter(|one| !have.contains(one)).map(|one| format!("+{one}")).collect()
}

/// A container's cgroup in the unified hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct V2 {
    /// Where the hierarchy is mounted.
    mount: PathBuf,
    #[serde(flatten)]
    folder: Folder,
}

impl V2 {
    /// The folder, if there is one.
    pub(super) fn locate(mount: PathBuf, relative: &Path) -> Option<Self> {
        let folder = Folder::find(&mount, relative)?;
        Some(Self { mount, folder })
    }

    /// Makes the folder.
    pub(super) fn create(mount: PathBuf, relative: &Path) -> Result<Self> {
        let (folder, _) = Folder::make(&mount, relative)?;
        Ok(Self { mount, folder })
    }

    fn dir(&self) -> &Path {
        &self.folder.path
    }

    /// The folder as clone3(2) takes it with CLONE_INTO_CGROUP.
    pub(super) fn open(&self) -> Result<OwnedFd> {
        OpenOptions::new()
            .read(true)
            .custom_flags(libc::O_PATH | libc::O_DIRECTORY)
            .open(self.dir())
            .map(OwnedFd::from)
            .map_err(|source| Error::failed("open cgroup", self.dir().display(), source))
    }

    /// Enables controllers for the cgroup in all its ancestors and returns those that it has then. One that an ancestor
    /// does not offer or cannot enable is left out; whether that is an error, the limits decide.
    fn enable(&self, wanted: &[&str]) -> Result<String> {
        let own = file::read(self.dir(), "cgroup.controllers")?;
        if missing(&own, wanted).is_empty() {
            return Ok(own);
        }
        let mut ancestors: Vec<&Path> =
            self.dir().ancestors().skip(1).take_while(|up| up.starts_with(&self.mount)).collect();
        ancestors.reverse();
        let mut all = true;
        for up in ancestors {
            all &= enable_below(up, wanted)? == Enabled::All;
        }
        if all {
            Ok(format!("{own} {}", wanted.join(" ")))
        } else {
            file::read(self.dir(), "cgroup.controllers")
        }
    }

    /// Controllers that the hierarchy has at all; none when the list cannot be read.
    pub(super) fn offered(&self) -> String {
        file::read(&self.mount, "cgroup.controllers").unwrap_or_default()
    }

    /// Applies the resources, with the controllers that they need enabled, and those in `also` where that is possible.
    pub(super) fn apply(&self, resources: &LinuxResources, moment: Moment, also: &[&str]) -> Result<()> {
        let needed = limits::controllers(resources);
        let mut wanted: Vec<&str> = needed.iter().map(|(controller, _)| controller.as_str()).collect();
        wanted.extend(also);
        if !wanted.is_empty() {
            let have = self.enable(&wanted)?;
            for (controller, field) in &needed {
                if !have.split_whitespace().any(|one| one == controller) {
                    return Err(file::no_controller(controller, field));
                }
            }
        }
        limits::apply(self.dir(), resources, moment)
    }

    pub(super) fn stats(&self) -> Result<Stats> {
        stats::read(self.dir())
    }

    pub(super) fn add_process(&self, pid: i32) -> Result<()> {
        file::write(self.dir(), "cgroup.procs", pid.to_string())
            .map_err(|error| Error::failed("add a process to cgroup", self.dir().display(), error))
    }

    pub(super) fn processes(&self) -> Result<Vec<i32>> {
        tree::processes(self.dir())
    }

    /// Freezes or thaws; `None` when the kernel cannot (before 5.2).
    pub(super) fn set_frozen(&self, wanted: Frozen) -> Option<Result<()>> {
        let (value, event) = match wanted {
            Frozen::Yes => ("1", "frozen 1"),
            Frozen::No => ("0", "frozen 0"),
        };
        match file::write(self.dir(), "cgroup.freeze", value) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return None,
            Err(error) => {
                return Some(Err(Error::failed("write", self.dir().join("cgroup.freeze").display(), error)));
            }
        }
        Some(match self.wait_for(event, FREEZE_TIMEOUT) {
            Ok(true) => Ok(()),
            Ok(false) => {
                let _ = file::write(self.dir(), "cgroup.freeze", "0");
                let error = std::io::Error::from(std::io::ErrorKind::TimedOut);
                Err(Error::failed("freeze", self.dir().display(), error)
                    .hint("a process is stuck in the kernel; it was thawed again"))
            }
            Err(error) => Err(error),
        })
    }

    pub(super) fn is_frozen(&self) -> Result<bool> {
        Ok(file::optional(self.dir(), "cgroup.freeze")?.is_some_and(|state| state.trim() == "1"))
    }

    /// Has the kernel end every process; `None` when it cannot (before 5.14).
    pub(super) fn kill(&self) -> Option<Result<()>> {
        match file::write(self.dir(), "cgroup.kill", "1") {
            Ok(()) => Some(Ok(())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && self.dir().is_dir() => None,
            // Removed already: nobody is left.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Some(Ok(())),
            Err(error) => {
                Some(Err(Error::failed("kill the processes of cgroup", self.dir().display(), error)))
            }
        }
    }

    /// Waits until no process is left; `false` when some are after `timeout`.
    pub(super) fn wait_empty(&self, timeout: Duration) -> Result<bool> {
        self.wait_for("populated 0", timeout)
    }

    /// Waits for a line of cgroup.events, which announces its changes to poll(2). A removed cgroup is empty and thawed.
    fn wait_for(&self, line: &str, timeout: Duration) -> Result<bool> {
        let deadline = Instant::now() + timeout;
        let path = self.dir().join("cgroup.events");
        let failed = |source: std::io::Error| Error::failed("watch", path.display(), source);
        let mut events = match File::open(&path) {
            Ok(events) => events,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
            Err(error) => return Err(failed(error)),
        };
        loop {
            let mut text = String::new();
            match events.rewind().and_then(|()| events.read_to_string(&mut text)) {
                Ok(_) => {}
                Err(error) if error.raw_os_error() == Some(libc::ENODEV) => return Ok(true),
                Err(error) => return Err(failed(error)),
            }
            if text.lines().any(|one| one == line) {
                return Ok(true);
            }
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(false);
            }
            let timeout = PollTimeout::try_from(left).unwrap_or(PollTimeout::MAX);
            match poll(&mut [PollFd::new(events.as_fd(), PollFlags::POLLPRI)], timeout) {
                Ok(_) | Err(nix::errno::Errno::EINTR) => {}
                Err(errno) => return Err(failed(errno.into())),
            }
        }
    }

    /// Counter of processes that the kernel killed for want of memory; `None` without memory controller.
    pub(super) fn oom_kills(&self) -> Result<Option<u64>> {
        Ok(file::optional(self.dir(), "memory.events")?.and_then(|text| file::keyed(&text, "oom_kill")))
    }

    pub(super) fn remove(&self) -> Result<()> {
        self.folder.remove()
    }
}
