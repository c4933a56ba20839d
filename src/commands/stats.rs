//! `rkvm stats`.

use std::collections::HashMap;
use std::io::{self, IsTerminal};
use std::thread::sleep;
use std::time::Duration;

use anyhow::Result;
use rkvm_engine::Engine;
use rkvm_engine::format::Format;
use rkvm_engine::host;
use rkvm_engine::store::Container;
use rkvm_engine::view::ps::Width;
use rkvm_engine::view::stats::{LISTING, Sample, row};

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  rkvm stats                          all running containers, every second
  rkvm stats --no-stream web          once
  rkvm stats --no-stream --format '{{.Name}} {{.CPUPerc}} {{.MemUsage}}'

A Go template has the fields .Container .ID .Name .CPUPerc .MemUsage .MemPerc .NetIO .BlockIO .PIDs.";

/// Flags of `rkvm stats`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Names or ids; all running containers when there are none
    containers: Vec<String>,
    /// Containers that do not run, too
    #[arg(short, long)]
    all: bool,
    /// Print once instead of every second
    #[arg(long)]
    no_stream: bool,
    /// Show ids whole
    #[arg(long)]
    no_trunc: bool,
    /// `table`, `table TEMPLATE`, `json`, or a Go template for each container
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Time over which CPU use is measured.
const INTERVAL: Duration = Duration::from_secs(1);

/// Prints the resource use of containers.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let format = Format::parse(args.format.as_deref(), &LISTING)?;
    let memory = host::memory_bytes();
    let width = if args.no_trunc { Width::Full } else { Width::Short };
    let clear = !args.no_stream && io::stdout().is_terminal();
    let mut before = samples(&engine, &chosen(&engine, &args)?)?;
    loop {
        sleep(INTERVAL);
        let containers = chosen(&engine, &args)?;
        let now = samples(&engine, &containers)?;
        let rows: Vec<_> = containers
            .iter()
            .map(|container| {
                row(container, width, before.get(container.id()), now.get(container.id()), memory)
            })
            .collect();
        let text = format.print(&LISTING, &rows)?;
        // Home, then clear to the end, so that the table does not flicker.
        output::print(&if clear { format!("\x1b[H\x1b[J{text}") } else { text })?;
        if args.no_stream {
            return Ok(0);
        }
        before = now;
    }
}

fn chosen(engine: &Engine, args: &Args) -> Result<Vec<Container>> {
    if !args.containers.is_empty() {
        return args.containers.iter().map(|name| Ok(engine.find(name)?)).collect();
    }
    let mut containers = engine.list()?.0;
    containers.retain(|container| args.all || container.state.status.has_processes());
    Ok(containers)
}

fn samples(engine: &Engine, containers: &[Container]) -> Result<HashMap<String, Sample>> {
    let mut samples = HashMap::new();
    for container in containers {
        match Sample::take(engine, container) {
            Ok(Some(sample)) => {
                samples.insert(container.id().to_owned(), sample);
            }
            Ok(None) => {}
            // It has ended since its state was read.
            Err(_) if engine.find(container.id()).is_ok_and(|now| !now.state.status.has_processes()) => {}
            Err(_) if engine.find(container.id()).is_err() => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(samples)
}
