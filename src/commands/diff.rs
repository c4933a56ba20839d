//! `rkvm diff`.

use anyhow::Result;
use rkvm_engine::diff;

use crate::context::Context;
use crate::output;

/// Flags of `rkvm diff`.
#[derive(Debug, clap::Args)]
#[command(after_help = "A: added, C: changed, D: deleted, against the image.")]
pub struct Args {
    /// Name, id or beginning of the id
    container: String,
}

/// Prints what the container changed in its root filesystem.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let container = context.engine().find(&args.container)?;
    let mut text = String::new();
    for (path, change) in diff::changes(&container)? {
        text.push_str(&format!("{change} {}\n", path.display()));
    }
    output::print(&text)?;
    Ok(0)
}
