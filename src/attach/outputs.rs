//! The client's own outputs, to which a container's go.

use std::io::{self, Write};

use rkvm_engine::log::Stream;

use crate::commands::EXIT_ENGINE;
use crate::output;

/// The client's own outputs, and whether something got lost on the way to them.
#[derive(Debug, Default)]
pub struct Outputs {
    lost: bool,
}

impl Outputs {
    /// Writes on. Output whose reader has gone is dropped, as with Docker: the container goes on. It also goes on after any other error,
    /// which is told once.
    pub fn write(&mut self, stream: Stream, bytes: &[u8]) {
        let (name, result) = match stream {
            Stream::Stdout => ("output", write_all(io::stdout(), bytes)),
            Stream::Stderr => ("error", write_all(io::stderr(), bytes)),
        };
        match result {
            Err(error) if error.kind() != io::ErrorKind::BrokenPipe && !self.lost => {
                self.lost = true;
                output::complain(format_args!(
                    "rkvm: cannot write to standard {name}: {error}; output of the container is lost here"
                ));
            }
            _ => {}
        }
    }

    /// The client's exit code for a program that ended with `code`: success only if nothing was lost.
    pub fn exit_code(&self, code: u8) -> u8 {
        if self.lost && code == 0 { EXIT_ENGINE } else { code }
    }
}

fn write_all(mut to: impl Write, bytes: &[u8]) -> io::Result<()> {
    to.write_all(bytes).and_then(|()| to.flush())
}
