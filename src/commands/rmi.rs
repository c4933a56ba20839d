//! `rkvm rmi`: remove images or names of images.

use anyhow::Result;
use rkvm_image::{Error, Removal, RemoveMode, Store};

use crate::commands::EXIT_FAILURE;
use crate::context::Context;
use crate::output;

/// Flags of `rkvm rmi`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Take names away from an image that a container uses, too, and all names of an id
    #[arg(short, long)]
    force: bool,
    /// Images, by name or id
    #[arg(required = true, value_name = "IMAGE")]
    images: Vec<String>,
}

/// Removes each image; one that cannot be removed does not keep the others.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let store = Store::open(&context.lib_dir);
    let mode = if args.force { RemoveMode::Force } else { RemoveMode::Plain };
    let mut code = 0;
    for image in &args.images {
        match store.remove(image, mode) {
            Ok(removals) => print_removals(&removals)?,
            Err(Error::NotFound { .. }) if args.force => {}
            Err(error) => {
                output::complain(format_args!("rkvm: {:#}", anyhow::Error::from(error)));
                code = EXIT_FAILURE;
            }
        }
    }
    Ok(code)
}

/// Prints what was removed, in Docker's words.
///
/// # Errors
/// It cannot be written.
pub fn print_removals(removals: &[Removal]) -> Result<()> {
    for removal in removals {
        match removal {
            Removal::Untagged(name) => output::line(format_args!("Untagged: {name}"))?,
            Removal::Deleted(id) => output::line(format_args!("Deleted: {id}"))?,
        }
    }
    Ok(())
}
