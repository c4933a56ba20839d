//! `rkvm-oci kill`.

use rkvm_oci::{Error, KillScope, Result, Signal};

use super::Context;

/// Flags of `rkvm-oci kill`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Signal every process of the container
    #[arg(long, short)]
    all: bool,
    /// The container's id
    id: String,
    /// The signal, by name or number
    #[arg(default_value = "TERM", allow_hyphen_values = true)]
    signal: String,
}

/// Sends the signal.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let signal: Signal =
        args.signal.parse().map_err(|source| Error::failed("signal container", &args.id, source))?;
    let scope = if args.all { KillScope::All } else { KillScope::Init };
    context.open(&args.id)?.kill(signal, scope)?;
    Ok(0)
}
