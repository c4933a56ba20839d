//! `rkvm system prune`.

use std::time::SystemTime;

use anyhow::Result;
use rkvm_engine::format::human;
use rkvm_engine::view::filter::PruneFilter;
use rkvm_engine::view::volume::VolumeFilter;
use rkvm_engine::volume::VolumeStore;
use rkvm_image::{PruneScope, Store};

use crate::commands::container::prune::remove_stopped;
use crate::commands::rmi::print_removals;
use crate::commands::volume::prune::{Which, remove_unused};
use crate::context::Context;
use crate::output::{self, Confirm};

/// Flags of `rkvm system prune`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Every image that no container uses, not only those without a name
    #[arg(short, long)]
    all: bool,
    /// Anonymous volumes that no container uses, too
    #[arg(long)]
    volumes: bool,
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove only containers for which this holds: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Asks, removes what is not used, and says how much space that gave back.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let filter = PruneFilter::parse(&args.filter, SystemTime::now())?;
    let mut things =
        vec!["all stopped containers", "the bridge network, if no container is connected to it"];
    if args.volumes {
        things.push("all anonymous volumes not used by at least one container");
    }
    things.push("all templates of microVMs: the next start of each shape boots");
    things.push(if args.all { "all images without at least one container associated to them" } else { "all dangling images" });
    let list: Vec<_> = things.iter().map(|thing| format!("\n  - {thing}")).collect();
    Confirm::unless_forced(args.force).get(&format!("This will remove:{}\n", list.concat()))?;

    let engine = context.engine();
    // Containers that a killed command left half made would keep images and volumes in use.
    engine.reconcile()?;
    let mut bytes = remove_stopped(&engine, &filter)?;
    engine.network().prune().map_err(rkvm_engine::Error::from)?;
    if args.volumes {
        let all = VolumeFilter::parse_prune::<&str>(&[])?;
        bytes += remove_unused(&engine, &VolumeStore::new(&context.lib_dir), Which::Anonymous, &all)?;
    }
    let scope = if args.all { PruneScope::Unused } else { PruneScope::Untagged };
    let pruned = Store::open(&context.lib_dir).prune(scope)?;
    if !pruned.removals.is_empty() {
        output::print("Deleted Images:\n")?;
        print_removals(&pruned.removals)?;
        output::print("\n")?;
    }
    bytes += pruned.bytes + rkvm_vmm::backend::templates::remove_all();
    output::print(&format!("Total reclaimed space: {}\n", human::size(bytes)))?;
    Ok(0)
}
