//! The whole contract between the command lines and an isolation backend.

use std::fmt;
use std::net::Ipv4Addr;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use oci_spec::runtime::{Features, LinuxResources, Process};
use serde::{Deserialize, Serialize};

use crate::bundle::Bundle;
use crate::error::Result;
use crate::lifecycle::Status;
use crate::process::ProcessInfo;
use crate::signal::Signal;
use crate::state::Record;
use crate::stats::Stats;
use crate::timeline::{MonotonicNs, Timeline};

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

/// What a backend wants to be given, so that a caller that can choose (the engine) prepares the right thing and nothing
/// else. A caller that cannot choose (`rkvm-oci`, whose bundle comes from somebody else) gives [`Rootfs::Bundle`] and no link,
/// which every backend takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Needs {
    /// How the root filesystem is best given.
    pub rootfs: RootfsForm,
    /// How the workload is connected to a bridge of the host.
    pub link: LinkForm,
    /// Whose kernel the processes run on.
    pub kernel: Kernel,
}

/// Whose kernel the processes of a workload run on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kernel {
    /// The host's: its namespaces and devices can be given and shared.
    Host,
    /// One of its own: it can join no namespace of the host or of another workload, none can join its own, and a device of
    /// the host means nothing to it.
    Own,
}

/// Forms of a root filesystem.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RootfsForm {
    /// Mounted on the host at the bundle's `root.path`: [`Rootfs::Bundle`].
    Mounted,
    /// The image and the write layer apart, joined inside: [`Rootfs::Image`].
    Layers,
}

/// Forms of a network link.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LinkForm {
    /// A veth pair whose inner end is in the network namespace that config.json names.
    Veth,
    /// A tap device, given as [`CreateRequest::link`].
    Tap,
}

/// Where the root filesystem is.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Rootfs {
    /// The folder `root.path` of the bundle; writes go into it.
    #[default]
    Bundle,
    /// An image and a write layer, which the backend joins. The bundle's `root.path` is then an empty folder.
    Image {
        /// A read-only erofs file system in a regular file, shared by every workload of the image. Owners in it are the
        /// container's ids.
        image: PathBuf,
        /// Folder with `upper/` and `work/` of an overlayfs that is mounted with option `userxattr`; only this workload
        /// uses it. Owners in it are the container's ids.
        write_layer: PathBuf,
    },
}

/// A network link that the caller has made and attached to a bridge.
#[derive(Debug)]
pub struct Link {
    /// A tap device (`IFF_TAP | IFF_NO_PI | IFF_VNET_HDR`, header of [`Link::vnet_header_bytes`]), up and attached. It is not
    /// persistent: it ends with the last descriptor.
    pub tap: OwnedFd,
    /// Length of the virtio-net header before each frame, bytes (12: `struct virtio_net_hdr_v1`).
    pub vnet_header_bytes: u8,
    /// Hardware address of the interface inside.
    pub mac: [u8; 6],
    /// Name of the interface inside.
    pub name: String,
    /// Address inside.
    pub address: Ipv4Addr,
    /// Length of its subnet's prefix, bits.
    pub prefix: u8,
    /// Default route; `None` where the subnet is all that can be reached.
    pub gateway: Option<Ipv4Addr>,
    /// Largest packet, bytes.
    pub mtu: u16,
}

/// What [`Backend::create`] is given.
#[derive(Debug)]
pub struct CreateRequest<'a> {
    /// Unique id, validated.
    pub id: &'a str,
    /// The bundle to run.
    pub bundle: &'a Bundle,
    /// Where the root filesystem is.
    pub rootfs: Rootfs,
    /// The link to the host's network, in the form that [`Backend::needs`] names; `None` where config.json says all there is
    /// to say (a network namespace that is connected already, or none).
    pub link: Option<Link>,
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
    /// The caller starts the workload as soon as it is recorded: the backend may execute the program before it is told, and says so by
    /// [`Workload::executed`]. The workload still ends if the caller ends before it is recorded.
    pub at_once: bool,
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

/// What [`Backend::begin`] is given.
#[derive(Debug)]
pub struct BeginRequest<'a> {
    /// As [`CreateRequest::id`].
    pub id: &'a str,
    /// As [`CreateRequest::bundle`]. What it names need not be there yet.
    pub bundle: &'a Bundle,
    /// The image of [`Rootfs::Image`], when that is what will be given.
    pub image: Option<&'a Path>,
    /// Whether a [`Link`] will be given.
    pub link: bool,
}

/// A workload of which everything is being made that needs neither its root filesystem nor its network. It ends with this.
pub trait Begun {
    /// As [`Backend::create`], for the same id and bundle.
    ///
    /// # Errors
    /// As for that.
    fn create(self: Box<Self>, request: CreateRequest<'_>) -> Result<Box<dyn Workload>>;
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

    /// What it wants to be given. Data, so that nobody has to ask which backend it is.
    fn needs(&self) -> Needs;

    /// What the backend understands, as `features` prints it.
    fn features(&self) -> Features;

    /// Makes the sandbox and the init process, which then waits for [`Workload::start`]. Hooks `prestart`,
    /// `createRuntime` and `createContainer` have run when this returns.
    ///
    /// # Errors
    /// Anything that keeps the sandbox from being made; then nothing of it is left behind. [`crate::Error::Unsupported`] for
    /// a [`Rootfs`] or [`Link`] that is not of the form that [`Backend::needs`] names ([`Rootfs::Bundle`] always works).
    fn create(&self, request: CreateRequest<'_>) -> Result<Box<dyn Workload>>;

    /// Begins with what [`Backend::create`] does, where that can be done while the caller prepares the rest; `None` where it cannot.
    ///
    /// # Errors
    /// As for that.
    fn begin(&self, request: BeginRequest<'_>) -> Result<Option<Box<dyn Begun>>> {
        let _ = request;
        Ok(None)
    }

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

    /// When its program was executed, if it has been: where [`CreateRequest::at_once`] was said and the backend could act on it. It may
    /// have ended by now, and [`Workload::start`] is not called.
    fn executed(&self) -> Option<MonotonicNs> {
        None
    }

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

    /// The processes that a kernel of the workload's own runs, which the host cannot see; `None` where the host's kernel runs them, so
    /// that [`Workload::processes`] are all there are.
    ///
    /// # Errors
    /// That kernel does not answer, or is paused.
    fn processes_inside(&self) -> Result<Option<Vec<ProcessInfo>>>;

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
