//! `rkvm update`.

use anyhow::{Result, bail};
use rkvm_engine::{Engine, options, spec};

use crate::context::Context;
use crate::each::each;
use crate::flags::limits::ResourceFlags;

/// Flags of `rkvm update`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    resources: ResourceFlags,
    /// Restart policy: no | on-failure[:N] | always | unless-stopped
    #[arg(long, value_name = "POLICY")]
    restart: Option<String>,
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Changes limits and restart policies, of running containers at once.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    Ok(each(&args.containers, |name| update(&engine, name, &args)))
}

fn update(engine: &Engine, name: &str, args: &Args) -> Result<()> {
    let mut locked = engine.find_locked(name)?;
    let record = &mut locked.container.record;
    if let Some(text) = &args.restart {
        record.restart = options::restart(text)?;
        if record.auto_remove && record.restart != rkvm_engine::record::RestartPolicy::No {
            bail!("container {} is removed when it ends (--rm), so it cannot be restarted", record.name);
        }
    }
    let before = record.limits.clone();
    args.resources.apply(&mut record.limits)?;
    if record.limits != before && locked.container.state.status.has_processes() {
        let resources = spec::resources(&locked.container.record.limits);
        engine.open(&locked.container)?.workload.update(&resources)?;
    }
    Ok(locked.write_record()?)
}
