//! `rkvm-oci resume`.

use rkvm_oci::Result;

use super::Context;

/// Flags of `rkvm-oci resume`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The container's id
    id: String,
}

/// Thaws every process of the container.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    context.open(&args.id)?.resume()?;
    Ok(0)
}
