//! `rkvm restart`.

use anyhow::Result;
use rkvm_oci::Signal;

use crate::commands::start::start_one;
use crate::context::Context;
use crate::each::each;

/// Flags of `rkvm restart`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Signal to send first; the container's own without
    #[arg(short, long)]
    signal: Option<Signal>,
    /// Seconds before SIGKILL; -1 is without end
    #[arg(short, long, visible_alias = "timeout", value_name = "SECONDS", allow_negative_numbers = true)]
    time: Option<i64>,
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Stops containers and starts them again.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    Ok(each(&args.containers, |name| {
        engine.stop(&engine.find(name)?, args.signal, args.time)?;
        start_one(&engine, name)
    }))
}
