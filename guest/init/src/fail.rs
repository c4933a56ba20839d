//! What went wrong in the guest, for the host's user.

use std::fmt;
use std::io;

/// An operation that failed, and on what.
#[derive(Debug)]
pub struct Fail {
    action: &'static str,
    target: String,
    source: io::Error,
}

/// Result of anything here.
pub type Result<T> = std::result::Result<T, Fail>;

impl Fail {
    /// For `map_err`.
    pub fn on(action: &'static str, target: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |source| Self { action, target: target.to_string(), source }
    }
}

impl fmt::Display for Fail {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot {} {}: {}", self.action, self.target, self.source)
    }
}
