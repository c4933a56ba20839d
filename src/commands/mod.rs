//! The engine's verbs, one a file. Each file has its `Args` (flags documented beside their definition) and
//! `run(args, context)`, which returns the exit code.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::context::Context;

mod version;

/// A container runtime with two isolation backends: how much isolation can you afford, in milliseconds?
#[derive(Debug, Parser)]
#[command(name = "rkvm", disable_version_flag = true)]
pub struct Cli {
    /// Folder for all state, in place of /run/rkvm and /var/lib/rkvm
    #[arg(long, global = true, env = "RKVM_ROOT", value_name = "DIR")]
    root: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show the version
    Version(version::Args),
}

/// Exit code of a command that could not do its work (Docker's convention).
pub const EXIT_ENGINE: u8 = 125;

/// Parses the command line, runs the verb and gives the exit code back.
pub fn main() -> u8 {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            let _ = error.print();
            return if error.use_stderr() { EXIT_ENGINE } else { 0 };
        }
    };
    let context = Context::new(cli.root);
    let result = match cli.command {
        Command::Version(args) => version::run(args, &context),
    };
    result.unwrap_or_else(|error| {
        eprintln!("rkvm: {error:#}");
        error.downcast_ref::<rkvm_oci::Error>().map_or(EXIT_ENGINE, rkvm_oci::Error::exit_code)
    })
}
