//! `rkvm pause`.

use anyhow::Result;

use crate::context::Context;
use crate::each::each;

/// Flags of `rkvm pause`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Freezes every process of containers.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    Ok(each(&args.containers, |name| Ok(engine.pause(engine.find(name)?.id())?)))
}
