//! Signal names as `kill` and Docker accept them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A signal number, 1 to 64 (realtime signals included, which an enum of names cannot hold).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Signal(i32);

impl Signal {
    /// SIGTERM, the default of `stop`.
    pub const TERM: Self = Self(libc::SIGTERM);
    /// SIGKILL.
    pub const KILL: Self = Self(libc::SIGKILL);

    /// The signal with this number; `None` outside 1..=64.
    pub fn from_number(number: i32) -> Option<Self> {
        (1..=64).contains(&number).then_some(Self(number))
    }

    /// The number that `kill(2)` takes.
    pub fn number(self) -> i32 {
        self.0
    }
}

impl fmt::Display for Signal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match nix::sys::signal::Signal::try_from(self.0) {
            Ok(named) => f.write_str(named.as_str()),
            Err(_) => write!(f, "SIGRTMIN+{}", self.0 - libc::SIGRTMIN()),
        }
    }
}

/// The text is not a signal.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a signal: give a name (TERM, SIGTERM, RTMIN+3) or a number from 1 to 64")]
pub struct ParseSignalError(String);

impl FromStr for Signal {
    type Err = ParseSignalError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let error = || ParseSignalError(text.to_owned());
        if let Ok(number) = text.parse::<i32>() {
            return Self::from_number(number).ok_or_else(error);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        let realtime = |base: i32, offset: &str| -> Option<Self> {
            let offset: i32 = if offset.is_empty() { 0 } else { offset.parse().ok()? };
            Self::from_number(base + offset).filter(|signal| signal.0 >= libc::SIGRTMIN())
        };
        if let Some(offset) = name.strip_prefix("RTMIN") {
            return realtime(libc::SIGRTMIN(), offset).ok_or_else(error);
        }
        if let Some(offset) = name.strip_prefix("RTMAX") {
            return realtime(libc::SIGRTMAX(), offset).ok_or_else(error);
        }
        let full = match name {
            "CLD" => "SIGCHLD".to_owned(),
            "POLL" => "SIGIO".to_owned(),
            _ => format!("SIG{name}"),
        };
        full.parse::<nix::sys::signal::Signal>().map(|signal| Self(signal as i32)).map_err(|_| error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_numbers_and_realtime() {
        for (text, number) in
            [("TERM", 15), ("sigkill", 9), ("9", 9), ("RTMIN+3", libc::SIGRTMIN() + 3), ("SIGRTMAX-1", 63)]
        {
            assert_eq!(text.parse::<Signal>().unwrap().number(), number, "{text}");
        }
        for text in ["", "0", "65", "SIGNOPE", "RTMIN+99", "-9", "RTMIN-5"] {
            assert!(text.parse::<Signal>().is_err(), "{text}");
        }
    }
}
