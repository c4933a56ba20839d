//! `rkvm-oci pause`.

use rkvm_oci::Result;

use super::Context;

/// Flags of `rkvm-oci pause`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container's id
    id: String,
}

/// Freezes every process of the container.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    context.open(&args.id)?.pause()?;
    Ok(0)
}
