//! `rkvm volume inspect`.

use anyhow::Result;
use rkvm_engine::view::volume::Inspect;
use rkvm_engine::volume::VolumeStore;

use crate::commands::inspect::Shown;
use crate::context::Context;

const EXAMPLES: &str = "\
Examples:
  rkvm volume inspect data
  rkvm volume inspect --format '{{.Mountpoint}}' data";

/// Flags of `rkvm volume inspect`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
    /// `json`, or a Go template for each volume
    #[arg(short, long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Prints what is known of the volumes.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let store = VolumeStore::new(&context.lib_dir);
    let mut shown = Shown::new(args.format.as_deref())?;
    for name in &args.names {
        shown.add(store.get(name).map(|volume| Inspect::new(&store, &volume)).map_err(Into::into))?;
    }
    shown.finish()
}
