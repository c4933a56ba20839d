//! The messages of both directions.

use oci_spec::runtime::LinuxResources;
use rkvm_oci::failure::Failure;
use rkvm_oci::process::ProcessInfo;
use rkvm_oci::stats::Stats;
use rkvm_oci::{ExitStatus, KillScope, Signal};
use serde::{Deserialize, Serialize};

use crate::frame::{Error, MAX_DOCUMENT, MAX_STREAM_DATA, Message, append, encode};
use crate::setup::{GuestProcess, GuestSetup};

/// Size of a terminal, in characters.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct WindowSize {
    /// Lines.
    pub rows: u16,
    /// Characters a line.
    pub columns: u16,
}

/// From the host to the guest.
#[derive(Debug, Clone)]
pub enum ToGuest {
    /// Set the machine up; answered by [`ToHost::Ready`] or [`ToHost::Failed`].
    Setup(Box<GuestSetup>),
    /// Execute the process of the set-up; answered by [`ToHost::Started`] or [`ToHost::Failed`].
    Start,
    /// Run a further process; answered likewise. Whether it has a terminal is `process.terminal`.
    Exec(Box<GuestProcess>),
    /// Bytes for standard input or the terminal, within [`crate::STDIN_WINDOW`].
    Stdin(Vec<u8>),
    /// No more bytes will come.
    StdinEnd,
    /// The terminal has a new size.
    Resize(WindowSize),
    /// Send a signal to the stream's process, or on the machine's own stream to every process.
    Signal(Signal, KillScope),
    /// A question; the only message of its stream.
    Ask(Box<Question>),
}

/// Something that the guest is asked.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Question {
    /// What the container inside uses; answered by [`Answer::Stats`].
    Stats,
    /// Its processes; answered by [`Answer::Processes`].
    Processes,
    /// New limits for it; answered by [`Answer::Done`].
    Update(Box<LinuxResources>),
}

/// What the guest answers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// Counters of its cgroup.
    Stats(Box<Stats>),
    /// The processes of its cgroup.
    Processes(Vec<ProcessInfo>),
    /// It is done.
    Done,
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
    Failed(Box<Failure>),
    /// Bytes of standard output, or of the terminal.
    Stdout(Vec<u8>),
    /// Bytes of standard error.
    Stderr(Vec<u8>),
    /// The process has ended, and all of its output has been sent. On the machine's own stream: and everything that was written is on
    /// the host.
    Ended(ExitStatus),
    /// How many of the container's processes the guest's kernel has killed for want of memory: on the machine's own stream, before
    /// [`ToHost::Ended`], when there were any.
    OomKills(u64),
    /// The process has taken this many bytes of standard input: the host may send as many again. Also what was thrown away because
    /// nothing reads it.
    StdinTaken(u32),
    /// Nothing reads standard input any more: the host may close its side.
    StdinClosed,
    /// To [`ToGuest::Ask`].
    Answer(Box<Answer>),
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

fn signal(kind: u8, number: u8) -> Result<Signal, Error> {
    Signal::from_number(number.into()).ok_or(Error::Payload { kind, bytes: 1 })
}

/// Signal numbers end at 64.
fn byte(signal: Signal) -> u8 {
    signal.number() as u8
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
            Self::Signal(signal, scope) => encode(7, &[byte(*signal), u8::from(*scope == KillScope::All)]),
            Self::Ask(question) => document(8, question),
        }
    }
}

impl Message for ToGuest {
    fn limit(kind: u8) -> Option<usize> {
        match kind {
            1 | 3 | 8 => Some(MAX_DOCUMENT),
            2 | 5 => Some(0),
            4 => Some(MAX_STREAM_DATA),
            6 => Some(4),
            7 => Some(2),
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
                [number, 0] => Self::Signal(signal(kind, number)?, KillScope::Init),
                [number, 1] => Self::Signal(signal(kind, number)?, KillScope::All),
                _ => return Err(Error::Payload { kind, bytes: payload.len() }),
            },
            8 => Self::Ask(parse(kind, payload)?),
            _ => return Err(Error::Kind(kind)),
        })
    }
}

/// Which of a process's two outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputKind {
    /// [`ToHost::Stdout`].
    Stdout,
    /// [`ToHost::Stderr`].
    Stderr,
}

impl ToHost {
    /// Appends a frame of output to `frames`, without a message in between that holds the bytes once more. They are at most
    /// [`MAX_STREAM_DATA`].
    pub fn append_output(frames: &mut Vec<u8>, kind: OutputKind, bytes: &[u8]) {
        append(frames, if kind == OutputKind::Stdout { 5 } else { 6 }, bytes);
    }

    /// The frame.
    pub fn encode(&self) -> Vec<u8> {
        match self {
            Self::Hello { version } => encode(1, &version.to_le_bytes()),
            Self::Ready => encode(2, &[]),
            Self::Started { pid } => encode(3, &pid.to_le_bytes()),
            Self::Failed(failure) => document(4, failure),
            Self::Stdout(bytes) => encode(5, bytes),
            Self::Stderr(bytes) => encode(6, bytes),
            Self::Ended(ExitStatus::Exited(code)) => encode(7, &[0, *code]),
            Self::Ended(ExitStatus::Signaled(signal)) => encode(7, &[1, byte(*signal)]),
            Self::StdinTaken(bytes) => encode(8, &bytes.to_le_bytes()),
            Self::StdinClosed => encode(9, &[]),
            Self::Answer(answer) => document(10, answer),
            Self::OomKills(count) => encode(11, &count.to_le_bytes()),
        }
    }
}

impl Message for ToHost {
    fn limit(kind: u8) -> Option<usize> {
        match kind {
            1 | 3 | 8 => Some(4),
            2 | 9 => Some(0),
            4..=6 => Some(MAX_STREAM_DATA),
            7 => Some(2),
            10 => Some(MAX_DOCUMENT),
            11 => Some(8),
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
                [0, code] => Self::Ended(ExitStatus::Exited(code)),
                [1, number] => Self::Ended(ExitStatus::Signaled(signal(kind, number)?)),
                _ => return Err(Error::Payload { kind, bytes: payload.len() }),
            },
            8 => Self::StdinTaken(u32::from_le_bytes(fixed(kind, payload)?)),
            9 => Self::StdinClosed,
            10 => Self::Answer(parse(kind, payload)?),
            11 => Self::OomKills(u64::from_le_bytes(fixed(kind, payload)?)),
            _ => return Err(Error::Kind(kind)),
        })
    }
}
