//! The whole contract between the command lines and an isolation backend.

use std::fmt;
use std::os::fd::OwnedFd;
use std::path::Path;
use std::str::FromStr;

use oci_spec::runtime::{Features, LinuxResources, Process};
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::error::Result;
use crate::lifecycle::Status;
use crate::signal::Signal;
use crate::state::Record;
use crate::stats::Stats;
use crate::timeline::Timeline;

/// How a workload is kept apart from the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Isolation {
    /// Namespaces, cgroups, capabilities, seccomp: the host's kernel.
    #[default]
    Container,
    /// A KVM microVM with a kernel of its own.
    Vm,
}

impl Isolation {
    /// Annotation of config.json that chooses the isolation where the command line does not.
    pub const ANNOTATION: &'static str = "io.rkvm.isolation";
}

impl fmt::Display for Isolation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Container => "container",
            Self::Vm => "vm",
        })
    }
}

impl FromStr for Isolation {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "container" => Ok(Self::Container),
            "vm" => Ok(Self::Vm),
            _ => Err(format!("{text:?} is not an isolation: choose `container` or `vm`")),
        }
    }
}

/// Standard streams of a process inside the workload.
#[derive(Debug)]
pub enum Stdio {
    /// The caller's own 0, 1 and 2.
    Inherit,
    /// These descriptors, given to the process as 0, 1 and 2.
    Fds {
        /// Descriptor 0.
        stdin: OwnedFd,
        /// Descriptor 1.
        stdout: OwnedFd,
        /// Descriptor 2.
        stderr: OwnedFd,
    },
    /// A terminal: the backend makes it and sends its master (SCM_RIGHTS, the name as data) over this connected
    /// Unix stream socket, as runc does with `--console-socket`. A VM sends a host pty that it relays.
    Terminal {
        /// Where the master goes.
        console: OwnedFd,
    },
}

/// Which session keyring (keyrings(7)) the init process gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Keyring {
    /// A new, empty one: the caller's keys are not seen inside.
    #[default]
    New,
    /// The caller's (`--no-new-keyring`).
    Inherited,
}

/// What [`Backend::create`] is given.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Unique id, validated.
    pub id: &'a str,
    /// The bundle to run.
    pub bundle: &'a Bundle,
    /// Folder of this container in the state store, made by the caller, removed by the caller: the backend's
    /// sockets and fifos go here.
    pub state_dir: &'a Path,
    /// Streams of the init process.
    pub stdio: Stdio,
    /// How many further descriptors, from 3 on, the process inherits (`--preserve-fds`).
    pub preserve_fds: u32,
    /// `pivot_root` cannot be used (initramfs as root): `MS_MOVE` and `chroot` instead (`--no-pivot`).
    pub no_pivot: bool,
    /// Which session keyring the init process gets.
    pub keyring: Keyring,
    /// Receives the marks of the phases `sandbox`, `boot` and `process`.
    pub timeline: &'a mut Timeline,
}

/// What [`Workload::exec`] is given.
#[derive(Debug)]
pub struct ExecRequest<'a> {
    /// The process, complete: user, env, cwd, args, capabilities and so on.
    pub process: &'a Process,
    /// Its streams.
    pub stdio: Stdio,
    /// How many further descriptors, from 3 on, the process inherits.
    pub preserve_fds: u32,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ExitStatus {
    /// It called `exit` with this code.
    Exited(u8),
    /// A signal ended it.
    Signaled(Signal),
}

impl ExitStatus {
    /// The code that a shell shows: the exit code, or 128 plus the signal's number.
    pub fn code(self) -> u8 {
        match self {
            Self::Exited(code) => code,
            // Signal numbers end at 64, so the sum fits.
            Self::Signaled(signal) => 128 + signal.number() as u8,
        }
    }
}

/// Which processes of a workload a signal goes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum KillScope {
    /// The init process.
    Init,
    /// Every process of the workload (`kill --all`).
    All,
}

/// An isolation technique: makes workloads and finds them again.
///
/// `create` and `open` are called by different processes during a container's life, so everything that a backend
/// needs later must be in the value that `create` stores in [`Record::backend`] or in the state folder.
pub trait Backend {
    /// Which isolation this is.
    fn isolation(&self) -> Isolation;

    /// Checks that this host can run the backend at all.
    ///
    /// # Errors
    /// What is missing, and what to do about it.
    fn check_host(&self) -> Result<()>;

    /// What the backend understands, as `features` prints it.
    fn features(&self) -> Features;

    /// Makes the sandbox and the init process, which then waits for [`Workload::start`]. Hooks `prestart`,
    /// `createRuntime` and `createContainer` have run when this returns.
    ///
    /// # Errors
    /// Anything that keeps the sandbox from being made; then nothing of it is left behind.
    fn create(&self, request: CreateRequest<'_>) -> Result<Box<dyn Workload>>;

    /// Removes what a [`Backend::create`] that was killed before it returned may have left: nothing recorded it, so the
    /// bundle must be enough to find it. Nothing to remove is no error.
    ///
    /// # Errors
    /// Something cannot be removed; the message names it.
    fn clean(&self, id: &str, bundle: &Bundle) -> Result<()>;

    /// Finds the workload that `create` made, from its record.
    ///
    /// # Errors
    /// The record does not fit this backend.
    fn open(&self, record: &Record, state_dir: &Path) -> Result<Box<dyn Workload>>;
}

/// One workload: a container or a microVM.
pub trait Workload {
    /// Process id, on the host, of the container's init or of the VMM.
    fn pid(&self) -> i32;

    /// What the backend wants to find in [`Record::backend`] later.
    fn record(&self) -> serde_json::Value;

    /// The record has been written: the workload may outlive the caller from now on. Until then it ends with the caller, for
    /// nobody else knows of it.
    ///
    /// # Errors
    /// It has ended meanwhile.
    fn recorded(&mut self) -> Result<()>;

    /// The state now, from the processes themselves: [`Status::Stopped`] when the init process has ended
    /// (a zombie counts as ended), [`Status::Paused`] when frozen, otherwise `recorded`.
    ///
    /// # Errors
    /// The cgroup or VMM does not answer.
    fn status(&self, recorded: Status) -> Result<Status>;

    /// Lets the init process execute the user's program (hook `startContainer` runs first). Returns when `execve` has
    /// succeeded.
    ///
    /// # Errors
    /// [`crate::Error::Exec`] when the program cannot be executed.
    fn start(&mut self, timeline: &mut Timeline) -> Result<()>;

    /// Sends a signal.
    ///
    /// # Errors
    /// The process is gone.
    fn kill(&mut self, signal: Signal, scope: KillScope) -> Result<()>;

    /// Waits for the init process. Only the process that called [`Backend::create`], or its subreaper, can.
    ///
    /// # Errors
    /// The init process is not a child of the caller.
    fn wait(&mut self) -> Result<ExitStatus>;

    /// Runs another process inside.
    ///
    /// # Errors
    /// [`crate::Error::Exec`] when the program cannot be executed.
    fn exec(&mut self, request: ExecRequest<'_>) -> Result<Box<dyn ExecProcess>>;

    /// Freezes every process.
    ///
    /// # Errors
    /// The host cannot freeze.
    fn pause(&mut self) -> Result<()>;

    /// Thaws every process.
    ///
    /// # Errors
    /// The host cannot thaw.
    fn resume(&mut self) -> Result<()>;

    /// Changes resource limits while running; fields that are absent stay as they are.
    ///
    /// # Errors
    /// A limit that the host cannot enforce, named.
    fn update(&mut self, resources: &LinuxResources) -> Result<()>;

    /// Resource use now.
    ///
    /// # Errors
    /// The counters cannot be read.
    fn stats(&self) -> Result<Stats>;

    /// Process ids, on the host, of every process of the workload (of the VMM for a microVM).
    ///
    /// # Errors
    /// The list cannot be read.
    fn processes(&self) -> Result<Vec<i32>>;

    /// Ends what still runs and removes every trace outside the state folder. Works on a half-made workload too, and
    /// a second time.
    ///
    /// # Errors
    /// Something could not be removed; the message names it.
    fn delete(&mut self) -> Result<()>;
}

/// A process started by [`Workload::exec`].
pub trait ExecProcess {
    /// Its process id on the host (for a microVM, of the process that stands for it).
    fn pid(&self) -> i32;

    /// Sends it a signal.
    ///
    /// # Errors
    /// It is gone.
    fn kill(&mut self, signal: Signal) -> Result<()>;

    /// Waits for it.
    ///
    /// # Errors
    /// It is not a child of the caller.
    fn wait(&mut self) -> Result<ExitStatus>;
}
