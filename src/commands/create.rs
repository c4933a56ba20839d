//! `rkvm create`.

use anyhow::Result;
use rkvm_engine::ids;

use crate::context::Context;
use crate::flags::{Attachment, ContainerFlags};
use crate::output;
use crate::pulling::Show;

/// Flags of `rkvm create`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    #[command(flatten)]
    flags: ContainerFlags,
}

/// Makes a container and prints its id.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let image = args.flags.fetch(&engine, Show::Stderr)?;
    let locked = args.flags.create(&engine, &image, Attachment::Foreground, ids::random()?)?;
    output::line(locked.container.id())?;
    Ok(0)
}
