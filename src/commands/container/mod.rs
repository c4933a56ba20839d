//! `rkvm container`: the verbs for containers under one name, as Docker has them.

use anyhow::Result;
use clap::Subcommand;

use super::{attach, cp, create, diff, exec, inspect, kill, logs, pause, port, ps, rename, restart, rm, run, start, stats, stop, top, unpause, update, wait};
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
    /// Attach to a running container
    Attach(attach::Args),
    /// Copy files between a container and the host
    Cp(cp::Args),
    /// Make a container without starting it
    Create(create::Args),
    /// Show what a container changed in its root filesystem
    Diff(diff::Args),
    /// Run another program in a running container
    Exec(exec::Args),
    /// Show everything that is known of containers, as JSON
    Inspect(inspect::Args),
    /// Send a signal to containers
    Kill(kill::Args),
    /// Show what a container wrote
    Logs(logs::Args),
    /// List containers
    #[command(visible_aliases = ["list", "ps"])]
    Ls(ps::Args),
    /// Freeze every process of containers
    Pause(pause::Args),
    /// Show where published ports listen on the host
    Port(port::Args),
    /// Remove the containers that do not run
    Prune(prune::Args),
    /// Give a container another name
    Rename(rename::Args),
    /// Stop containers and start them again
    Restart(restart::Args),
    /// Remove containers
    Rm(rm::Args),
    /// Make a container and start it
    Run(run::Args),
    /// Start containers
    Start(start::Args),
    /// Show the resource use of containers
    Stats(stats::Args),
    /// Stop containers
    Stop(stop::Args),
    /// List the processes of a container
    Top(top::Args),
    /// Thaw every process of containers
    Unpause(unpause::Args),
    /// Change limits and restart policies
    Update(update::Args),
    /// Wait until containers end, and print their exit codes
    Wait(wait::Args),
}

/// Runs the verb.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    match args.verb {
        Verb::Attach(args) => attach::run(args, context),
        Verb::Cp(args) => cp::run(args, context),
        Verb::Create(args) => create::run(args, context),
        Verb::Diff(args) => diff::run(args, context),
        Verb::Exec(args) => exec::run(args, context),
        Verb::Inspect(args) => inspect::run(args.of_containers(), context),
        Verb::Kill(args) => kill::run(args, context),
        Verb::Logs(args) => logs::run(args, context),
        Verb::Ls(args) => ps::run(args, context),
        Verb::Pause(args) => pause::run(args, context),
        Verb::Port(args) => port::run(args, context),
        Verb::Prune(args) => prune::run(args, context),
        Verb::Rename(args) => rename::run(args, context),
        Verb::Restart(args) => restart::run(args, context),
        Verb::Rm(args) => rm::run(args, context),
        Verb::Run(args) => run::run(args, context),
        Verb::Start(args) => start::run(args, context),
        Verb::Stats(args) => stats::run(args, context),
        Verb::Stop(args) => stop::run(args, context),
        Verb::Top(args) => top::run(args, context),
        Verb::Unpause(args) => unpause::run(args, context),
        Verb::Update(args) => update::run(args, context),
        Verb::Wait(args) => wait::run(args, context),
    }
}
