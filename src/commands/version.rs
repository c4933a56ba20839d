//! `rkvm version`.

use anyhow::Result;

use crate::context::Context;

/// Flags of `rkvm version`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints the version.
pub fn run(_args: Args, _context: &Context) -> Result<u8> {
    println!("rkvm version {}", env!("CARGO_PKG_VERSION"));
    Ok(0)
}
