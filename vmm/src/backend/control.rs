//! Commands to a running machine, over a Unix socket in its state folder: a length and a document each way.

use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;

use rkvm_oci::failure::Failure;
use rkvm_oci::{Error, KillScope, Result, Signal};
use serde::{Deserialize, Serialize};

use super::socket;

/// Version of this protocol; a command of another build is refused.
pub const VERSION: u32 = 1;
/// Longest document, bytes.
pub const MAX_DOCUMENT: usize = 64 << 10;

/// What is asked.
#[derive(Debug, Serialize, Deserialize)]
pub struct Request {
    /// The asker's [`VERSION`].
    pub version: u32,
    /// What to do.
    pub command: Command,
}

/// What a machine can be asked to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Command {
    /// Execute the process; answered when `execve` has succeeded.
    Start,
    /// Send a signal.
    Signal {
        /// The signal.
        signal: Signal,
        /// To every process, not to the first one only.
        all: bool,
    },
    /// Stop every virtual processor.
    Pause,
    /// Let them go on.
    Resume,
}

impl Command {
    /// A signal's command.
    pub fn signal(signal: Signal, scope: KillScope) -> Self {
        Self::Signal { signal, all: scope == KillScope::All }
    }

    fn verb(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Signal { .. } => "signal",
            Self::Pause => "pause",
            Self::Resume => "resume",
        }
    }
}

/// The answer.
#[derive(Debug, Serialize, Deserialize)]
pub enum Reply {
    /// It is done.
    Done,
    /// It could not be done.
    Failed(Failure),
}

/// A document with its length in front.
pub fn frame(document: &impl Serialize) -> Vec<u8> {
    // The types hold nothing that JSON cannot.
    let text = serde_json::to_vec(document).unwrap_or_default();
    let mut bytes = (text.len() as u32).to_le_bytes().to_vec();
    bytes.extend(text);
    bytes
}

/// The length that a frame's head says; an error when it is longer than a document may be.
///
/// # Errors
/// `InvalidData`.
pub fn length(head: [u8; 4]) -> io::Result<usize> {
    let length = u32::from_le_bytes(head) as usize;
    if length > MAX_DOCUMENT { Err(io::ErrorKind::InvalidData.into()) } else { Ok(length) }
}

/// Has the machine whose state is in `folder` do something; waits for the answer, at most for `limit`.
///
/// # Errors
/// What the machine answers; or it is gone, or does not answer in time.
pub fn call(folder: &Path, command: Command, limit: Duration) -> Result<()> {
    let failed = |source: io::Error| {
        Error::failed(format!("{} the microVM of", command.verb()), folder.display(), source)
            .hint("its process may have ended, or its guest hangs; delete the container")
    };
    let ask = || -> io::Result<Reply> {
        let mut stream = socket::connect(folder, socket::CONTROL)?;
        stream.set_read_timeout(Some(limit))?;
        stream.set_write_timeout(Some(limit))?;
        stream.write_all(&frame(&Request { version: VERSION, command }))?;
        let mut head = [0; 4];
        stream.read_exact(&mut head)?;
        let mut text = vec![0; length(head)?];
        stream.read_exact(&mut text)?;
        serde_json::from_slice(&text).map_err(io::Error::from)
    };
    match ask().map_err(failed)? {
        Reply::Done => Ok(()),
        Reply::Failed(failure) => Err(failure.into()),
    }
}
