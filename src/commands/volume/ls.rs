//! `rkvm volume ls`.

use anyhow::Result;
use rkvm_engine::format::Format;
use rkvm_engine::view::ps::Measure;
use rkvm_engine::view::volume::{LISTING, VolumeFilter, row};
use rkvm_engine::volume::VolumeStore;

use crate::context::Context;
use crate::output;

const EXAMPLES: &str = "\
Examples:
  rkvm volume ls --filter dangling=true              volumes that no container uses
  rkvm volume ls --filter label=owner=me
  rkvm volume ls --format '{{.Name}}\\t{{.Mountpoint}}'

A Go template has the fields .Name .Driver .Scope .Mountpoint .Labels .Size and the method .Label \"KEY\".";

/// Flags of `rkvm volume ls`.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Show only names
    #[arg(short, long)]
    quiet: bool,
    /// Show only volumes for which this holds: dangling=BOOL, driver=NAME, label=KEY[=VALUE], name=PATTERN
    #[arg(short, long, value_name = "KEY=VALUE")]
    filter: Vec<String>,
    /// `table`, `table TEMPLATE`, `json`, or a Go template for each volume
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Lists volumes by name.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let store = VolumeStore::new(&context.lib_dir);
    let filter = VolumeFilter::parse(&args.filter)?;
    let text = if args.quiet { args.format.as_deref().or(Some("{{.Name}}")) } else { args.format.as_deref() };
    let format = Format::parse(text, &LISTING)?;
    // Measuring reads the whole volume.
    let measure = if text.is_some_and(|text| text.contains(".Size")) { Measure::Size } else { Measure::Skip };
    let mut rows = vec![];
    for volume in store.list()? {
        if filter.accepts(&volume, || engine.volume_users(&volume.name))? {
            rows.push(row(&store, &volume, measure));
        }
    }
    output::print(&format.print(&LISTING, &rows)?)?;
    Ok(0)
}
