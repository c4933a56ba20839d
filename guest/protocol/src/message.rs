//! The messages of both directions.

use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

use crate::frame::{Error, MAX_DOCUMENT, MAX_STREAM_DATA, Message, encode};

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// How the machine is to be set up before the process runs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestSetup {
    /// Host name.
    pub hostname: String,
    /// The address on `eth0`; `None` leaves only the loopback link.
    pub network: Option<Network>,
    /// Read-only block device of the image.
    pub image_device: String,
    /// Block device of the write layer; `None` keeps it in memory.
    pub write_device: Option<String>,
    /// Further file systems, in order, below the process's root.
    pub mounts: Vec<FileSystem>,
    /// Kernel settings below /proc/sys, with dots.
    pub sysctls: Vec<(String, String)>,
    /// Files to be written below the root before the process runs: path and content.
    pub files: Vec<(String, String)>,
    /// Paths that the process must not see.
    pub masked_paths: Vec<String>,
    /// Paths that the process must not write to.
    pub readonly_paths: Vec<String>,
    /// Whether the root is read-only.
    pub readonly_root: bool,
    /// The process.
    pub process: ProcessSpec,
}

/// An IPv4 address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Network {
    /// The guest's address.
    pub address: Ipv4Addr,
    /// Length of its network's prefix, bits.
    pub prefix: u8,
    /// Where everything else is.
    pub gateway: Ipv4Addr,
}

/// A file system below the root.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FileSystem {
    /// `tmpfs`, `virtiofs`, `proc`, ...
    pub kind: String,
    /// Device or tag.
    pub source: String,
    /// Absolute path below the root.
    pub target: String,
    /// Options, flags (`ro`, `nosuid`) and data (`size=64m`) mixed, as in config.json.
    pub options: Vec<String>,
}

/// A process, as config.json has it, less what only the host can do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessSpec {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `NAME=value`.
    pub env: Vec<String>,
    /// Absolute; made when it is missing.
    pub cwd: String,
    /// Who it runs as.
    pub user: User,
    /// Numbers of the capabilities in each set, as bits: bounding, effective, permitted, inheritable, ambient.
    pub capabilities: [u64; 5],
    /// Resource limits.
    pub rlimits: Vec<Rlimit>,
    /// Sets `no_new_privs`.
    pub no_new_privileges: bool,
    /// A compiled filter program for seccomp, empty for none: eight bytes an instruction, as in `struct sock_filter`.
    pub seccomp: Vec<u8>,
    /// `oom_score_adj`.
    pub oom_score_adj: Option<i32>,
    /// The terminal, when it has one.
    pub terminal: Option<Terminal>,
}

/// A terminal.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Terminal {
    /// Its size at the start, when that is known.
    pub size: Option<WindowSize>,
}

/// Numeric ids.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct User {
    /// User.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Further groups.
    pub groups: Vec<u32>,
    /// File mode mask.
    pub umask: Option<u32>,
}

/// A resource limit.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Rlimit {
    /// Its number, `RLIMIT_*`.
    pub resource: u32,
    /// Limit in force.
    pub soft: u64,
    /// Highest that it may be raised to.
    pub hard: u64,
}

/// What failed, for exit codes and messages.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// Decides the exit code.
    pub kind: FailureKind,
    /// What failed, on what.
    pub message: String,
}

/// Kinds of failures.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum FailureKind {
    /// The program does not exist: 127.
    NotFound,
    /// The program cannot be executed: 126.
    NotExecutable,
    /// The machine could not be set up: 125.
    Setup,
}

/// How a process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// With this code.
    Exited(u8),
    /// By this signal, 1 to 64.
    Signaled(u8),
}

/// From the host to the guest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToGuest {
    /// Set the machine up; answered by [`ToHost::Ready`] or [`ToHost::Failed`].
    Setup(Box<GuestSetup>),
    /// Execute the process of the set-up; answered by [`ToHost::Started`] or [`ToHost::Failed`].
    Start,
    /// Run a further process; answered likewise.
    Exec(Box<ProcessSpec>),
    /// Bytes for standard input or the terminal.
    Stdin(Vec<u8>),
    /// No more bytes will come.
    StdinEnd,
    /// The terminal has a new size.
    Resize(WindowSize),
    /// Send this signal to the process.
    Signal(u8),
}

/// From the guest to the host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ToHost {
    /// The guest's first message.
    Hello {
        /// Its [`crate::VERSION`].
        version: u32,
    },
    /// Everything is in place.
    Ready,
    /// `execve` has succeeded; the process has this id inside.
    Started {
        /// Process id in the guest.
        pid: u32,
    },
    /// It could not be done.
    Failed(Failure),
    /// Bytes of standard output, or of the terminal.
    Stdout(Vec<u8>),
    /// Bytes of standard error.
    Stderr(Vec<u8>),
    /// The process has ended, and all of its output has been sent.
    Ended(Outcome),
}

fn document<T: Serialize>(kind: u8, value: &T) -> Vec<u8> {
    // The types hold nothing that JSON cannot; an empty document is refused by the other side.
    encode(kind, &serde_json::to_vec(value).unwrap_or_default())
}

fn parse<'a, T: Deserialize<'a>>(kind: u8, payload: &'a [u8]) -> Result<T, Error> {
    serde_json::from_slice(payload).map_err(|source| Error::Document { kind, source })
}

fn fixed<const N: usize>(kind: u8, payload: &[u8]) -> Result<[u8; N], Error> {
    payload.try_into().map_err(|_| Error::Payload { kind, bytes: payload.len() })
}

impl ToGuest {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Setup(setup) => document(1, setup),
            Self::Start => encode(2, &[]),
            Self::Exec(process) => document(3, process),
            Self::Stdin(bytes) => encode(4, bytes),
            Self::StdinEnd => encode(5, &[]),
            Self::Resize(WindowSize { rows, columns }) => {
                let [a, b] = rows.to_le_bytes();
                let [c, d] = columns.to_le_bytes();
                encode(6, &[a, b, c, d])
            }
            Self::Signal(number) => encode(7, &[*number]),
        }
    }
}

impl Message for ToGuest {
    fn limit(kind: u8) -> Option<usize> {
        match kind {
            1 | 3 => Some(MAX_DOCUMENT),
            2 | 5 => Some(0),
            4 => Some(MAX_STREAM_DATA),
            6 => Some(4),
            7 => Some(1),
            _ => None,
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, Error> {
        Ok(match kind {
            1 => Self::Setup(parse(kind, payload)?),
            2 => Self::Start,
            3 => Self::Exec(parse(kind, payload)?),
            4 => Self::Stdin(payload.to_vec()),
            5 => Self::StdinEnd,
            6 => {
                let [a, b, c, d] = fixed(kind, payload)?;
                Self::Resize(WindowSize {
                    rows: u16::from_le_bytes([a, b]),
                    columns: u16::from_le_bytes([c, d]),
                })
            }
            7 => match fixed(kind, payload)? {
                [signal @ 1..=64] => Self::Signal(signal),
                _ => return Err(Error::Payload { kind, bytes: payload.len() }),
            },
            _ => return Err(Error::Kind(kind)),
        })
    }
}

impl ToHost {
    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello { version } => encode(1, &version.to_le_bytes()),
            Self::Ready => encode(2, &[]),
            Self::Started { pid } => encode(3, &pid.to_le_bytes()),
            Self::Failed(failure) => document(4, failure),
            Self::Stdout(bytes) => encode(5, bytes),
            Self::Stderr(bytes) => encode(6, bytes),
            Self::Ended(Outcome::Exited(code)) => encode(7, &[0, *code]),
            Self::Ended(Outcome::Signaled(signal)) => encode(7, &[1, *signal]),
        }
    }
}

impl Message for ToHost {
    fn limit(kind: u8) -> Option<usize> {
        match kind {
            1 | 3 => Some(4),
            2 => Some(0),
            4..=6 => Some(MAX_STREAM_DATA),
            7 => Some(2),
            _ => None,
        }
    }

    fn decode(kind: u8, payload: &[u8]) -> Result<Self, Error> {
        Ok(match kind {
            1 => Self::Hello { version: u32::from_le_bytes(fixed(kind, payload)?) },
            2 => Self::Ready,
            3 => Self::Started { pid: u32::from_le_bytes(fixed(kind, payload)?) },
            4 => Self::Failed(parse(kind, payload)?),
            5 => Self::Stdout(payload.to_vec()),
            6 => Self::Stderr(payload.to_vec()),
            7 => match fixed(kind, payload)? {
                [0, code] => Self::Ended(Outcome::Exited(code)),
                [1, signal @ 1..=64] => Self::Ended(Outcome::Signaled(signal)),
                _ => return Err(Error::Payload { kind, bytes: payload.len() }),
            },
            _ => return Err(Error::Kind(kind)),
        })
    }
}
