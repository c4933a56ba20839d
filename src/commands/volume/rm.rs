//! `rkvm volume rm`.

use anyhow::Result;
use rkvm_engine::Error;
use rkvm_engine::volume::{VolumeError, VolumeStore};

use crate::context::Context;
use crate::output;

/// Flags of `rkvm volume rm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Names
    #[arg(required = true, value_name = "VOLUME")]
    names: Vec<String>,
    /// A volume that does not exist is no error
    #[arg(short, long)]
    force: bool,
}

/// Removes volumes, and prints the names of those that are gone.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let store = VolumeStore::new(&context.lib_dir);
    Ok(output::for_each(&args.names, |name| {
        match store.remove(name, |name| engine.volume_users(name)) {
            Err(Error::Volume(VolumeError::NotFound { .. })) if args.force => {}
            result => result?,
        }
        output::print(&format!("{name}\n"))
    }))
}
