//! A container that exists: signals, waiting, pausing, deleting.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::LinuxResources;
use rkvm_linux::wait::wait_for;
use rkvm_oci::process::ProcessInfo;
use rkvm_oci::runtime::process_start;
use rkvm_oci::stats::Stats;
use rkvm_oci::timeline::Phase;
use rkvm_oci::{
    Error, ExecProcess, ExecRequest, ExitStatus, KillScope, Record, Result, Signal, Status, Timeline,
    Workload,
};
use serde::{Deserialize, Serialize};

use crate::Binary;
use crate::create::{self, Created};
use crate::exec;
use crate::init::gate;
use crate::sync::Channel;
use rkvm_cgroup::Cgroup;
use rkvm_linux::sys::spawn;

/// What is kept in the container's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stored {
    /// Its cgroup; none for a rootless container without limits.
    pub cgroup: Option<Cgroup>,
    /// `CLONE_NEW*` flags of the namespaces that it does not share with the runtime that made it.
    pub namespaces: i32,
}

/// A container.
#[derive(Debug)]
pub struct Container {
    id: String,
    bundle: PathBuf,
    state_dir: PathBuf,
    pid: i32,
    /// The init process while it lives.
    process: Option<OwnedFd>,
    stored: Stored,
    /// The conversation with an init process that is not recorded yet.
    channel: Option<Channel>,
    binary: Binary,
}

impl Container {
    /// The container that `create` has just made.
    pub fn created(id: &str, bundle: &Path, state_dir: &Path, created: Created, binary: Binary) -> Self {
        Self {
            id: id.to_owned(),
            bundle: bundle.to_owned(),
            state_dir: state_dir.to_owned(),
            pid: created.pid,
            process: Some(created.process),
            stored: Stored { cgroup: created.cgroup, namespaces: created.namespaces },
            channel: Some(created.channel),
            binary,
        }
    }

    /// The container of a record.
    ///
    /// # Errors
    /// The record is another backend's.
    pub fn open(record: &Record, state_dir: &Path, binary: Binary) -> Result<Self> {
        let stored = serde_json::from_value(record.backend.clone())
            .map_err(|source| Error::Malformed { path: state_dir.join("state.json"), source })?;
        // The pidfd first, then the start time: a process that took the number over in between has another one.
        let process = spawn::pidfd_open(record.pid)
            .ok()
            .filter(|_| process_start(record.pid) == Some(record.pid_start));
        Ok(Self {
            id: record.id.clone(),
            bundle: record.bundle.clone(),
            state_dir: state_dir.to_owned(),
            pid: record.pid,
            process,
            stored,
            channel: None,
            binary,
        })
    }

    fn init(&self) -> Result<&OwnedFd> {
        self.process.as_ref().ok_or_else(|| {
            Error::failed(
                "reach the init process of",
                &self.id,
                std::io::Error::from_raw_os_error(libc::ESRCH),
            )
        })
    }

    /// Whether the init process has not ended: a zombie has.
    fn is_alive(&self) -> bool {
        use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
        let Some(process) = &self.process else { return false };
        // A pidfd is readable once its process has ended (pidfd_open(2)).
        let mut waited = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
        matches!(poll(&mut waited, PollTimeout::ZERO), Ok(0))
    }

    fn cgroup(&self, what: &'static str) -> Result<&Cgroup> {
        self.stored.cgroup.as_ref().ok_or_else(|| {
            Error::unsupported(what, "the container has no cgroup (it was made without root's privileges)")
        })
    }

    fn has_pid_namespace(&self) -> bool {
        self.stored.namespaces & libc::CLONE_NEWPID != 0
    }
}

impl Workload for Container {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn record(&self) -> serde_json::Value {
        serde_json::to_value(&self.stored).unwrap_or_default()
    }

    fn recorded(&mut self) -> Result<()> {
        self.channel.take().map_or(Ok(()), |channel| create::recorded(&channel))
    }

    fn status(&self, recorded: Status) -> Result<Status> {
        if !self.is_alive() {
            return Ok(Status::Stopped);
        }
        match &self.stored.cgroup {
            Some(cgroup) if cgroup.is_frozen()? => Ok(Status::Paused),
            // A pause is never recorded: the freezer knows.
            _ => Ok(if recorded == Status::Paused { Status::Running } else { recorded }),
        }
    }

    fn start(&mut self, timeline: &mut Timeline) -> Result<()> {
        gate::open(&self.state_dir, self.init()?)?;
        timeline.mark(Phase::Exec);
        Ok(())
    }

    fn kill(&mut self, signal: Signal, scope: KillScope) -> Result<()> {
        match scope {
            KillScope::Init => {
                spawn::pidfd_signal(self.init()?.as_fd(), signal.number())
                    .map_err(|source| Error::failed("signal", &self.id, source))?;
                // A frozen process of cgroup v1 does not even die.
                match &self.stored.cgroup {
                    Some(cgroup) if signal == Signal::KILL && cgroup.is_frozen()? => cgroup.thaw(),
                    _ => Ok(()),
                }
            }
            KillScope::All => match &self.stored.cgroup {
                Some(cgroup) => cgroup.signal_all(signal),
                None => self.kill(signal, KillScope::Init),
            },
        }
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        wait_for(self.pid)
    }

    fn exec(&mut self, request: ExecRequest<'_>) -> Result<Box<dyn ExecProcess>> {
        let target = exec::Target {
            id: &self.id,
            bundle: &self.bundle,
            process: self.init()?.as_fd(),
            pid: self.pid,
            namespaces: self.stored.namespaces,
            cgroup: self.stored.cgroup.as_ref(),
            binary: self.binary,
        };
        Ok(Box::new(exec::exec(&target, request)?))
    }

    fn pause(&mut self) -> Result<()> {
        self.cgroup("pause")?.freeze()
    }

    fn resume(&mut self) -> Result<()> {
        self.cgroup("resume")?.thaw()
    }

    fn update(&mut self, resources: &LinuxResources) -> Result<()> {
        self.cgroup("update")?.update(resources)
    }

    fn stats(&self) -> Result<Stats> {
        self.cgroup("events and stats")?.stats()
    }

    fn processes(&self) -> Result<Vec<i32>> {
        self.cgroup("ps")?.processes()
    }

    fn processes_inside(&self) -> Result<Option<Vec<ProcessInfo>>> {
        Ok(None)
    }

    fn delete(&mut self) -> Result<()> {
        if self.is_alive()
            && let Some(process) = &self.process
        {
            spawn::pidfd_signal(process.as_fd(), libc::SIGKILL)
                .or_else(|error| if error.raw_os_error() == Some(libc::ESRCH) { Ok(()) } else { Err(error) })
                .map_err(|source| Error::failed("kill", &self.id, source))?;
            if let Some(cgroup) = &self.stored.cgroup
                && cgroup.is_frozen()?
            {
                cgroup.thaw()?;
            }
        }
        match &self.stored.cgroup {
            Some(cgroup) => {
                // The end of a pid namespace ends all its processes; without one they must be found.
                if self.process.is_some() || !self.has_pid_namespace() {
                    cgroup.kill_all()?;
                }
                cgroup.remove()
            }
            None => wait_until_ended(self),
        }
    }
}

fn wait_until_ended(container: &Container) -> Result<()> {
    use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
    let Some(process) = &container.process else { return Ok(()) };
    let mut waited = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    // A killed process that does not end within ten seconds is stuck in the kernel.
    match poll(&mut waited, PollTimeout::from(10_000u16)) {
        Ok(0) => {
            Err(Error::failed("kill", &container.id, std::io::Error::from_raw_os_error(libc::ETIMEDOUT)))
        }
        _ => Ok(()),
    }
}
