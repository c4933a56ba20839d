//! The engine's verbs, one a file. Each file has its `Args` (flags documented beside their definition) and
//! `run(args, context)`, which returns the exit code.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

use crate::context::Context;

/// Declares each verb's module, its place in the command line and its call: one line a verb, sorted by name.
macro_rules! verbs {
    ($($(#[$meta:meta])* $variant:ident => $module:ident),* $(,)?) => {
        $(mod $module;)*

        #[derive(Debug, Subcommand)]
        enum Command {
            $($(#[$meta])* $variant($module::Args),)*
        }

        fn dispatch(command: Command, context: &Context) -> anyhow::Result<u8> {
            match command {
                $(Command::$variant(args) => $module::run(args, context),)*
            }
        }
    };
}

verbs! {
    /// Work with images
    Image => image,
    /// List images
    Images => images,
    /// Load images from an archive or an OCI layout
    Load => load,
    /// Remove images or names of images
    Rmi => rmi,
    /// Save images to an archive
    Save => save,
    /// Give an image another name
    Tag => tag,
    /// Show the version
    Version => version,
}

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

/// Exit code of a command that could not do its work (Docker's convention).
pub const EXIT_ENGINE: u8 = 125;

/// Exit code of a command that did its work for some of what it was given, but not for all (Docker's convention).
pub const EXIT_FAILURE: u8 = 1;

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
    dispatch(cli.command, &context).unwrap_or_else(|error| {
        eprintln!("rkvm: {error:#}");
        exit_code(&error)
    })
}

/// Exit code of a command that ends with `error`.
fn exit_code(error: &anyhow::Error) -> u8 {
    if let Some(error) = error.downcast_ref::<rkvm_oci::Error>() {
        return error.exit_code();
    }
    error.downcast_ref::<rkvm_engine::Error>().map_or(EXIT_ENGINE, rkvm_engine::Error::exit_code)
}
