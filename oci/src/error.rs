//! Errors with three parts: what failed, on what, and what to do next; never a bare errno.

use std::borrow::Cow;
use std::path::PathBuf;

use crate::lifecycle::Status;

/// Result of any operation in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A source error from a backend or the standard library.
pub type Source = Box<dyn std::error::Error + Send + Sync>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container has this id.
    #[error("container {id:?} does not exist; `list` (or `rkvm ps -a`) shows those that do")]
    NotFound {
        /// The id asked for.
        id: String,
    },
    /// The id is taken.
    #[error("container {id:?} exists already; choose another id or delete it first")]
    AlreadyExists {
        /// The id asked for.
        id: String,
    },
    /// The id has characters that a path or cgroup name cannot carry.
    #[error(
        "container id {id:?} is not valid: use letters, digits, `_`, `+`, `-` and `.`, 1 to 1024 of them"
    )]
    InvalidId {
        /// The id asked for.
        id: String,
    },
    /// The operation is not legal in the container's state.
    #[error("cannot {verb} container {id:?}: it is {status}, and must be {wanted}")]
    IllegalState {
        /// The container.
        id: String,
        /// What was asked: "start", "delete", ...
        verb: &'static str,
        /// The state it is in.
        status: Status,
        /// The states from which the operation is legal.
        wanted: &'static str,
    },
    /// A system call or file operation failed.
    #[error("cannot {action} {target}{}", hint_suffix(.hint))]
    Failed {
        /// The verb phrase: "mount", "write".
        action: Cow<'static, str>,
        /// The path, name or value that it failed on.
        target: String,
        /// What the user can do, when there is something.
        hint: Option<Cow<'static, str>>,
        /// Why.
        #[source]
        source: Source,
    },
    /// A file of the bundle or the state store could not be parsed.
    #[error("{path} is not valid")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A field of config.json has a value that runtime-spec does not allow.
    #[error("config.json: {field}: {reason}")]
    InvalidSpec {
        /// The field's path in the JSON, e.g. `linux.namespaces[2].path`.
        field: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The backend or this host cannot do what was asked. Never downgraded silently.
    #[error("{feature} is not supported: {reason}")]
    Unsupported {
        /// The field or feature, named as in config.json.
        feature: String,
        /// Why, and what could be done instead.
        reason: String,
    },
    /// The container's program could not be started.
    #[error("cannot execute {program:?}: {failure}")]
    Exec {
        /// `process.args[0]`.
        program: String,
        /// Not found or not executable; decides between exit codes 127 and 126.
        failure: ExecFailure,
    },
    /// A hook failed or did not end in time.
    #[error("{kind} hook {path} failed: {reason}")]
    Hook {
        /// `createRuntime`, `poststop`, ...
        kind: Cow<'static, str>,
        /// The hook's program.
        path: PathBuf,
        /// Exit code, signal or timeout, with the end of its stderr.
        reason: String,
    },
}

/// Why a program could not be executed, with Docker's exit codes.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error, serde::Serialize, serde::Deserialize)]
pub enum ExecFailure {
    /// No such file in the container: exit code 127.
    #[error(
        "executable file not found in $PATH, no such file or directory in the container; check the path and PATH"
    )]
    NotFound,
    /// The file is there but cannot be run (permission, format, folder): exit code 126.
    #[error("it cannot be run ({0})")]
    NotExecutable(String),
}

impl ExecFailure {
    /// Exit code that a shell and Docker give to this failure: 127 or 126.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::NotFound => 127,
            Self::NotExecutable(_) => 126,
        }
    }
}

impl Error {
    /// Builds [`Error::Failed`] without a hint.
    pub fn failed(
        action: impl Into<Cow<'static, str>>,
        target: impl ToString,
        source: impl Into<Source>,
    ) -> Self {
        Self::Failed { action: action.into(), target: target.to_string(), hint: None, source: source.into() }
    }

    /// Builds [`Error::InvalidSpec`].
    pub fn invalid_spec(field: impl ToString, reason: impl ToString) -> Self {
        Self::InvalidSpec { field: field.to_string(), reason: reason.to_string() }
    }

    /// Builds [`Error::Unsupported`].
    pub fn unsupported(feature: impl ToString, reason: impl ToString) -> Self {
        Self::Unsupported { feature: feature.to_string(), reason: reason.to_string() }
    }

    /// Adds a sentence on what to do next to [`Error::Failed`]; other variants carry theirs already.
    #[must_use]
    pub fn hint(mut self, text: &'static str) -> Self {
        if let Self::Failed { hint, .. } = &mut self {
            *hint = Some(text.into());
        }
        self
    }

    /// Exit code of a command that ends with this error: 126 or 127 for a program that cannot be executed,
    /// 125 for everything else (Docker's convention).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Exec { failure, .. } => failure.exit_code(),
            _ => 125,
        }
    }
}

fn hint_suffix(hint: &Option<Cow<'static, str>>) -> String {
    hint.as_ref().map(|text| format!(" ({text})")).unwrap_or_default()
}
