//! `rkvm volume create`.

use anyhow::Result;
use rkvm_engine::volume::{VolumeError, VolumeStore};

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  rkvm volume create data
  rkvm volume create --label owner=me db
  rkvm run -d -v data:/var/lib/data IMAGE      a volume that does not exist is made by `run`, too";

/// Flags of `rkvm volume create`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Name; 64 random hex digits when it is left out
    name: Option<String>,
    /// Give the volume a label
    #[arg(long, value_name = "KEY[=VALUE]")]
    label: Vec<String>,
    /// Driver; only `local`, folders of this host, exists
    #[arg(short, long, value_name = "DRIVER", default_value = "local")]
    driver: String,
}

/// Makes a volume and prints its name. One that exists already is left as it is.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    if args.driver != "local" {
        return Err(VolumeError::UnknownDriver { driver: args.driver }.into());
    }
    let store = VolumeStore::new(&context.lib_dir);
    let labels = super::labels(&args.label);
    let volume = match &args.name {
        Some(name) => store.create(name, labels)?,
        None => store.create_anonymous(labels)?,
    };
    output::print(&format!("{}\n", volume.name))?;
    Ok(0)
}
