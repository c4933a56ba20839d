//! `rkvm create`.

use anyhow::Result;
use rkvm_image::Store;

use crate::context::Context;
use crate::flags::{Attachment, ContainerFlags, pull};
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
    let store = Store::open(&context.lib_dir);
    let image = pull::image(&store, args.flags.image(), args.flags.pull, Show::Stderr)?;
    let locked = args.flags.create(&engine, &image, Attachment::Foreground)?;
    println!("{}", locked.container.id());
    Ok(0)
}
