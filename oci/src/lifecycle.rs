//! The one table of legal state changes (runtime-spec, "State" and "Lifecycle").

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// State of a container, in runtime-spec's words plus `paused` (runc's extension).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// The sandbox is being made.
    Creating,
    /// The sandbox is ready; the user's program has not been executed.
    Created,
    /// The user's program has been executed and has not ended.
    Running,
    /// Every process is frozen.
    Paused,
    /// The init process has ended.
    Stopped,
}

impl std::fmt::Display for Status {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Creating => "creating",
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        })
    }
}

/// What a caller wants to do to a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verb {
    /// Execute the user's program.
    Start,
    /// Send a signal.
    Kill,
    /// Run another process inside.
    Exec,
    /// Freeze every process.
    Pause,
    /// Thaw every process.
    Resume,
    /// Change resource limits.
    Update,
    /// Read resource use.
    Stats,
    /// Remove every trace.
    Delete,
    /// Kill, then remove every trace.
    ForceDelete,
}

impl Verb {
    fn name(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Kill => "kill",
            Self::Exec => "exec in",
            Self::Pause => "pause",
            Self::Resume => "resume",
            Self::Update => "update",
            Self::Stats => "read statistics of",
            Self::Delete | Self::ForceDelete => "delete",
        }
    }

    fn wanted(self) -> &'static str {
        match self {
            Self::Start => "created",
            Self::Pause => "running",
            Self::Exec => "created or running",
            Self::Resume => "paused",
            Self::Delete => "stopped (or use --force)",
            Self::Kill | Self::Update | Self::Stats => "created, running or paused",
            Self::ForceDelete => "fully created",
        }
    }
}

/// Checks `verb` against the table and returns the state that it leads to.
///
/// `Delete` and `ForceDelete` lead to `Stopped`, after which the record is removed.
///
/// # Errors
/// [`Error::IllegalState`] with the states from which the verb is legal.
pub fn transition(id: &str, from: Status, verb: Verb) -> Result<Status> {
    use Status::{Created, Creating, Paused, Running, Stopped};
    match (from, verb) {
        (Created, Verb::Start) => Ok(Running),
        (Created | Running | Paused, Verb::Kill | Verb::Update | Verb::Stats) => Ok(from),
        (Created | Running, Verb::Exec) => Ok(from),
        (Running | Created, Verb::Pause) => Ok(Paused),
        (Paused, Verb::Resume) => Ok(Running),
        (Stopped, Verb::Delete) => Ok(Stopped),
        (Creating | Created | Running | Paused | Stopped, Verb::ForceDelete) => Ok(Stopped),
        _ => Err(Error::IllegalState {
            id: id.to_owned(),
            verb: verb.name(),
            status: from,
            wanted: verb.wanted(),
        }),
    }
}
