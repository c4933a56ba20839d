//! `rkvm container prune`.

use std::time::SystemTime;

use anyhow::Result;
use rkvm_engine::format::human;
use rkvm_engine::view::filter::PruneFilter;
use rkvm_engine::view::ps;
use rkvm_engine::{Engine, Error, store};

use crate::context::Context;
use crate::output::{self, Confirm};

/// Flags of `rkvm container prune`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not ask
    #[arg(short, long)]
    force: bool,
    /// Remove only containers for which this holds: label=KEY[=VALUE], label!=KEY[=VALUE], until=TIME
    #[arg(long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
}

/// Asks, removes the containers that do not run, prints their ids and the space they took.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let filter = PruneFilter::parse(&args.filter, SystemTime::now())?;
    Confirm::unless_forced(args.force).get("This will remove all stopped containers.")?;
    let bytes = remove_stopped(&context.engine(), &filter)?;
    output::print(&format!("Total reclaimed space: {}\n", human::size(bytes)))?;
    Ok(0)
}

/// Removes the containers that do not run and that `filter` takes, prints their ids and gives the bytes that they held.
pub fn remove_stopped(engine: &Engine, filter: &PruneFilter) -> Result<u64> {
    let (containers, damaged) = engine.list()?;
    for error in damaged {
        output::complain(format_args!("rkvm: {:#}", anyhow::Error::from(error)));
    }
    let mut removed = vec![];
    let mut bytes = 0;
    for container in containers {
        // A paused, restarting or running container is left alone.
        if container.state.status.is_active() || !filter.accepts(&container) {
            continue;
        }
        let locked = match store::lock(&engine.paths, container.id()) {
            Ok(locked) => locked,
            Err(Error::NoSuchContainer(_)) => continue,
            Err(error) => return Err(error.into()),
        };
        // It may have been started since it was listed.
        let status = locked.container.state.status;
        if status.is_active() {
            continue;
        }
        bytes += ps::sizes(&locked.container).0;
        engine.remove(locked, rkvm_engine::engine::AnonymousVolumes::Keep)?;
        removed.push(container.id().to_owned());
    }
    if !removed.is_empty() {
        output::print(&format!("Deleted Containers:\n{}\n\n", removed.join("\n")))?;
    }
    Ok(bytes)
}
