//! An error on its way from the process that met it to the one that tells the user.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::error::{Error, ExecFailure};

/// An [`Error`], for another process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub enum Failure {
    /// [`Error::Failed`].
    Failed {
        /// The verb phrase.
        action: String,
        /// What it failed on.
        target: String,
        /// What to do next.
        hint: Option<String>,
        /// Error number of the cause, when it has one.
        errno: Option<i32>,
        /// The cause's text.
        source: String,
    },
    /// [`Error::InvalidSpec`].
    InvalidSpec {
        /// The field.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// [`Error::Unsupported`].
    Unsupported {
        /// The field or feature.
        feature: String,
        /// Why.
        reason: String,
    },
    /// [`Error::Exec`].
    Exec {
        /// The program.
        program: String,
        /// Why.
        failure: ExecFailure,
    },
    /// [`Error::Hook`].
    Hook {
        /// Which kind of hook.
        kind: String,
        /// Its program.
        path: PathBuf,
        /// Why.
        reason: String,
    },
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        match error {
            Error::Failed { action, target, hint, source } => Self::Failed {
                action: action.into_owned(),
                target,
                hint: hint.map(|hint| hint.into_owned()),
                errno: source
                    .downcast_ref::<std::io::Error>()
                    .and_then(std::io::Error::raw_os_error)
                    .or_else(|| source.downcast_ref::<nix::Error>().map(|errno| *errno as i32)),
                source: source.to_string(),
            },
            Error::InvalidSpec { field, reason } => Self::InvalidSpec { field, reason },
            Error::Unsupported { feature, reason } => Self::Unsupported { feature, reason },
            Error::Exec { program, failure } => Self::Exec { program, failure },
            Error::Hook { kind, path, reason } => Self::Hook { kind: kind.into_owned(), path, reason },
            other => Self::Failed {
                action: "prepare".to_owned(),
                target: "the container".to_owned(),
                hint: None,
                errno: None,
                source: other.to_string(),
            },
        }
    }
}

impl From<Failure> for Error {
    fn from(failure: Failure) -> Self {
        match failure {
            Failure::Failed { action, target, hint, errno, source } => Self::Failed {
                action: action.into(),
                target,
                hint: hint.map(Into::into),
                source: match errno {
                    Some(errno) => std::io::Error::from_raw_os_error(errno).into(),
                    None => source.into(),
                },
            },
            Failure::InvalidSpec { field, reason } => Self::InvalidSpec { field, reason },
            Failure::Unsupported { feature, reason } => Self::Unsupported { feature, reason },
            Failure::Exec { program, failure } => Self::Exec { program, failure },
            Failure::Hook { kind, path, reason } => Self::Hook { kind: kind.into(), path, reason },
        }
    }
}
