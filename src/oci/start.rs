//! `rkvm-oci start`.

use rkvm_oci::{Result, Timeline};

use super::{Context, log::Log};

/// Flags of `rkvm-oci start`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container's id
    id: String,
}

/// Executes the container's program.
pub fn run(args: Args, context: &Context, log: &Log) -> Result<u8> {
    let warnings = context.open(&args.id)?.start(&mut Timeline::begin())?;
    warnings.iter().for_each(|warning| log.warning(warning));
    Ok(0)
}
