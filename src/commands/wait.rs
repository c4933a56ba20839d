//! `rkvm wait`.

use anyhow::Result;
use rkvm_engine::{Engine, Error};

use super::EXIT_FAILURE;
use crate::context::Context;
use crate::output;

/// Flags of `rkvm wait`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Waits until containers have ended and prints their exit codes.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let mut code = 0;
    for name in &args.containers {
        if let Err(error) = wait(&engine, name).and_then(output::line) {
            output::complain(format_args!("rkvm: {error:#}"));
            code = EXIT_FAILURE;
        }
    }
    Ok(code)
}

fn wait(engine: &Engine, name: &str) -> Result<u8> {
    let container = engine.find(name)?;
    if let Some(exited) = engine.wait(&container)? {
        return Ok(exited.exit_code);
    }
    match engine.find(container.id()) {
        Ok(now) => Ok(now.state.exit_code),
        // Removed by --rm between the two looks.
        Err(Error::NoSuchContainer(_)) => Ok(container.state.exit_code),
        Err(error) => Err(error.into()),
    }
}
