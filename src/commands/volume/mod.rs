//! `rkvm volume`.

use anyhow::Result;
use clap::Subcommand;

use crate::context::Context;

mod create;
mod inspect;
mod ls;
pub(super) mod prune;
mod rm;

/// Verbs of `rkvm volume`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    /// Make a volume
    Create(create::Args),
    /// Show everything that is known of volumes, as JSON
    Inspect(inspect::Args),
    /// List volumes
    #[command(visible_alias = "list")]
    Ls(ls::Args),
    /// Remove the volumes that no container uses
    Prune(prune::Args),
    /// Remove volumes and what is in them
    #[command(visible_alias = "remove")]
    Rm(rm::Args),
}

/// Runs the verb.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    match args.verb {
        Verb::Create(args) => create::run(args, context),
        Verb::Inspect(args) => inspect::run(args, context),
        Verb::Ls(args) => ls::run(args, context),
        Verb::Prune(args) => prune::run(args, context),
        Verb::Rm(args) => rm::run(args, context),
    }
}

/// Labels from `KEY=VALUE` texts; without `=` the value is empty.
fn labels(texts: &[String]) -> std::collections::BTreeMap<String, String> {
    let pair = |text: &String| {
        let (key, value) = text.split_once('=').unwrap_or((text, ""));
        (key.to_owned(), value.to_owned())
    };
    texts.iter().map(pair).collect()
}
