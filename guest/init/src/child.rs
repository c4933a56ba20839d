//! Between `fork` and `execve`: becomes the process that was asked for.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::fd::{AsRawFd, OwnedFd};

use rkvm_guest_protocol::{Failure, FailureKind, GuestSetup, ProcessSpec, marker};

use crate::fail::Fail;
use crate::root;
use crate::sys;

/// What a new process takes part in.
pub enum Place<'a> {
    /// New namespaces, with the root of the set-up; executes when the gate opens.
    Machine {
        /// The set-up.
        setup: &'a GuestSetup,
        /// Closed by init when the host says start; a byte in it.
        gate: OwnedFd,
        /// Told when everything is in place.
        ready: OwnedFd,
    },
    /// The namespaces and root of the machine's process.
    Beside {
        /// A descriptor of that process.
        process: OwnedFd,
    },
}

/// Standard streams of the new process.
pub enum Streams {
    /// Three descriptors.
    Pipes([OwnedFd; 3]),
    /// The slave of a terminal.
    Terminal(OwnedFd),
}

/// Becomes the process; comes back only with what went wrong. `report` is closed by a successful `execve`.
pub fn become_process(spec: &ProcessSpec, place: Place<'_>, streams: Streams) -> Failure {
    let setup = |fail: Fail| Failure { kind: FailureKind::Setup, message: fail.to_string() };
    match prepare(spec, place, streams) {
        Ok(()) => execute(spec),
        Err(fail) => setup(fail),
    }
}

fn prepare(spec: &ProcessSpec, place: Place<'_>, streams: Streams) -> Result<(), Fail> {
    sys::reset_signals().map_err(Fail::on("reset", "signals"))?;
    let mut gates = None;
    match place {
        Place::Machine { setup, gate, ready } => {
            join_cgroup()?;
            sys::unshare_cgroup().map_err(Fail::on("make", "a cgroup namespace"))?;
            root::enter(setup)?;
            gates = Some((gate, ready));
        }
        Place::Beside { process } => {
            join_cgroup()?;
            sys::join_root(&process).map_err(Fail::on("join", "the machine's process"))?;
        }
    }
    match streams {
        Streams::Pipes(pipes) => {
            for (number, pipe) in pipes.iter().enumerate() {
                sys::duplicate(pipe, number as i32).map_err(Fail::on("set", "standard streams"))?;
            }
        }
        Streams::Terminal(slave) => sys::take_terminal(&slave).map_err(Fail::on("take", "the terminal"))?,
    }
    if let Some((gate, ready)) = gates {
        sys::mark(marker::READY);
        File::from(ready).write_all(&[1]).map_err(Fail::on("report", "readiness"))?;
        let mut byte = [0];
        // The end of the stream means that init is gone.
        File::from(gate).read_exact(&mut byte).map_err(Fail::on("wait for", "the start"))?;
    }
    restrict(spec)
}

fn join_cgroup() -> Result<(), Fail> {
    std::fs::write("/sys/fs/cgroup/process/cgroup.procs", "0")
        .map_err(Fail::on("join", "the process's cgroup"))
}

/// Working folder, limits, ids, capabilities: in the order in which each is still allowed.
fn restrict(spec: &ProcessSpec) -> Result<(), Fail> {
    let cwd = if spec.cwd.is_empty() { "/" } else { &spec.cwd };
    std::fs::create_dir_all(cwd).map_err(Fail::on("create the working folder", cwd))?;
    std::env::set_current_dir(cwd).map_err(Fail::on("enter the working folder", cwd))?;
    if let Some(score) = spec.oom_score_adj {
        std::fs::write("/proc/self/oom_score_adj", score.to_string())
            .map_err(Fail::on("set", "oom_score_adj"))?;
    }
    for limit in &spec.rlimits {
        sys::set_limit(*limit).map_err(Fail::on("set resource limit", limit.resource))?;
    }
    sys::become_user(&spec.user, spec.capabilities).map_err(Fail::on("become user", spec.user.uid))?;
    if spec.no_new_privileges {
        sys::no_new_privileges().map_err(Fail::on("set", "no_new_privs"))?;
    }
    if !spec.seccomp.is_empty() {
        sys::load_seccomp(&spec.seccomp).map_err(Fail::on("load", "the seccomp filter"))?;
    }
    Ok(())
}

fn execute(spec: &ProcessSpec) -> Failure {
    let Some(program) = spec.args.first() else {
        return Failure { kind: FailureKind::NotFound, message: "no program is named".to_owned() };
    };
    let strings =
        |list: &[String]| list.iter().map(|text| CString::new(text.as_str())).collect::<Result<Vec<_>, _>>();
    let (Ok(args), Ok(env)) = (strings(&spec.args), strings(&spec.env)) else {
        let message = "an argument or variable has a zero byte in it".to_owned();
        return Failure { kind: FailureKind::NotExecutable, message };
    };
    let mut best = io::Error::from_raw_os_error(libc::ENOENT);
    for candidate in candidates(program, &spec.env) {
        let Ok(path) = CString::new(candidate) else { continue };
        let error = sys::execute(&path, &args, &env);
        // As execvp(3): a file that is there but cannot be run is remembered, and the search goes on.
        match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => {}
            Some(libc::EACCES) => best = error,
            _ => {
                best = error;
                break;
            }
        }
    }
    match best.raw_os_error() {
        Some(libc::ENOENT) => {
            Failure { kind: FailureKind::NotFound, message: format!("{program}: not found") }
        }
        _ => Failure { kind: FailureKind::NotExecutable, message: format!("{program}: {best}") },
    }
}

/// Where `program` may be: itself when it has a slash, otherwise in each folder of PATH.
fn candidates(program: &str, env: &[String]) -> Vec<String> {
    if program.contains('/') {
        return vec![program.to_owned()];
    }
    let path = env.iter().find_map(|variable| variable.strip_prefix("PATH="));
    let path = path.unwrap_or("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    path.split(':')
        .map(|folder| if folder.is_empty() { format!("./{program}") } else { format!("{folder}/{program}") })
        .collect()
}

/// Tells init what went wrong and ends this process.
pub fn report_and_exit(report: &OwnedFd, failure: &Failure) -> ! {
    let kind = match failure.kind {
        FailureKind::NotFound => 0_u8,
        FailureKind::NotExecutable => 1,
        FailureKind::Setup => 2,
    };
    let mut text = vec![kind];
    text.extend_from_slice(failure.message.as_bytes());
    sys::write_all(report.as_raw_fd(), &text);
    sys::exit(1)
}

/// What [`report_and_exit`] wrote.
pub fn parse_report(text: &[u8]) -> Failure {
    let (kind, message) = text.split_first().map_or((2, &[][..]), |(kind, message)| (*kind, message));
    let kind = match kind {
        0 => FailureKind::NotFound,
        1 => FailureKind::NotExecutable,
        _ => FailureKind::Setup,
    };
    Failure { kind, message: String::from_utf8_lossy(message).into_owned() }
}
