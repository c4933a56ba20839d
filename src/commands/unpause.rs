//! `rkvm unpause`.

use anyhow::Result;

use crate::context::Context;
use crate::each::each;

/// Flags of `rkvm unpause`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Thaws every process of containers.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    Ok(each(&args.containers, |name| Ok(engine.unpause(engine.find(name)?.id())?)))
}
