//! `rkvm attach`.

use anyhow::{Result, bail};
use rkvm_engine::client::Connection;
use rkvm_engine::protocol::Hello;
use rkvm_engine::{ContainerStatus, Error};

use crate::attach::keys::DetachKeys;
use crate::attach::{self, SignalProxy, terminal};
use crate::context::Context;
use crate::start;

/// Flags of `rkvm attach`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Keys that detach from a terminal
    #[arg(long, value_name = "KEYS", default_value = "")]
    detach_keys: DetachKeys,
    /// Do not attach standard input
    #[arg(long)]
    no_stdin: bool,
    /// Pass the client's signals on
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// Name, id or beginning of the id
    container: String,
}

/// Attaches to a running container; the exit code is the program's.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let engine = context.engine();
    let container = engine.find(&args.container)?;
    let process = &container.record.process;
    let status = container.state.status;
    if status == ContainerStatus::Paused {
        bail!("container {} is paused: unpause it first", container.name());
    }
    let not_running = || Error::WrongState {
        verb: "attach to",
        name: container.name().to_owned(),
        status,
        hint: Some("start it first, or use start -a"),
    };
    if !status.is_active() {
        bail!(not_running());
    }
    let stdin = process.open_stdin && !args.no_stdin;
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
    let Some(mut connection) = Connection::open(&engine, id, &hello)? else { bail!(not_running()) };
    let options = attach::Options {
        stdin,
        tty: process.tty,
        signals: if args.sig_proxy && !process.tty { SignalProxy::On } else { SignalProxy::Off },
        detach_keys: args.detach_keys,
    };
    let end = attach::attach(&mut connection, id, &options, |_| {});
    Ok(start::report(end.or_else(|error| start::lost(&engine, id, error))?))
}
