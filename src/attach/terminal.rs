//! The client's own terminal: raw while it is attached, as it was before on every way out.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;

use nix::sys::termios::{SetArg, Termios, cfmakeraw, tcgetattr, tcsetattr};

use super::sys;

/// Raw mode until it is dropped.
#[derive(Debug)]
pub struct RawMode {
    before: Termios,
}

impl RawMode {
    /// Makes standard input raw, if it is a terminal.
    ///
    /// # Errors
    /// The terminal cannot be set.
    pub fn enter() -> io::Result<Option<Self>> {
        let stdin = io::stdin();
        if !stdin.is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(&stdin)?;
        let mut raw = before.clone();
        cfmakeraw(&mut raw);
        tcsetattr(&stdin, SetArg::TCSANOW, &raw)?;
        Ok(Some(Self { before }))
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        // There is nobody left to tell.
        let _ = tcsetattr(io::stdin(), SetArg::TCSANOW, &self.before);
    }
}

/// Rows and columns of the client's terminal, whichever stream it is on.
pub fn size() -> Option<(u16, u16)> {
    sys::window_size(io::stdout().as_fd()).or_else(|| sys::window_size(io::stdin().as_fd()))
}
