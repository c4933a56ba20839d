//! `rkvm pull`: an image from its registry.

use anyhow::Result;
use rkvm_image::limits::parse_bytes;
use rkvm_image::{Limits, News, Reference, Store};

use crate::context::Context;
use crate::output;
use crate::pulling::{self, Show};

/// Flags of `rkvm pull`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Print only the name
    #[arg(short, long)]
    quiet: bool,
    /// Largest layer to unpack, in bytes or with a unit
    #[arg(long, value_name = "SIZE", default_value = "32g", value_parser = parse_bytes)]
    max_layer_size: u64,
    /// Image to fetch
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: Reference,
}

/// Fetches the image and says whether it is a newer one.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let store = Store::open(&context.lib_dir);
    let limits = Limits { layer_bytes: args.max_layer_size, ..Limits::default() };
    let show = if args.quiet { Show::Nothing } else { Show::Stdout };
    let pulled = pulling::pull(&store, &args.name, limits, show)?;
    pulling::line(show, &format!("Digest: {}", pulled.digest));
    let status = match pulled.news {
        News::Downloaded => "Downloaded newer image for",
        News::UpToDate => "Image is up to date for",
    };
    pulling::line(show, &format!("Status: {status} {}", args.name.familiar()));
    output::line(&args.name)?;
    Ok(0)
}
