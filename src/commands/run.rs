//! `rkvm run`.

use anyhow::{Result, bail};
use rkvm_engine::client::{Connection, StartResult, Waiting};
use rkvm_engine::engine::AnonymousVolumes;
use rkvm_engine::protocol::Hello;
use rkvm_engine::{Engine, ids, store};
use rkvm_oci::{Phase, Timeline};

use crate::attach::keys::DetachKeys;
use crate::attach::{self, SignalProxy, terminal};
use crate::commands::EXIT_ENGINE;
use crate::context::Context;
use crate::flags::{Attachment, ContainerFlags};
use crate::pulling::Show;
use crate::start;
use crate::timings::{self, TimingsFormat};
use crate::output;

/// Flags of `rkvm run`.
#[derive(Debug, clap::Args)]
#[command(disable_help_flag = true)]
pub struct Args {
    /// Leave it running and print its id
    #[arg(short, long)]
    detach: bool,
    /// Attach only this: stdin | stdout | stderr
    #[arg(short, long = "attach", value_name = "STREAM", conflicts_with = "detach")]
    attach: Vec<start::StreamName>,
    /// Keys that detach from a terminal
    #[arg(long, value_name = "KEYS", default_value = "")]
    detach_keys: DetachKeys,
    /// Pass the client's signals on
    #[arg(long, default_value_t = true, num_args = 0..=1, require_equals = true, default_missing_value = "true", action = clap::ArgAction::Set)]
    sig_proxy: bool,
    /// Print how long each phase of the start took
    #[arg(long, value_name = "FORMAT", num_args = 0..=1, require_equals = true, default_missing_value = "table")]
    timings: Option<TimingsFormat>,
    /// Do not show the progress of pulling
    #[arg(short, long)]
    quiet: bool,
    #[command(flatten)]
    flags: ContainerFlags,
}

/// Makes and starts a container; in the foreground, the exit code is the program's.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let mut timeline = Timeline::begin();
    let engine = context.engine();
    engine.reconcile()?;
    let process = &args.flags.process;
    let streams = start::Streams::chosen(&args.attach, process.interactive);
    if process.tty && !args.detach && streams.stdin {
        start::require_terminal()?;
    }
    let show = if args.quiet { Show::Nothing } else { Show::Stderr };
    let image = args.flags.fetch(&engine, show)?;
    timeline.mark(Phase::Image);
    let attachment = if args.detach { Attachment::Detached } else { Attachment::Foreground };
    let id = ids::random()?;
    // It takes as long to come up as the container to be made.
    let monitor = start::monitor_program().and_then(|program| Ok(Waiting::spawn(&engine, &id, &program)?))?;
    drop(args.flags.create(&engine, &image, attachment, id.clone())?);
    let tty = process.tty;
    let hello = Hello {
        stdin: !args.detach && streams.stdin,
        stdout: !args.detach && streams.stdout,
        stderr: !args.detach && streams.stderr,
        timeline: Some(timeline),
        size: if tty { terminal::size() } else { None },
    };
    let mut connection = match monitor.begin(&hello) {
        Ok(connection) => connection,
        Err(error) => {
            if args.flags.auto_remove() {
                engine.remove(store::lock(&engine.paths, &id)?, AnonymousVolumes::Remove)?;
            }
            return Err(error.into());
        }
    };
    if args.detach {
        return detached(&engine, &mut connection, &id, args.timings);
    }
    let options = attach::Options {
        stdin: streams.stdin,
        tty,
        signals: if args.sig_proxy && !tty { SignalProxy::On } else { SignalProxy::Off },
        detach_keys: args.detach_keys,
    };
    let mut timeline = None;
    let end = attach::attach(&mut connection, &id, &options, |started| timeline = Some(started.timeline));
    let end = end.or_else(|error| start::lost(&engine, &id, error))?;
    if let (Some(format), Some(timeline)) = (args.timings, &timeline) {
        timings::print(timeline, format)?;
    }
    if let attach::End::Failed(failed) = &end {
        forget_unless_started(&engine, &id, failed.exit_code)?;
    }
    Ok(start::report(end))
}

/// Removes a container that the engine could not start: nothing of it is left to look at. One whose program could not be
/// executed stays, as with Docker.
fn forget_unless_started(engine: &Engine, id: &str, exit_code: u8) -> Result<()> {
    if exit_code != EXIT_ENGINE {
        return Ok(());
    }
    match store::lock(&engine.paths, id) {
        Ok(locked) => Ok(engine.remove(locked, AnonymousVolumes::Remove)?),
        Err(rkvm_engine::Error::NoSuchContainer(_)) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

fn detached(
    engine: &Engine,
    connection: &mut Connection,
    id: &str,
    format: Option<TimingsFormat>,
) -> Result<u8> {
    match connection.started(id) {
        Ok(StartResult::Started(started)) => {
            output::line(id)?;
            if let Some(format) = format {
                timings::print(&started.timeline, format)?;
            }
            Ok(0)
        }
        Ok(StartResult::Failed(failed)) => {
            forget_unless_started(engine, id, failed.exit_code)?;
            output::complain(format_args!("rkvm: {}", failed.message));
            Ok(failed.exit_code)
        }
        Err(error) => {
            // Whoever killed the monitor has left this to be put right.
            engine.reconcile()?;
            bail!(error)
        }
    }
}
