//! What can go wrong in a measurement.

use std::path::PathBuf;

/// Result of this crate.
pub type Result<T> = std::result::Result<T, Error>;

/// Why something cannot be measured, read or written.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A flag's value makes no sense.
    #[error("{what} {value:?}: {reason}")]
    Invalid {
        /// Which flag or part.
        what: &'static str,
        /// What was given.
        value: String,
        /// What is wrong, and what is right.
        reason: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {}", path.display())]
    File {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
    /// A file is no report.
    #[error("{} is no report of `rkvm compare --json`", path.display())]
    NoReport {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// A report of another version.
    #[error("{} is a report of version {version}; this rkvm reads version {known}: use the rkvm that wrote it", path.display())]
    Version {
        /// The file.
        path: PathBuf,
        /// Its version.
        version: u32,
        /// The version that can be read.
        known: u32,
    },
    /// A program cannot be started.
    #[error("cannot execute {program}")]
    Spawn {
        /// The program.
        program: String,
        /// Why.
        source: std::io::Error,
    },
    /// A helper program failed.
    #[error("`{command}` failed: {output}")]
    Helper {
        /// Its command line.
        command: String,
        /// What it wrote.
        output: String,
    },
    /// A start did not become ready.
    #[error("{}", describe(.0))]
    NotReady(Box<crate::model::Failure>),
    /// The user ended the measurement.
    #[error("interrupted")]
    Interrupted,
}

impl Error {
    /// An [`Error::File`].
    pub fn file(action: &'static str, path: impl Into<PathBuf>, source: std::io::Error) -> Self {
        Self::File { action, path: path.into(), source }
    }

    /// The message with those of its causes, for texts that are all that is kept of it.
    pub fn with_causes(&self) -> String {
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.push_str(&format!(": {error}"));
            cause = error.source();
        }
        text
    }

    /// An [`Error::Invalid`].
    pub fn invalid(what: &'static str, value: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Invalid { what, value: value.into(), reason: reason.into() }
    }
}

fn describe(failure: &crate::model::Failure) -> String {
    let mut text = format!("{}: {}", failure.subject, failure.message);
    match &failure.reached {
        Some(phase) => text.push_str(&format!("; the last phase that ended is `{phase}`")),
        None => text.push_str("; no phase is known to have ended"),
    }
    if failure.log.is_empty() {
        text.push_str("; it wrote nothing");
    } else {
        text.push_str("; its last lines:");
        failure.log.iter().for_each(|line| text.push_str(&format!("\n  | {line}")));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_is_told_once() {
        let error = Error::file("read", "/no/such/file", std::io::Error::from_raw_os_error(2));
        assert_eq!(error.to_string(), "cannot read /no/such/file");
        let whole = error.with_causes();
        assert_eq!(whole, "cannot read /no/such/file: No such file or directory (os error 2)");
    }
}
