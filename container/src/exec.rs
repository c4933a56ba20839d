//! A further process in a running container.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use oci_spec::runtime::Spec;
use rkvm_oci::{Bundle, Error, ExecProcess, ExecRequest, ExitStatus, Result, Signal, Stdio};

use crate::Binary;
use crate::create::{is_privileged, seccomp_cache, send_listener};
use crate::init::leftovers::Leftovers;
use crate::init::program::Program;
use crate::init::{self, devices};
use crate::memory_policy::bit_mask;
use crate::process::{Plan, Role};
use crate::sync::{Channel, Go, Report};
use rkvm_cgroup::{Born, Cgroup, Entrance};
use rkvm_linux::seccomp::Filter;
use rkvm_linux::sys::spawn::{self, Parent, Side};
use rkvm_linux::sys::{exe, fs, process as sys};
use rkvm_linux::wait::{end_of, wait_for};
use rkvm_oci::failure::Failure;

/// The container that the process joins.
#[derive(Debug)]
pub struct Target<'a> {
    /// Its id.
    pub id: &'a str,
    /// Its bundle, whose seccomp profile applies to the process too.
    pub bundle: &'a Path,
    /// Its init process.
    pub process: BorrowedFd<'a>,
    /// That process's id.
    pub pid: i32,
    /// `CLONE_NEW*` flags of its own namespaces.
    pub namespaces: i32,
    /// Its cgroup.
    pub cgroup: Option<&'a Cgroup>,
    /// What protects the runtime's binary.
    pub binary: Binary,
}

/// A process that [`exec`] has started.
#[derive(Debug)]
pub struct Process {
    pid: i32,
    process: OwnedFd,
}

impl ExecProcess for Process {
    fn pid(&self) -> i32 {
        self.pid
    }

    fn kill(&mut self, signal: Signal) -> Result<()> {
        spawn::pidfd_signal(self.process.as_fd(), signal.number())
            .map_err(|source| Error::failed("signal process", self.pid, source))
    }

    fn wait(&mut self) -> Result<ExitStatus> {
        wait_for(self.pid)
    }
}

/// What the new process is given.
struct Context<'a> {
    target: &'a Target<'a>,
    plan: Plan,
    filter: Option<Filter>,
    stdio: Stdio,
    preserve_fds: u32,
    final_cpus: Vec<u64>,
    entrance: Option<(Entrance, Born)>,
}

/// Starts a process in the container; returns once execve has succeeded.
///
/// # Errors
/// The process cannot be made, or its program cannot be executed.
pub fn exec(target: &Target<'_>, request: ExecRequest<'_>) -> Result<Process> {
    let ExecRequest { process, stdio, preserve_fds } = request;
    // The configuration may have been changed or removed since; then the process's own part must do, as in runc.
    let spec = Bundle::load(target.bundle).map(|bundle| bundle.spec).unwrap_or_default();
    let in_user_namespace = target.namespaces & libc::CLONE_NEWUSER != 0;
    let mut plan = Plan::new(process, &spec, Role::Exec, in_user_namespace)?;
    if groups_denied(target.pid) {
        plan.deny_groups()?;
    }
    let profile = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref());
    let filter = match profile {
        Some(profile) => Some(Filter::compile(profile, seccomp_cache().as_deref())?),
        None => None,
    };
    let (initial_cpus, final_cpus) = affinity(process)?;
    let state = state(target, &spec);
    let listener = filter.as_ref().and_then(Filter::listener).cloned();
    let limits = plan.clone();
    let entrance = target.cgroup.map(Cgroup::entrance).transpose()?;
    // Only without other threads can clone3 be used as a fork, and with it be born in the cgroup.
    let born = if spawn::is_single_threaded() { Born::Inside } else { Born::Outside };
    let entrance = entrance.map(|entrance| (entrance, born));
    let context = Context { target, plan, filter, stdio, preserve_fds, final_cpus, entrance };
    let (channel, theirs) = Channel::pair()?;
    let failed = |source| Error::failed("make", "a process in the container", source);
    let between = match &context.entrance {
        Some((entrance, Born::Inside)) => {
            match spawn::clone3(0, Parent::Caller, entrance.clone_into()).map_err(failed)? {
                Side::Child => None,
                Side::Parent { pid, pidfd } => Some((pid, pidfd)),
            }
        }
        _ => match spawn::fork().map_err(failed)? {
            None => None,
            Some(pid) => Some((pid, spawn::pidfd_open(pid).map_err(failed)?)),
        },
    };
    let Some((between, speaker)) = between else {
        drop(channel);
        intermediate(context, theirs, &initial_cpus);
    };
    drop((context, theirs));
    let first = channel.receive_of(speaker.as_fd());
    let status = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(between), None);
    let pid = match first? {
        Some(Report::Spawned(pid)) => pid,
        Some(Report::Failed(failure)) => return Err(failure.into()),
        _ => return Err(Error::failed("make", "a process in the container", end_of(status))),
    };
    let process = Process { pid, process: spawn::pidfd_open(pid).map_err(failed)? };
    let done = (|| {
        limits.limits(pid)?;
        // When it has died, the next report says so.
        let _ = channel.go(Go::Limited);
        loop {
            match channel.receive()? {
                Some(Report::Listener(number)) => {
                    send_listener(listener.as_ref(), process.process.as_fd(), number, pid, &state)?;
                    let _ = channel.go(Go::ListenerSent);
                }
                Some(Report::Failed(failure)) => return Err(failure.into()),
                // Closed by execve.
                _ => return Ok(()),
            }
        }
    })();
    if let Err(error) = done {
        let _ = spawn::pidfd_signal(process.process.as_fd(), libc::SIGKILL);
        let _ = wait_for(pid);
        return Err(error);
    }
    Ok(process)
}

fn state(target: &Target<'_>, spec: &Spec) -> serde_json::Value {
    serde_json::json!({
        "ociVersion": spec.version(),
        "id": target.id,
        "status": "running",
        "pid": target.pid,
        "bundle": target.bundle,
    })
}

fn groups_denied(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/setgroups")).is_ok_and(|text| text.trim() == "deny")
}

/// `process.execCPUAffinity` as bit masks: before and after the process joins the container's cgroup.
fn affinity(process: &oci_spec::runtime::Process) -> Result<(Vec<u64>, Vec<u64>)> {
    let Some(affinity) = process.exec_cpu_affinity() else { return Ok((vec![], vec![])) };
    let mask = |field: &str, list: &Option<String>| bit_mask(field, list.as_deref().unwrap_or_default());
    Ok((
        mask("process.execCPUAffinity.initial", affinity.initial())?,
        mask("process.execCPUAffinity.final", affinity.cpu_affinity_final())?,
    ))
}

/// Joins the cgroup and the namespaces, then makes the process as its own sibling. Never returns.
fn intermediate(mut context: Context<'_>, channel: Channel, initial_cpus: &[u64]) -> ! {
    let made = (|| -> Result<Side> {
        let target = context.target;
        let failed = |action: &'static str| move |source| Error::failed(action, "the container", source);
        // Not readable through /proc by what runs in there (CVE-2019-5736, CVE-2016-9962).
        sys::not_dumpable().map_err(failed("enter"))?;
        if !initial_cpus.is_empty() {
            sys::set_affinity(0, initial_cpus).map_err(failed("apply process.execCPUAffinity.initial in"))?;
        }
        // While this process's own /proc can be seen, and before it counts as one of the container's.
        let mut image = match target.binary {
            Binary::LetGo => Some(exe::Image::read(exe::Mounts::Shared).map_err(failed("enter"))?),
            Binary::InUse => None,
        };
        let uid_map = std::fs::read_to_string(format!("/proc/{}/uid_map", target.pid)).unwrap_or_default();
        let mut let_go = |needed: bool| match image.take().filter(|_| needed) {
            Some(image) => image.let_go().map_err(failed("keep the runtime's binary away from")),
            None => Ok(()),
        };
        let exposed = init::maps_host_root(&uid_map);
        if is_privileged() {
            let_go(exposed)?;
        }
        if let Some((entrance, born)) = context.entrance.take() {
            entrance.join(born).map_err(|errno| failed("enter the cgroup of")(errno.into()))?;
        }
        if target.namespaces != 0 {
            spawn::setns(target.process, target.namespaces).map_err(failed("join the namespaces of"))?;
        }
        // Without root's privileges, those of the container's user namespace do.
        let_go(exposed)?;
        spawn::clone3(0, Parent::CallersParent, None).map_err(|source| {
            // ENOMEM: the first process of the pid namespace has ended (pid_namespaces(7)).
            failed("make a process in")(source).hint("it may have ended just now")
        })
    })();
    match made {
        Ok(Side::Child) => run(context, channel),
        Ok(Side::Parent { pid, .. }) => {
            let _ = channel.report(&Report::Spawned(pid));
            spawn::exit_now(0)
        }
        Err(error) => {
            let _ = channel.report(&Report::Failed(error.into()));
            spawn::exit_now(1)
        }
    }
}

/// Goes all the way to the program. Never returns.
fn run(mut context: Context<'_>, mut channel: Channel) -> ! {
    let error = match prepare(&mut context, &mut channel) {
        Ok(program) => program.execute(),
        Err(error) => error,
    };
    let code = i32::from(error.exit_code());
    let _ = channel.report(&Report::Failed(Failure::from(error)));
    spawn::exit_now(code)
}

fn prepare(context: &mut Context<'_>, channel: &mut Channel) -> Result<Program> {
    let plan = &context.plan;
    let failed = |action: &'static str| move |source| Error::failed(action, "the process", source);
    channel.wait_for(Go::Limited)?;
    if context.target.namespaces & libc::CLONE_NEWUSER != 0 {
        let _ = sys::set_groups(&[]);
        sys::set_gid(0).map_err(failed("become root of the user namespace for"))?;
        sys::set_uid(0).map_err(failed("become root of the user namespace for"))?;
        sys::not_dumpable().map_err(failed("protect"))?;
    }
    match context.target.binary {
        Binary::LetGo => sys::reset_signals(),
        Binary::InUse => sys::reset_runtime_signals(),
    }
    nix::unistd::setsid().map_err(|errno| failed("make a session for")(errno.into()))?;
    if !context.final_cpus.is_empty() {
        sys::set_affinity(0, &context.final_cpus)
            .map_err(failed("apply process.execCPUAffinity.final to"))?;
    }
    match &context.stdio {
        Stdio::Inherit => {}
        Stdio::Fds { stdin, stdout, stderr } => {
            for (number, fd) in [stdin, stdout, stderr].into_iter().enumerate() {
                fs::dup_to(fd.as_fd(), number as i32).map_err(failed("set up the streams of"))?;
            }
        }
        Stdio::Terminal { console } => {
            let root = std::fs::File::open("/").map_err(failed("open the root of"))?;
            let (master, slave) = devices::terminal(root.as_fd(), init::console_size(plan))?;
            init::terminal(master, slave, console.as_fd())?;
        }
    }
    plan.privileged()?;
    let first = 3 + context.preserve_fds as i32;
    Leftovers::new().keep_only(first, 1, &mut |change, left| channel.change(change, left))?;
    let late = plan.no_new_privileges();
    if let Some(filter) = context.filter.as_ref().filter(|_| !late) {
        init::load(filter, channel)?;
    }
    plan.identity()?;
    if late {
        sys::no_new_privileges().map_err(failed("apply process.noNewPrivileges to"))?;
    }
    let program = Program::find(&plan.process)?;
    if let Some(filter) = context.filter.as_ref().filter(|_| late) {
        init::load(filter, channel)?;
    }
    Ok(program)
}
