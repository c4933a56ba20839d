//! The birth of a machine's process, and its way to where the guest is ready.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd, RawFd};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use rkvm_cgroup::{Born, Cgroup};
use rkvm_linux::idmap;
use rkvm_linux::sys::fs;
use rkvm_linux::sys::spawn::{self, Parent, Side};
use rkvm_linux::wait::end_of;
use rkvm_oci::timeline::Phase;
use rkvm_oci::{Error, Result, Timeline, hooks};

use super::channel::{Channel, Go, Report};
use super::create::{Created, Rest};
use super::templates::Found;
use crate::jail::{self, Cell};

/// Makes the process.
pub(super) fn spawn(mut cell: Cell<'_>, cgroup: &Cgroup, theirs: Channel) -> Result<(i32, OwnedFd)> {
    let failed = |source| Error::failed("make", "the microVM's process", source);
    let entrance = cgroup.entrance()?;
    if spawn::is_single_threaded() {
        let born = entrance.clone_into().map(|fd: BorrowedFd<'_>| fd.try_clone_to_owned()).transpose();
        let born = born.map_err(failed)?;
        let how = if born.is_some() { Born::Inside } else { Born::Outside };
        cell.entrance = Some((entrance, how));
        return match spawn::clone3(0, Parent::Caller, born.as_ref().map(AsFd::as_fd)).map_err(failed)? {
            Side::Child => jail::enter(cell, theirs),
            Side::Parent { pid, pidfd } => Ok((pid, pidfd)),
        };
    }
    cell.entrance = Some((entrance, Born::Outside));
    match spawn::fork().map_err(failed)? {
        None => jail::enter(cell, theirs),
        Some(pid) => Ok((pid, spawn::pidfd_open(pid).map_err(failed)?)),
    }
}

/// Answers the process until the guest is ready.
pub(super) fn bring_up(
    created: &mut Created,
    spec: &Spec,
    rest: Rest,
    template: &Found,
    timeline: &mut Timeline,
) -> Result<()> {
    let Rest { descriptors, unmapped, mut state } = rest;
    state["pid"] = created.pid.into();
    // A process that waits for its mappings waits for nothing else.
    let mut descriptors = Some(descriptors);
    if unmapped.is_none()
        && let Some(descriptors) = descriptors.take()
    {
        deliver(created, &descriptors)?;
    }
    let mut recorded = false;
    loop {
        match created.channel.receive::<Report>()? {
            Some(Report::MapMe) => {
                idmap::map(spec, created.pid, unmapped.as_deref().unwrap_or_default())?;
                go(created, Go::Mapped)?;
                if let Some(descriptors) = descriptors.take() {
                    deliver(created, &descriptors)?;
                }
            }
            Some(Report::Enclosed) => {
                if let Some(all) = spec.hooks() {
                    #[allow(deprecated)]
                    hooks::run("prestart", all.prestart().as_ref(), &state)?;
                    hooks::run("createRuntime", all.create_runtime().as_ref(), &state)?;
                }
                go(created, Go::HooksDone)?;
            }
            // Without it the end only takes longer.
            Some(Report::Machine) => {
                created.kept = fs::receive_all(created.channel.as_fd()).unwrap_or_default();
            }
            Some(Report::Ready(stamps)) => {
                timeline.mark_at(Phase::Sandbox, stamps.entered);
                timeline.mark_at(Phase::Boot, stamps.init);
                timeline.mark_at(Phase::Process, stamps.ready);
                created.executed = stamps.executed;
                return Ok(());
            }
            Some(Report::Recordable(snapshot)) => {
                // Once: nobody can keep us here by saying it again.
                if !std::mem::replace(&mut recorded, true) {
                    template.record(*snapshot, created.pid);
                }
                go(created, Go::TemplateDone)?;
            }
            Some(Report::Failed(failure)) => return Err(failure.into()),
            Some(Report::NotResumed(failure)) => {
                template.give_up();
                return Err(Error::from(failure)
                    .hint("the machine could not go on from its template, which is not used again: the next ones boot"));
            }
            Some(Report::Started) | None => return Err(gone(created)),
        }
    }
}

/// Gives the process the plan and the descriptors that it speaks of.
fn deliver(created: &Created, descriptors: &[OwnedFd]) -> Result<()> {
    go(created, Go::Build(descriptors.len()))?;
    let numbers: Vec<RawFd> = descriptors.iter().map(AsRawFd::as_raw_fd).collect();
    told(created.channel.send_descriptors(&numbers))
}

/// Allows a step.
fn go(created: &Created, step: Go) -> Result<()> {
    told(created.channel.send(&step))
}

/// What came of telling the process something. That it has ended is no error here: what it has said before is still to be heard.
fn told(sent: nix::Result<()>) -> Result<()> {
    match sent {
        Ok(()) | Err(nix::Error::EPIPE | nix::Error::ECONNRESET) => Ok(()),
        Err(source) => Err(Error::failed("speak to", "the microVM's process", source)),
    }
}

/// The process is gone without a word.
fn gone(created: &Created) -> Error {
    let oom = created.cgroup.oom_kills().ok().flatten().unwrap_or(0) > 0;
    let reason = end_of(waitpid(Pid::from_raw(created.pid), None));
    let error = Error::failed("start", "the microVM's process", reason);
    if oom { error.hint("its memory limit is too low; raise linux.resources.memory.limit") } else { error }
}

/// Ends a half-made machine.
pub(super) fn end(created: &Created) {
    let _ = spawn::pidfd_signal(created.process.as_fd(), libc::SIGKILL);
    let _ = waitpid(Pid::from_raw(created.pid), None);
    // The error that brought us here is the one to report.
    let _ = created.cgroup.kill_all();
    let _ = created.cgroup.remove();
}
