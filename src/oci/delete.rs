//! `rkvm-oci delete`.

use rkvm_oci::lifecycle::Verb;
use rkvm_oci::{Error, Result};

use super::{Context, log::Log};

/// Flags of `rkvm-oci delete`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kill the container first when it still runs; no error when there is none
    #[arg(long, short)]
    force: bool,
    /// The container's id
    id: String,
}

/// Removes the container.
pub fn run(args: Args, context: &Context, log: &Log) -> Result<u8> {
    let verb = if args.force { Verb::ForceDelete } else { Verb::Delete };
    let warnings = match context.open(&args.id).and_then(|opened| opened.delete(verb)) {
        Err(Error::NotFound { .. }) if args.force => return context.remove_remains(&args.id),
        other => other?,
    };
    warnings.iter().for_each(|warning| log.warning(warning));
    Ok(0)
}
