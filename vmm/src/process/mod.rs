//! The process of one microVM: builds and runs the machine, holds the container's streams, takes commands, and ends as the container's
//! process ends.

mod commands;
mod given;
pub(crate) mod machine;
mod session;
pub(crate) mod signals;
mod streams;
pub(crate) mod sys;

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};

use rkvm_oci::failure::Failure;
use rkvm_oci::{Error, ExitStatus, Result};
use serde::de::DeserializeOwned;

use crate::backend::channel::{Channel, Go, Report};
use crate::backend::plan::{CHANNEL_FD, OUTLINE_FD, Outline, Plan, PlannedTemplate};
use crate::jail::seccomp::{self, Thread};
use given::Given;
use machine::Begun;

/// Exit code of a machine that failed.
const FAILED: i32 = 125;

/// Runs the machine of the plan that this process was started with. Never returns.
pub fn main() -> ! {
    sys::one_arena();
    sys::make_room_for_descriptors();
    let (outline, channel) = match inherited() {
        Ok(both) => both,
        Err(error) => {
            let _ = writeln!(io::stderr(), "rkvm-vmm is started by rkvm, one a microVM: {error}");
            sys::exit_now(FAILED)
        }
    };
    let mut creator = Creator { channel: Some(channel), told: false, resuming: false };
    match run(outline, &mut creator) {
        Ok(ExitStatus::Exited(code)) => sys::exit_now(code.into()),
        Ok(ExitStatus::Signaled(signal)) => {
            sys::die_by(signal.number());
            sys::exit_now(ExitStatus::Signaled(signal).code().into())
        }
        Err(error) => {
            let code = error.exit_code();
            creator.fail(error);
            sys::exit_now(code.into())
        }
    }
}

fn inherited() -> Result<(Outline, Channel)> {
    let outline = read("outline", given::inherited(OUTLINE_FD)?)?;
    Ok((outline, Channel::of(given::inherited(CHANNEL_FD)?)))
}

fn read<T: DeserializeOwned>(what: &'static str, document: OwnedFd) -> Result<T> {
    let mut text = Vec::new();
    File::from(document)
        .read_to_end(&mut text)
        .map_err(|source| Error::failed("read the machine's", what, source))?;
    serde_json::from_slice(&text).map_err(|source| Error::failed("understand the machine's", what, source))
}

/// Whoever started this process: told of the outcome, and outlived only once it has recorded the machine.
#[derive(Debug)]
struct Creator {
    /// Closed once the machine is recorded.
    channel: Option<Channel>,
    /// Whether it has been told that the machine is ready.
    told: bool,
    /// Whether the guest is to go on from a template and has not been heard of.
    resuming: bool,
}

impl Creator {
    fn gone() -> Error {
        Error::failed("go on", "without the creator", nix::Error::EPIPE)
    }

    fn channel(&self) -> Result<&Channel> {
        self.channel.as_ref().ok_or_else(Self::gone)
    }

    /// Waits for the plan.
    fn plan(&self) -> Result<(Plan, Given)> {
        let channel = self.channel()?;
        let Some(Go::Build(count)) = channel.receive()? else { return Err(Self::gone()) };
        let mut given = Given::new(channel.receive_descriptors(count)?);
        Ok((read("plan", given.take(0)?)?, given))
    }

    fn report(&self, report: &Report) -> Result<()> {
        let Some(channel) = &self.channel else { return Ok(()) };
        channel.send(report).map_err(|errno| Error::failed("report to", "the creator", errno))
    }

    /// Hands over what takes long to take apart: whoever has it decides when that is done.
    fn hand_over(&self, kept: &[RawFd]) -> Result<()> {
        self.report(&Report::Machine)?;
        let Some(channel) = &self.channel else { return Ok(()) };
        let sent = channel.send_descriptors(kept);
        sent.map_err(|errno| Error::failed("hand the machine to", "the creator", errno))
    }

    /// The last word: to the creator while it listens, and to the container's standard error later.
    fn fail(&self, error: Error) {
        match self.channel.as_ref().filter(|_| !self.told) {
            Some(channel) => {
                let failure = Failure::from(error);
                let report =
                    if self.resuming { Report::NotResumed(failure) } else { Report::Failed(failure) };
                let _ = channel.send(&report);
            }
            None => {
                let _ = writeln!(io::stderr(), "rkvm-vmm: {}", crate::backend::chain(&error));
            }
        }
    }
}

fn run(outline: Outline, creator: &mut Creator) -> Result<ExitStatus> {
    let signals = signals::block().map_err(|source| Error::failed("catch", "signals", source))?;
    creator.resuming = matches!(outline.template, PlannedTemplate::Use { .. });
    let begun = Begun::from(outline)?;
    // What goes wrong with the jail has nothing to do with the template.
    creator.resuming = false;
    let (plan, given) = creator.plan()?;
    let enclosed = begun.enclose(plan, given, creator.channel()?)?;
    creator.resuming = enclosed.resumes();
    let (machine, parts, mounts) = enclosed.start()?;
    creator.hand_over(&[machine.descriptor(), mounts.as_raw_fd()])?;
    drop(mounts);
    // The process ends with the session: taking the machine apart piece by piece would only keep its parent waiting.
    let mut session = ManuallyDrop::new(session::Session::new(machine, parts, signals)?);
    seccomp::confine(Thread::Main).map_err(|source| Error::failed("confine", "the main thread", source))?;
    session.run(creator)
}
