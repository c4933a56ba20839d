//! `rkvm system`: what concerns the engine as a whole.

use anyhow::Result;
use clap::Subcommand;

use super::info;
use crate::context::Context;

mod df;
mod prune;

/// Verbs of `rkvm system`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Show how much disk images, containers and volumes take
    Df(df::Args),
    /// Show what this engine and this host are
    Info(info::Args),
    /// Remove what is not used: stopped containers, images, on demand volumes
    Prune(prune::Args),
}

/// Runs the verb.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    match args.verb {
        Verb::Df(args) => df::run(args, context),
        Verb::Info(args) => info::run(args, context),
        Verb::Prune(args) => prune::run(args, context),
    }
}
