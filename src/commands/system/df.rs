//! `rkvm system df`.

use anyhow::Result;
use rkvm_engine::format::{Column, Format, Listing, Row, human};
use rkvm_engine::usage;
use rkvm_engine::volume::VolumeStore;
use rkvm_image::Store;

use crate::context::Context;
use crate::output;

const LISTING: Listing = Listing {
    columns: &[
        Column { field: "Type", header: "TYPE" },
        Column { field: "TotalCount", header: "TOTAL" },
        Column { field: "Active", header: "ACTIVE" },
        Column { field: "Size", header: "SIZE" },
        Column { field: "Reclaimable", header: "RECLAIMABLE" },
    ],
    default: "{{.Type}}\t{{.TotalCount}}\t{{.Active}}\t{{.Size}}\t{{.Reclaimable}}",
};

/// Flags of `rkvm system df`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// `table`, `table TEMPLATE`, `json`, or a Go template with .Type .TotalCount .Active .Size .Reclaimable
    #[arg(long, value_name = "FORMAT")]
    format: Option<String>,
}

/// Disk space of one kind of object.
#[derive(Debug, Default)]
struct Space {
    total: usize,
    active: usize,
    bytes: u64,
    reclaimable: u64,
}

impl Space {
    fn add(&mut self, bytes: u64, active: bool) {
        self.total += 1;
        self.active += usize::from(active);
        self.bytes += bytes;
        self.reclaimable += if active { 0 } else { bytes };
    }

    fn row(&self, kind: &str) -> Row {
        let percent = self.reclaimable.saturating_mul(100).checked_div(self.bytes).unwrap_or(0);
        Row::default()
            .with("Type", kind)
            .with("TotalCount", self.total.to_string())
            .with("Active", self.active.to_string())
            .with("Size", human::size(self.bytes))
            .with("Reclaimable", format!("{} ({percent}%)", human::size(self.reclaimable)))
    }
}

/// Prints how much disk images, containers and volumes take, and what pruning would give back.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let format = Format::parse(args.format.as_deref(), &LISTING)?;
    let engine = context.engine();
    let images = Store::open(&context.lib_dir).usage()?;
    let images = Space {
        total: images.total,
        active: images.active,
        bytes: images.bytes,
        reclaimable: images.reclaimable_bytes,
    };
    let mut containers = Space::default();
    for container in engine.list()?.0 {
        let bytes = usage::disk_bytes(container.paths.dir());
        containers.add(bytes, container.state.status.is_active());
    }
    let store = VolumeStore::new(&context.lib_dir);
    let mut volumes = Space::default();
    for volume in store.list()? {
        volumes.add(store.size_bytes(&volume.name), !engine.volume_users(&volume.name)?.is_empty());
    }
    let rows = [images.row("Images"), containers.row("Containers"), volumes.row("Local Volumes")];
    output::print(&format.print(&LISTING, &rows)?)?;
    Ok(0)
}
