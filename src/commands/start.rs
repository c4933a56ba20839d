//! `rkvm start`.

use anyhow::{Result, bail};
use rkvm_engine::Engine;
use rkvm_engine::client::{Connection, StartResult};
use rkvm_engine::protocol::Hello;

use crate::attach::keys::DetachKeys;
use crate::attach::{self, SignalProxy, terminal};
use crate::context::Context;
use crate::each::each;
use crate::start;

/// Flags of `rkvm start`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Attach standard output and error, and pass signals on
    #[arg(short, long)]
    attach: bool,
    /// Attach standard input too, if the container keeps it open
    #[arg(short, long)]
    interactive: bool,
    /// Keys that detach from a terminal
    #[arg(long, value_name = "KEYS", default_value = "")]
    detach_keys: DetachKeys,
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Starts containers; attached, the exit code is the program's.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    if !args.attach && !args.interactive {
        return Ok(each(&args.containers, |name| start_one(&engine, name)));
    }
    let [name] = &args.containers[..] else { bail!("only one container can be attached to at a time") };
    attached(&engine, name, &args)
}

/// Starts the container, if it does not run.
pub fn start_one(engine: &Engine, name: &str) -> Result<()> {
    let container = engine.find(name)?;
    check(&container)?;
    if container.state.status.is_active() {
        return Ok(());
    }
    let hello = Hello::default();
    let mut connection = Connection::spawn(engine, container.id(), &start::monitor_program()?, &hello)?;
    match connection.started(container.id())? {
        StartResult::Started(_) => Ok(()),
        StartResult::Failed(failed) => bail!(failed.message),
    }
}

fn check(container: &rkvm_engine::Container) -> Result<()> {
    use rkvm_engine::ContainerStatus::{Dead, Paused};
    match container.state.status {
        Paused => bail!("container {} is paused: unpause it instead", container.name()),
        Dead => bail!(
            "container {} could not be cleaned up ({}): remove it with rm -f",
            container.name(),
            container.state.error
        ),
        _ => Ok(()),
    }
}

fn attached(engine: &Engine, name: &str, args: &Args) -> Result<u8> {
    let container = engine.find(name)?;
    check(&container)?;
    let process = &container.record.process;
    let stdin = args.interactive && process.open_stdin;
    if process.tty && stdin {
        start::require_terminal()?;
    }
    let hello = Hello {
        stdin,
        stdout: true,
        stderr: true,
        timeline: None,
        size: if process.tty { terminal::size() } else { None },
    };
    let id = container.id();
    let running = if container.state.status.is_active() { Connection::open(engine, id, &hello)? } else { None };
    let mut connection = match running {
        Some(connection) => connection,
        None => Connection::spawn(engine, id, &start::monitor_program()?, &hello)?,
    };
    let options = attach::Options {
        stdin,
        tty: process.tty,
        signals: if process.tty { SignalProxy::Off } else { SignalProxy::On },
        detach_keys: args.detach_keys.clone(),
    };
    let end = attach::attach(&mut connection, id, &options, |_| {});
    Ok(start::report(end.or_else(|error| start::lost(engine, id, error))?))
}
