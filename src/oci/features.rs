//! `rkvm-oci features`.

use rkvm_oci::{Error, Isolation, Result};

use super::Context;

/// Flags of `rkvm-oci features`.
#[derive(Debug, clap::Args)]
pub struct Args {}

/// Prints what the backend understands (runtime-spec, "Features Structure").
pub fn run(_args: Args, context: &Context) -> Result<u8> {
    let isolation = context.isolation.unwrap_or(Isolation::Container);
    let features = crate::backend::backend(isolation)?.features();
    let text = serde_json::to_string_pretty(&features)
        .map_err(|source| Error::failed("print", "the features", source))?;
    super::print(&format!("{text}\n"))?;
    Ok(0)
}
