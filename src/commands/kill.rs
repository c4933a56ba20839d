//! `rkvm kill`.

use anyhow::Result;
use rkvm_engine::client::Connection;
use rkvm_engine::protocol::{Hello, Kind};
use rkvm_engine::{Engine, Error};
use rkvm_oci::Signal;

use crate::context::Context;
use crate::each::each;

/// Flags of `rkvm kill`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Signal to send
    #[arg(short, long, default_value = "KILL")]
    signal: Signal,
    /// Names, ids or beginnings of ids
    #[arg(required = true, value_name = "CONTAINER")]
    containers: Vec<String>,
}

/// Sends a signal to the init of containers.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    Ok(each(&args.containers, |name| kill(&engine, name, args.signal)))
}

fn kill(engine: &Engine, name: &str, signal: Signal) -> Result<()> {
    let container = engine.find(name)?;
    let not_running = |status| Error::WrongState {
        verb: "kill",
        name: container.name().to_owned(),
        status,
        hint: Some("only a running container can be sent a signal"),
    };
    if !container.state.status.is_active() {
        return Err(not_running(container.state.status).into());
    }
    let gone = || not_running(rkvm_engine::ContainerStatus::Exited);
    let mut connection =
        Connection::open(engine, container.id(), &Hello::default())?.ok_or_else(gone)?;
    connection.signal(Kind::Signal, Some(signal)).map_err(|_| gone())?;
    if signal == Signal::KILL {
        // As Docker: when `kill` returns, the container has ended.
        engine.finish(&mut connection, &container)?;
    }
    Ok(())
}
