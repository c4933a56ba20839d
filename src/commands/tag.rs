//! `rkvm tag`: another name for an image.

use anyhow::Result;
use rkvm_image::{Reference, Store};

use crate::context::Context;

/// Flags of `rkvm tag`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Image, by name or id
    #[arg(value_name = "SOURCE")]
    source: String,
    /// New name
    #[arg(value_name = "TARGET")]
    target: Reference,
}

/// Gives the image the name.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    Store::open(&context.lib_dir).tag(&args.source, &args.target)?;
    Ok(0)
}
