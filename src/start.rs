//! What `run`, `start`, `attach` and `restart` share.

use std::io::IsTerminal;
use std::path::PathBuf;

use anyhow::{Result, bail};
use clap::ValueEnum;
use rkvm_engine::Engine;
use rkvm_engine::protocol::Exited;

use crate::attach::End;
use crate::output;

/// A stream's name on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum StreamName {
    /// Descriptor 0.
    Stdin,
    /// Descriptor 1.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// Which streams a client is attached to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Streams {
    /// Descriptor 0.
    pub stdin: bool,
    /// Descriptor 1.
    pub stdout: bool,
    /// Descriptor 2.
    pub stderr: bool,
}

impl Streams {
    /// Those that were named; without any, both outputs, and the input of an interactive container.
    pub fn chosen(names: &[StreamName], interactive: bool) -> Self {
        if names.is_empty() {
            return Self { stdin: interactive, stdout: true, stderr: true };
        }
        Self {
            stdin: interactive && names.contains(&StreamName::Stdin),
            stdout: names.contains(&StreamName::Stdout),
            stderr: names.contains(&StreamName::Stderr),
        }
    }
}

/// Path of the monitor's program, beside this one.
///
/// # Errors
/// It is not there.
pub fn monitor_program() -> Result<PathBuf> {
    let program = std::env::current_exe()?.with_file_name("rkvm-monitor");
    if !program.exists() {
        bail!("{} is missing: install it beside rkvm", program.display());
    }
    Ok(program)
}

/// Checks that a terminal can be passed on.
///
/// # Errors
/// Standard input is none.
pub fn require_terminal() -> Result<()> {
    if std::io::stdin().is_terminal() {
        return Ok(());
    }
    bail!("standard input is not a terminal: leave -t out, or give the client a terminal")
}

/// What became of a container whose monitor broke off: the state, put right.
///
/// # Errors
/// `error`, when the state cannot be put right either.
pub fn lost(engine: &Engine, id: &str, error: anyhow::Error) -> Result<End> {
    if !matches!(error.downcast_ref(), Some(rkvm_engine::Error::MonitorLost { .. })) {
        return Err(error);
    }
    engine.reconcile()?;
    let state = match engine.find(id) {
        Ok(container) => container.state,
        Err(rkvm_engine::Error::NoSuchContainer(_)) => bail!(error),
        Err(other) => return Err(other.into()),
    };
    Ok(End::Exited(Exited { exit_code: state.exit_code, error: state.error, last: true }))
}

/// Tells the user why a client is not attached any more; the exit code.
pub fn report(end: End) -> u8 {
    match end {
        End::Exited(exited) => {
            if !exited.error.is_empty() {
                output::complain(format_args!("rkvm: {}", exited.error));
            }
            exited.exit_code
        }
        End::Failed(failed) => {
            output::complain(format_args!("rkvm: {}", failed.message));
            failed.exit_code
        }
        End::Detached => 0,
        End::Signaled(number) => 128 + number as u8,
    }
}
