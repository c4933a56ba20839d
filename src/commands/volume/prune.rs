//! `rkvm volume prune`.

use anyhow::Result;
use rkvm_engine::Engine;
use rkvm_engine::format::human;
use rkvm_engine::view::volume::VolumeFilter;
use rkvm_engine::volume::{Naming, VolumeStore};

use crate::context::Context;
use crate::output::{self, Confirm};

/// Flags of `rkvm volume prune`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Named volumes too, not only anonymous ones
    #[arg(short, long)]
    all: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove only volumes for which this holds: label=KEY[=VALUE], label!=KEY[=VALUE], all=BOOL
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Which unused volumes are removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Which {
    /// Those that nobody named.
    Anonymous,
    /// All.
    All,
}

/// Asks, removes unused volumes, prints their names and the space they took.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let filter = VolumeFilter::parse_prune(&args.filter)?;
    let which = if args.all || filter.takes_all() { Which::All } else { Which::Anonymous };
    Confirm::unless_forced(args.force).get(match which {
        Which::All => "This will remove all local volumes not used by at least one container.",
        Which::Anonymous => "This will remove anonymous local volumes not used by at least one container.",
    })?;
    let bytes = remove_unused(&context.engine(), &VolumeStore::new(&context.lib_dir), which, &filter)?;
    output::print(&format!("Total reclaimed space: {}\n", human::size(bytes)))?;
    Ok(0)
}

/// Removes the unused volumes that `filter` takes, prints their names and gives the bytes that they held.
pub fn remove_unused(engine: &Engine, store: &VolumeStore, which: Which, filter: &VolumeFilter) -> Result<u64> {
    let wanted = |volume: &rkvm_engine::volume::Volume| {
        (which == Which::All || volume.naming == Naming::Anonymous) && filter.labels_match(volume)
    };
    let removed = store.prune(wanted, |name| engine.volume_users(name))?;
    if !removed.is_empty() {
        let names: Vec<_> = removed.iter().map(|(volume, _)| volume.name.as_str()).collect();
        output::print(&format!("Deleted Volumes:\n{}\n\n", names.join("\n")))?;
    }
    Ok(removed.iter().map(|(_, bytes)| bytes).sum())
}
