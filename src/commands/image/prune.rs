//! `rkvm image prune`.

use std::io;

use anyhow::Result;
use rkvm_engine::format::human;
use rkvm_image::{PruneScope, Store};

use crate::commands::rmi::print_removals;
use crate::context::Context;
use crate::output;

/// Flags of `rkvm image prune`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Remove all images that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
}

/// Asks, removes, and says how much space that gave back.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let scope = if args.all { PruneScope::Unused } else { PruneScope::Untagged };
    if !args.force {
        let which = if args.all { "all images that no container uses" } else { "all images without a name" };
        output::print(&format!("This removes {which}. Are you sure? [y/N] "))?;
        let mut answer = String::new();
        io::stdin().read_line(&mut answer)?;
        if !matches!(answer.trim(), "y" | "Y" | "yes") {
            return Ok(0);
        }
    }
    let pruned = Store::open(&context.lib_dir).prune(scope)?;
    if !pruned.removals.is_empty() {
        output::line("Deleted Images:")?;
        print_removals(&pruned.removals)?;
        output::line("")?;
    }
    output::line(format_args!("Total reclaimed space: {}", human::size(pruned.bytes)))?;
    Ok(0)
}
