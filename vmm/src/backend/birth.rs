//! The birth of a machine's process, and its way to where the guest is ready.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use oci_spec::runtime::Spec;
use rkvm_cgroup::{Born, Cgroup};
use rkvm_linux::idmap;
use rkvm_linux::mounts::options::Plan as MountPlan;
use rkvm_linux::sys::fs;
use rkvm_linux::sys::spawn::{self, Parent, Side};
use rkvm_linux::wait::end_of;
use rkvm_oci::timeline::Phase;
use rkvm_oci::{Error, Result, Timeline, hooks};

use super::channel::{Channel, Go, Report};
use super::create::Created;
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
    unmapped: &[(MountPlan, OwnedFd)],
    template: &Found,
    mut state: serde_json::Value,
    timeline: &mut Timeline,
) -> Result<()> {
    state["pid"] = created.pid.into();
    let mut recorded = false;
    loop {
        match created.channel.receive::<Report>()? {
            Some(Report::MapMe) => {
                idmap::map(spec, created.pid, unmapped)?;
                go(created, Go::Mapped)?;
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
            Some(Report::Machine) => created.machine = fs::receive(created.channel.as_fd()).ok(),
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

/// Allows a step; a process that has died meanwhile has said why.
fn go(created: &Created, step: Go) -> Result<()> {
    let Err(source) = created.channel.send(&step) else { return Ok(()) };
    match created.channel.receive() {
        Ok(Some(Report::Failed(failure))) => Err(failure.into()),
        Ok(_) => Err(gone(created)),
        Err(_) => Err(Error::failed("speak to", "the microVM's process", source)),
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
