//! The process of one microVM: builds and runs the machine, holds the container's streams, takes commands, and ends as the container's
//! process ends.

mod commands;
mod machine;
mod session;
pub(crate) mod signals;
mod streams;
pub(crate) mod sys;

use std::fs::File;
use std::io::{self, Read, Write as _};
use std::mem::ManuallyDrop;
use std::os::fd::OwnedFd;

use rkvm_oci::failure::Failure;
use rkvm_oci::{Error, ExitStatus, Result};

use crate::backend::channel::{Channel, Report};
use crate::backend::plan::{CHANNEL_FD, PLAN_FD, Plan, PlannedTemplate};
use crate::jail::seccomp::{self, Thread};

/// Exit code of a machine that failed.
const FAILED: i32 = 125;

/// Runs the machine of the plan that this process was started with. Never returns.
pub fn main() -> ! {
    sys::one_arena();
    sys::make_room_for_descriptors();
    let (plan, channel) = match inherited() {
        Ok(both) => both,
        Err(error) => {
            let _ = writeln!(io::stderr(), "rkvm-vmm is started by rkvm, one a microVM: {error}");
            sys::exit_now(FAILED)
        }
    };
    let mut creator = Creator { channel: Some(channel), told: false, resuming: false };
    match run(plan, &mut creator) {
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

fn inherited() -> Result<(Plan, Channel)> {
    let take = |number: i32| {
        sys::inherited(number)
            .map_err(|source| Error::failed("take over", format!("descriptor {number}"), source))
    };
    let mut text = Vec::new();
    File::from(take(PLAN_FD)?)
        .read_to_end(&mut text)
        .map_err(|source| Error::failed("read", "the machine's plan", source))?;
    let plan = serde_json::from_slice(&text)
        .map_err(|source| Error::failed("understand", "the machine's plan", source))?;
    Ok((plan, Channel::of(take(CHANNEL_FD)?)))
}

/// A descriptor of the plan.
fn descriptor(number: i32) -> Result<OwnedFd> {
    sys::inherited(number)
        .map_err(|source| Error::failed("take over", format!("descriptor {number}"), source))
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
    fn report(&self, report: &Report) -> Result<()> {
        let Some(channel) = &self.channel else { return Ok(()) };
        channel.send(report).map_err(|errno| Error::failed("report to", "the creator", errno))
    }

    /// Hands over the machine's descriptor: whoever has it decides when KVM takes the machine apart.
    fn hand_over(&self, machine: i32) -> Result<()> {
        self.report(&Report::Machine)?;
        let Some(channel) = &self.channel else { return Ok(()) };
        channel.send_descriptor(machine).map_err(|errno| Error::failed("hand the machine to", "the creator", errno))
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

fn run(plan: Plan, creator: &mut Creator) -> Result<ExitStatus> {
    creator.resuming = matches!(plan.template, PlannedTemplate::Use { .. });
    let signals = signals::block().map_err(|source| Error::failed("catch", "signals", source))?;
    let (machine, parts) = machine::start(plan)?;
    creator.hand_over(machine.descriptor())?;
    // The process ends with the session: taking the machine apart piece by piece would only keep its parent waiting.
    let mut session = ManuallyDrop::new(session::Session::new(machine, parts, signals)?);
    seccomp::confine(Thread::Main).map_err(|source| Error::failed("confine", "the main thread", source))?;
    session.run(creator)
}
