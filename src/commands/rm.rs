//! `rkvm rm`.

use std::time::{Duration, Instant};

use anyhow::Result;
use rkvm_engine::engine::AnonymousVolumes;
use rkvm_engine::stop::MONITOR_LIMIT;
use rkvm_engine::{Engine, Error, store};

use crate::context::Context;
use crate::each::each;
use crate::output;

/// Flags of `rkvm rm`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Kill it first if it runs
    #[arg(short, long)]
    force: bool,
    /// Remove its anonymous volumes too
    #[arg(short, long)]
    volumes: bool,
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Removes containers.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let volumes = if args.volumes { AnonymousVolumes::Remove } else { AnonymousVolumes::Keep };
    Ok(each(&args.containers, |name| {
        let removed = if args.force { force(&engine, name, volumes) } else { remove(&engine, name, volumes) };
        match removed {
            // As Docker: what is not there need not be removed by force.
            Err(Error::NoSuchContainer(_)) if args.force => {
                output::complain(format_args!("rkvm: no such container: {name}"));
                Ok(())
            }
            other => Ok(other?),
        }
    }))
}

fn remove(engine: &Engine, name: &str, volumes: AnonymousVolumes) -> rkvm_engine::Result<()> {
    let id = engine.find(name)?.record.id;
    let locked = store::lock(&engine.paths, &id)?;
    let status = locked.container.state.status;
    if status.is_active() || engine.has_monitor(&id)? {
        return Err(Error::WrongState {
            verb: "remove",
            name: locked.container.name().to_owned(),
            status,
            hint: Some("stop it first, or use rm -f"),
        });
    }
    // What a monitor could not clean up is tried once more.
    engine.clean(&id)?;
    engine.remove(locked, volumes)
}

fn force(engine: &Engine, name: &str, volumes: AnonymousVolumes) -> rkvm_engine::Result<()> {
    let container = match engine.find(name) {
        Err(error @ Error::Damaged { .. }) => {
            // There is no record to be careful with: the id that was given is all there is.
            return engine.remove_damaged(name).map_err(|_| error);
        }
        other => other?,
    };
    let id = container.id();
    let deadline = Instant::now() + MONITOR_LIMIT;
    loop {
        engine.kill_and_wait(&container)?;
        match remove(engine, id, volumes) {
            // --rm was faster.
            Err(Error::NoSuchContainer(_)) => return Ok(()),
            // A monitor that has ended its container lives a moment longer than it.
            Err(Error::WrongState { .. }) if Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(1));
            }
            other => return other,
        }
    }
}
