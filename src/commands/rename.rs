//! `rkvm rename`.

use anyhow::Result;

use crate::context::Context;

/// Flags of `rkvm rename`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Name, id or beginning of the id
    container: String,
    /// The new name
    new_name: String,
}

/// Gives a container another name.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let new_name = args.new_name.strip_prefix('/').unwrap_or(&args.new_name);
    engine.find_locked(&args.container)?.rename(&engine.paths, new_name)?;
    Ok(0)
}
