//! `rkvm load`: images from an archive or an OCI layout.

use std::io::{self, IsTerminal};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use rkvm_image::limits::parse_bytes;
use rkvm_image::{Limits, Loaded, Options, Reference, Silent, Store};

use crate::context::Context;
use crate::output;

/// Flags of `rkvm load`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Archive (OCI layout or docker save, compressed or not) or OCI layout folder; standard input without it
    #[arg(short, long, value_name = "PATH")]
    input: Option<PathBuf>,
    /// Print nothing but errors
    #[arg(short, long)]
    quiet: bool,
    /// Name for the image, when the archive has one image; needed where the archive does not say one
    #[arg(short, long, value_name = "NAME")]
    tag: Option<Reference>,
    /// Largest layer to unpack, in bytes or with a unit
    #[arg(long, value_name = "SIZE", default_value = "32g", value_parser = parse_bytes)]
    max_layer_size: u64,
}

/// Loads the images and prints their names.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let store = Store::open(&context.lib_dir);
    let limits = Limits { layer_bytes: args.max_layer_size, ..Limits::default() };
    let options = Options { limits, progress: &Silent };
    let loaded = match args.input.as_deref() {
        Some(path) if path != Path::new("-") => store.load_path(path, options)?,
        _ if io::stdin().is_terminal() => bail!("nothing to load; name a file with -i, or redirect one to standard input"),
        _ => store.load_archive("standard input", io::stdin(), options)?,
    };
    if let Some(name) = &args.tag {
        let [Loaded { id, .. }] = loaded.as_slice() else {
            bail!("--tag {name} is for archives of one image, and there were {}; they are loaded", loaded.len());
        };
        store.tag(&id.to_string(), name)?;
    }
    if !args.quiet {
        for image in &loaded {
            let names = image.names.iter().chain(&args.tag);
            for name in names.clone() {
                output::line(format_args!("Loaded image: {}", name.familiar()))?;
            }
            if names.count() == 0 {
                output::line(format_args!("Loaded image ID: {}", image.id))?;
            }
        }
    }
    Ok(0)
}
