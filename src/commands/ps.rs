//! `rkvm ps`, also `rkvm container ls`.

use std::time::SystemTime;

use anyhow::Result;
use rkvm_engine::format::Format;
use rkvm_engine::view::filter::ContainerFilter;
use rkvm_engine::view::ps::{self, LISTING, LISTING_WITH_SIZE, Measure, Width};

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  rkvm ps -a                                          stopped containers too
  rkvm ps --filter status=exited --filter name=web    stopped containers with `web` in their name
  rkvm ps --format 'table {{.Names}}\\t{{.Status}}'     chosen columns
  rkvm ps --format '{{.ID}} {{.Label \"owner\"}}'       the value of a label
  rkvm rm $(rkvm ps -aq --filter status=exited)       remove what has ended

Filters: ancestor=IMAGE, before=CONTAINER, since=CONTAINER, exited=CODE, expose=PORT, publish=PORT, id=PATTERN, \
         name=PATTERN, isolation=container|vm, label=KEY[=VALUE], label!=KEY[=VALUE], network=NAME, volume=NAME|PATH, \
         status=created|running|paused|restarting|exited|dead. One key's values are alternatives, different keys must all hold.

A Go template has the fields .ID .Names .Image .Command .CreatedAt .RunningFor .Ports .State .Status .Size .Labels \
         .Mounts .LocalVolumes .Networks .Platform .Isolation, the method .Label \"KEY\" and Docker's functions (json, upper, \
         lower, title, join, split, pad, truncate, and those of Go).";

/// Flags of `rkvm ps`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Show all containers, not only those that run
    #[arg(short, long)]
    all: bool,
    /// Show only ids
    #[arg(short, long)]
    quiet: bool,
    /// Show the N containers that were created last, running or not
    #[arg(short = 'n', long, value_name = "N", conflicts_with = "latest")]
    last: Option<usize>,
    /// Show the container that was created last, running or not
    #[arg(short, long)]
    latest: bool,
    /// Show the size of each write layer, which reads all of it
    #[arg(short, long)]
    size: bool,
    /// Show ids, commands and mounts whole
    #[arg(long)]
    no_trunc: bool,
    /// Show only containers for which this holds; the keys are below
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `table TEMPLATE`, `json`, or a Go template for each container
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Lists containers, the newest first.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let (listing, measure) =
        if args.size { (LISTING_WITH_SIZE, Measure::Size) } else { (LISTING, Measure::Skip) };
    let text = if args.quiet { args.format.as_deref().or(Some("{{.ID}}")) } else { args.format.as_deref() };
    let format = Format::parse(text, &listing)?;
    let filter = ContainerFilter::parse(&engine, &args.filter)?;
    let (mut containers, damaged) = engine.list()?;
    for error in &damaged {
        output::complain(format_args!("rkvm: {:#}", anyhow::Error::msg(error.to_string())));
    }
    let limit = if args.latest { Some(1) } else { args.last };
    if !(args.all || limit.is_some() || filter.wants_stopped()) {
        containers.retain(|container| container.state.status.is_active());
    }
    containers.retain(|container| filter.accepts(container));
    containers.truncate(limit.unwrap_or(usize::MAX));
    let width = if args.no_trunc { Width::Full } else { Width::Short };
    let now = SystemTime::now();
    let rows: Vec<_> = containers.iter().map(|container| ps::row(container, width, measure, now)).collect();
    output::print(&format.print(&listing, &rows)?)?;
    Ok(u8::from(!damaged.is_empty()))
}
