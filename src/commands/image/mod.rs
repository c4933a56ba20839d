//! `rkvm image`: Docker's other words for the image verbs, and those that have no word of their own.

pub mod inspect;
mod prune;

use anyhow::Result;
use clap::Subcommand;

use super::{images, load, pull, rmi, save, tag};
use crate::context::Context;

/// Flags of `rkvm image`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show everything about images
    Inspect(inspect::Args),
    /// Load images from an archive or an OCI layout
    Load(load::Args),
    /// List images
    #[command(visible_alias = "list")]
    Ls(images::Args),
    /// Remove images without a name
    Prune(prune::Args),
    /// Fetch an image from its registry
    Pull(pull::Args),
    /// Remove images or names of images
    #[command(visible_alias = "remove")]
    Rm(rmi::Args),
    /// Save images to an archive
    Save(save::Args),
    /// Give an image another name
    Tag(tag::Args),
}

/// Runs the verb.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    match args.verb {
        Verb::Inspect(args) => inspect::run(args, context),
        Verb::Load(args) => load::run(args, context),
        Verb::Ls(args) => images::run(args, context),
        Verb::Prune(args) => prune::run(args, context),
        Verb::Pull(args) => pull::run(args, context),
        Verb::Rm(args) => rmi::run(args, context),
        Verb::Save(args) => save::run(args, context),
        Verb::Tag(args) => tag::run(args, context),
    }
}
