//! `rkvm container`: the verbs for containers under one name, as Docker has them.

use anyhow::Result;
use clap::Subcommand;

use super::{cp, inspect, port, ps, rename};
use crate::context::Context;

pub(super) mod prune;

/// Verbs of `rkvm container`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Copy files between a container and the host
    Cp(cp::Args),
    /// Show everything that is known of containers, as JSON
    Inspect(inspect::Args),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::Args),
    /// Show where published ports listen on the host
    Port(port::Args),
    /// Remove the containers that do not run
    Prune(prune::Args),
    /// Give a container another name
    Rename(rename::Args),
}

/// Runs the verb.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    match args.verb {
        Verb::Cp(args) => cp::run(args, context),
        Verb::Inspect(args) => inspect::run(args.of_containers(), context),
        Verb::Ls(args) => ps::run(args, context),
        Verb::Port(args) => port::run(args, context),
        Verb::Prune(args) => prune::run(args, context),
        Verb::Rename(args) => rename::run(args, context),
    }
}
