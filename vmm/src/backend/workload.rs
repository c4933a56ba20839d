//! A microVM that exists: signals, waiting, pausing, deleting.

use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use oci_spec::runtime::LinuxResources;
use rkvm_cgroup::Cgroup;
use rkvm_guest_protocol::{Answer, Question};
use rkvm_linux::sys::spawn;
use rkvm_linux::wait::wait_for;
use rkvm_oci::process::ProcessInfo;
use rkvm_oci::runtime::process_start;
use rkvm_oci::stats::Stats;
use rkvm_oci::timeline::{MonotonicNs, Phase};
use rkvm_oci::{
    Error, ExecProcess, ExecRequest, ExitStatus, KillScope, Record, Result, Signal, Status, Timeline,
    Workload,
};
use serde::{Deserialize, Serialize};

use super::channel::{Channel, Go};
use super::control::{self, Command};
use super::create::Created;
use super::spec::Size;
use super::{exec, oom, spec};

/// How long a machine may take to execute the program: the hooks of `startContainer` run in that time.
const START_LIMIT: Duration = Duration::from_secs(300);
/// How long it may take to do anything else.
const COMMAND_LIMIT: Duration = Duration::from_secs(10);
/// In the state folder while the machine is paused.
const PAUSED: &str = "paused";

/// What is kept in the container's record.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Stored {
    /// The cgroup of the machine's process.
    pub cgroup: Cgroup,
    /// How large the machine is.
    pub size: Size,
}

/// A microVM.
#[derive(Debug)]
pub struct Vm {
    id: String,
    state_dir: PathBuf,
    pid: i32,
    /// The machine's process while it lives.
    process: Option<OwnedFd>,
    stored: Stored,
    /// The conversation with a process that is not recorded yet.
    channel: Option<Channel>,
    /// When its program was executed, where that was before anybody asked for it.
    executed: Option<MonotonicNs>,
    /// What takes long to take apart, where this process has made the machine; see [`ENDED`].
    kept: Vec<OwnedFd>,
}

/// What is left of the machine that ended last. KVM takes a machine apart when its last descriptor is closed, which takes 16 ms, and a mount
/// namespace goes after a grace period of the kernel. If the last one were the process's own, whoever waits for the process would hear of its
/// end that much later; closed here, when the next machine has ended or this process ends, nobody waits for it. The guest's memory is not kept
/// by it.
static ENDED: Mutex<Vec<OwnedFd>> = Mutex::new(vec![]);

fn last_ended() -> MutexGuard<'static, Vec<OwnedFd>> {
    ENDED.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Drop for Vm {
    fn drop(&mut self) {
        if !self.kept.is_empty() {
            let before = std::mem::replace(&mut *last_ended(), std::mem::take(&mut self.kept));
            drop(before);
        }
    }
}

impl Vm {
    /// The machine that `create` has just made.
    pub fn created(id: &str, state_dir: &Path, created: Created) -> Self {
        Self {
            id: id.to_owned(),
            state_dir: state_dir.to_owned(),
            pid: created.pid,
            process: Some(created.process),
            stored: Stored { cgroup: created.cgroup, size: created.size },
            channel: Some(created.channel),
            executed: created.executed,
            kept: created.kept,
        }
    }

    /// The machine of a record.
    ///
    /// # Errors
    /// The record is another backend's.
    pub fn open(record: &Record, state_dir: &Path) -> Result<Self> {
        let stored = serde_json::from_value(record.backend.clone())
            .map_err(|source| Error::Malformed { path: state_dir.join("state.json"), source })?;
        // The pidfd first, then the start time: a process that took the number over in between has another one.
        let process = spawn::pidfd_open(record.pid)
            .ok()
            .filter(|_| process_start(record.pid) == Some(record.pid_start));
        Ok(Self {
            id: record.id.clone(),
            state_dir: state_dir.to_owned(),
            pid: record.pid,
            process,
            stored,
            channel: None,
            executed: None,
            kept: vec![],
        })
    }

    fn process(&self) -> Result<&OwnedFd> {
        self.process.as_ref().filter(|_| self.is_alive()).ok_or_else(|| {
            Error::failed("reach the microVM of", &self.id, std::io::Error::from_raw_os_error(libc::ESRCH))
        })
    }

    /// Whether the process has not ended: a zombie has.
    fn is_alive(&self) -> bool {
        self.process.as_ref().is_some_and(|process| !has_ended(process, PollTimeout::ZERO))
    }

    fn is_paused(&self) -> bool {
        self.state_dir.join(PAUSED).exists()
    }

    fn command(&self, command: Command, limit: Duration) -> Result<()> {
        self.process()?;
        control::call(&self.state_dir, command, limit)
    }

    /// Ends the process itself, whatever its guest does.
    fn destroy(&self) -> Result<()> {
        let Some(process) = &self.process else { return Ok(()) };
        match spawn::pidfd_signal(process.as_fd(), libc::SIGKILL) {
            Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                Err(Error::failed("kill", &self.id, error))
            }
            _ => Ok(()),
        }
    }

    fn ask(&self, question: Question) -> Result<Answer> {
        self.process()?;
        exec::ask(&self.state_dir, question, COMMAND_LIMIT)
    }
}

/// Waits for the end of a process, at most for `limit`.
fn has_ended(process: &OwnedFd, limit: PollTimeout) -> bool {
    // A pidfd is readable once its process has ended (pidfd_open(2)).
    let mut waited = [PollFd::new(process.as_fd(), PollFlags::POLLIN)];
    !matches!(poll(&mut waited, limit), Ok(0) | Err(_))
}

impl Workload for Vm {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn record(&self) -> serde_json::Value {
        serde_json::to_value(&self.stored).unwrap_or_default()
    }

    fn executed(&self) -> Option<MonotonicNs> {
        self.executed
    }

    fn recorded(&mut self) -> Result<()> {
        let Some(channel) = self.channel.take() else { return Ok(()) };
        match channel.send(&Go::Recorded) {
            // Its program has ended by now.
            Err(_) if self.executed.is_some() => Ok(()),
            other => other.map_err(|source| Error::failed("speak to", "the microVM's process", source)),
        }
    }

    fn status(&self, recorded: Status) -> Result<Status> {
        if !self.is_alive() {
            return Ok(Status::Stopped);
        }
        if self.is_paused() {
            return Ok(Status::Paused);
        }
        Ok(if recorded == Status::Paused { Status::Running } else { recorded })
    }

    fn start(&mut self, timeline: &mut Timeline) -> Result<()> {
        self.command(Command::Start, START_LIMIT)?;
        timeline.mark(Phase::Exec);
        Ok(())
    }

    fn kill(&mut self, signal: Signal, scope: KillScope) -> Result<()> {
        self.process()?;
        if signal == Signal::KILL && self.is_paused() {
            // A paused guest does nothing more.
            return self.destroy();
        }
        match control::call(&self.state_dir, Command::signal(signal, scope), COMMAND_LIMIT) {
            // It has ended meanwhile, or cannot be spoken to: then the process goes, with all that is in it.
            Err(_) if signal == Signal::KILL => self.destroy(),
            Err(_) if !self.is_alive() => Ok(()),
            other => other,
        }
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        wait_for(self.pid)
    }

    fn exec(&mut self, request: ExecRequest<'_>) -> Result<Box<dyn ExecProcess>> {
        self.process()?;
        Ok(Box::new(exec::exec(&self.state_dir, request)?))
    }

    fn pause(&mut self) -> Result<()> {
        self.command(Command::Pause, COMMAND_LIMIT)?;
        let path = self.state_dir.join(PAUSED);
        std::fs::write(&path, "").map_err(|source| Error::failed("write", path.display(), source))
    }

    fn resume(&mut self) -> Result<()> {
        self.command(Command::Resume, COMMAND_LIMIT)?;
        let path = self.state_dir.join(PAUSED);
        match std::fs::remove_file(&path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::failed("remove", path.display(), error))
            }
            _ => Ok(()),
        }
    }

    fn update(&mut self, resources: &LinuxResources) -> Result<()> {
        let (outside, inside) = spec::split_update(resources, self.stored.size)?;
        self.stored.cgroup.update(&outside)?;
        match self.ask(Question::Update(Box::new(inside)))? {
            Answer::Done => Ok(()),
            _ => Err(exec::unexpected()),
        }
    }

    fn stats(&self) -> Result<Stats> {
        let mut stats = self.stored.cgroup.stats()?;
        if !self.is_alive() {
            // The guest's own, and the host's: it may have killed the machine itself.
            let kills = stats.oom_kills.unwrap_or(0).saturating_add(oom::read(&self.state_dir));
            stats.oom_kills = Some(kills);
            return Ok(stats);
        }
        // What only the guest can see; the host's view of the machine is right for the rest.
        if !self.is_paused()
            && let Ok(Answer::Stats(inside)) = self.ask(Question::Stats)
        {
            spec::join_stats(&mut stats, *inside, self.stored.size);
        }
        Ok(stats)
    }

    fn processes(&self) -> Result<Vec<i32>> {
        Ok(if self.is_alive() { vec![self.pid] } else { vec![] })
    }

    fn processes_inside(&self) -> Result<Option<Vec<ProcessInfo>>> {
        if self.is_paused() {
            let error = std::io::Error::from_raw_os_error(libc::EAGAIN);
            return Err(
                Error::failed("list the processes of", &self.id, error).hint("it is paused; resume it first")
            );
        }
        match self.ask(Question::Processes)? {
            Answer::Processes(list) => Ok(Some(list)),
            _ => Err(exec::unexpected()),
        }
    }

    fn delete(&mut self) -> Result<()> {
        if self.is_alive() {
            self.destroy()?;
        }
        if let Some(process) = &self.process
            && !has_ended(process, PollTimeout::from(10_000u16))
        {
            let error = std::io::Error::from_raw_os_error(libc::ETIMEDOUT);
            return Err(Error::failed("kill", &self.id, error));
        }
        // Before Linux 6.13, KVM on hardware keeps a kernel thread (kvm-nx-lpage-recovery) in the cgroup of whoever made the machine. No
        // signal ends it: it goes with the machine's last descriptor.
        if !self.stored.cgroup.processes()?.is_empty() {
            drop((std::mem::take(&mut self.kept), std::mem::take(&mut *last_ended())));
        }
        self.stored.cgroup.kill_all()?;
        self.stored.cgroup.remove()
    }
}
