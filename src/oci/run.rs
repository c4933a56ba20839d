//! `rkvm-oci run`.

use rkvm_oci::lifecycle::Verb;
use rkvm_oci::{Bundle, Error, Result, Timeline};

use super::create::{self, CreateArgs};
use super::{Context, foreground, log::Log, stdio};

/// Flags of `rkvm-oci run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Do not wait for the container
    #[arg(long, short)]
    detach: bool,
    /// Leave the container when its process has ended
    #[arg(long)]
    keep: bool,
    /// Do not adopt orphans of the container (kept for compatibility: this runtime waits for its own child only)
    #[arg(long)]
    no_subreaper: bool,
    #[command(flatten)]
    create: CreateArgs,
}

/// Makes the container and executes its program; in the foreground waits, gives the exit code back and removes it.
pub fn run(args: Args, context: &Context, log: &Log) -> Result<u8> {
    let bundle = Bundle::load(&args.create.bundle)?;
    let terminal = bundle.spec.process().as_ref().and_then(|process| process.terminal()).unwrap_or(false);
    let socket = args.create.console_socket.as_deref();
    let (streams, console) = if terminal && socket.is_none() && !args.detach {
        let (streams, console) = foreground::Console::pair()?;
        (streams, Some(console))
    } else {
        (stdio::of(bundle.spec.process().as_ref(), socket)?, None)
    };
    let signals = if args.detach { None } else { Some(foreground::Signals::block()?) };
    let workload = create::create(&args.create, context, &bundle, streams)?;
    let pid = workload.pid();
    let id = &args.create.id;
    let started = context.open(id).and_then(|mut opened| opened.start(&mut Timeline::begin()));
    let warnings = match started {
        Ok(warnings) => warnings,
        Err(error) => {
            // The reason for the failed start is what the caller must hear.
            let _ = context.open(id).and_then(|opened| opened.delete(Verb::ForceDelete));
            return Err(error);
        }
    };
    warnings.iter().for_each(|warning| log.warning(warning));
    let Some(signals) = signals else { return Ok(0) };
    let status = foreground::wait(pid, workload, console, signals)?;
    if !args.keep {
        let warnings = match context.open(id).and_then(|opened| opened.delete(Verb::ForceDelete)) {
            // Deleted by another command while it ran.
            Err(Error::NotFound { .. }) => vec![],
            other => other?,
        };
        warnings.iter().for_each(|warning| log.warning(warning));
    }
    Ok(status.code())
}
