//! `rkvm save`: images to an archive.

use std::fs::{self, File};
use std::io::{self, BufWriter, IsTerminal};
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use rkvm_image::Store;

use crate::context::Context;

/// Flags of `rkvm save`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// File to write; standard output without it
    #[arg(short, long, value_name = "FILE")]
    output: Option<PathBuf>,
    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Writes an archive that is an OCI layout and one of `docker load` at once.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let store = Store::open(&context.lib_dir);
    let images = store.to_save(&args.images)?;
    match args.output {
        // A pipe or a device is written to, not replaced.
        Some(path) if path.exists() && !path.is_file() => {
            let file = File::options().write(true).open(&path);
            let file = file.with_context(|| format!("cannot write {}", path.display()))?;
            store.save(&images, BufWriter::new(file))?;
        }
        Some(path) => {
            // Aside, so that a failure neither leaves half an archive nor destroys the one that was there.
            let mut aside = path.clone().into_os_string();
            aside.push(format!(".{}.new", std::process::id()));
            let file = File::create_new(&aside).with_context(|| format!("cannot create {}", path.display()))?;
            let saved = store.save(&images, BufWriter::new(file)).map_err(anyhow::Error::from).and_then(|()| {
                fs::rename(&aside, &path).with_context(|| format!("cannot create {}", path.display()))
            });
            if saved.is_err() {
                let _ = fs::remove_file(&aside);
            }
            saved?;
        }
        None if io::stdout().is_terminal() => bail!("an archive is not for a terminal; name a file with -o, or redirect the output"),
        None => store.save(&images, BufWriter::new(io::stdout().lock()))?,
    }
    Ok(0)
}
