//! Running the workload once.

use std::collections::BTreeMap;
use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use rkvm_measure::contestant::{Contestant, Instance};
use rkvm_measure::interrupt;
use rkvm_measure::memory;
use rkvm_measure::observe::capabilities::{Asked, Trace};
use rkvm_measure::observe::{self, Agent, Observed, Policy};
use rkvm_measure::probe::Probe;
use rkvm_measure::rkvm::{Lookup, Rkvm, Setup, Way, Workload};
use rkvm_measure::session::Session;
use rkvm_measure::start::{self, After, Conditions, Ready};
use rkvm_oci::Isolation;

use super::Order;
use crate::commands::compare::session;
use crate::context::Context;

/// The run whose system calls were looked at.
pub struct Watched {
    /// What it did.
    pub observed: Observed,
    /// What the kernel asked of it, by the capability's number; or why that is not known.
    pub capabilities: Result<BTreeMap<u32, Asked>, String>,
    /// How it went.
    pub outcome: Result<Ready, String>,
}

/// A run as it is.
pub struct Trial {
    /// How it went.
    pub outcome: Result<Ready, String>,
    /// Largest proportional set size that was seen, bytes; `None`: it ended too soon.
    pub memory: Option<u64>,
    /// Its init process, or the VMM, as the host sees it; `None`: it ended too soon.
    pub process: Option<Process>,
}

/// A process as the host sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Process {
    /// User id on the host.
    pub uid: u32,
    /// Threads.
    pub threads: usize,
    /// Those of them with a filter on their system calls.
    pub filtered: usize,
    /// Bits of the effective capabilities.
    pub capabilities: u64,
}

/// How often memory is looked at.
const SAMPLE: Duration = Duration::from_millis(20);

/// Runs it with every system call going to an agent.
///
/// # Errors
/// The agent cannot be set up.
pub fn watched(order: &Order, context: &Context, session: &Session, policy: Policy) -> Result<Watched> {
    let socket = session.folder().join("agent");
    let profile = session.folder().join("profile.json");
    fs::write(&profile, observe::profile(&socket).to_string())
        .with_context(|| format!("cannot write {}", profile.display()))?;
    let agent = Agent::listen(&socket, policy)?;
    let trace = Trace::begin();
    let more = format!("--security-opt=seccomp={}", profile.display());
    let rkvm = rkvm(order, context, session, Isolation::Container, &[more])?;
    let outcome = once(order, session, &rkvm, "watched", &mut |_| {});
    // The last process is gone, so the agent's descriptor says so.
    let observed = agent.finish();
    let capabilities = match (trace, observed.began_ns) {
        (Ok(trace), Some(began)) => trace.finish(&observed.tasks, began),
        (Ok(_), None) => Err("its program never began".to_owned()),
        (Err(reason), _) => Err(reason),
    };
    Ok(Watched { observed, capabilities, outcome })
}

/// Runs it as it is.
///
/// # Errors
/// This program cannot find itself.
pub fn plain(order: &Order, context: &Context, session: &Session, isolation: Isolation) -> Result<Trial> {
    if let Some(reason) = session::unusable(isolation) {
        return Ok(Trial { outcome: Err(reason), memory: None, process: None });
    }
    let rkvm = rkvm(order, context, session, isolation, &[])?;
    let lookup = session::lookup(context);
    let name = isolation.to_string();
    let (mut peak, mut process) = (0, None);
    let outcome = once(order, session, &rkvm, &name, &mut |instance| {
        peak = peak.max(memory::pss_of_trees(&rkvm.processes(instance)));
        // While it begins and while it ends fewer threads are there or have their filters: the fullest look counts.
        let now = look(&lookup, instance.name);
        let filtered = |one: &Option<Process>| one.as_ref().map(|one| one.filtered);
        if filtered(&now) >= filtered(&process) {
            process = now;
        }
    });
    Ok(Trial { outcome, memory: Some(peak).filter(|peak| *peak > 0), process })
}

/// Starts it, keeps it for the time it is to be watched, removes it. `sample` is called again and again meanwhile.
fn once(
    order: &Order,
    session: &Session,
    rkvm: &Rkvm,
    what: &str,
    sample: &mut (dyn FnMut(Instance<'_>) + Send),
) -> Result<Ready, String> {
    let name = format!("rkvm-advise-{}-{what}", session.name());
    let instance = Instance { name: &name, slot: 0 };
    let conditions =
        Conditions { probe: &order.probe, timeout: order.timeout, folder: session.folder() };
    let done = AtomicBool::new(false);
    thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                sample(instance);
                thread::sleep(SAMPLE);
            }
        });
        let result = start::start(rkvm, instance, &conditions, After::Keep).and_then(|started| {
            let until = Instant::now() + order.watch;
            while !matches!(order.probe, Probe::Exit) && Instant::now() < until && !interrupt::requested() {
                thread::sleep(SAMPLE);
            }
            let ready = started.ready.clone();
            start::remove(rkvm, instance, started)?;
            Ok(ready)
        });
        done.store(true, Ordering::Relaxed);
        rkvm.settle();
        result.map_err(|error| error.with_causes())
    })
}

fn rkvm(
    order: &Order,
    context: &Context,
    session: &Session,
    isolation: Isolation,
    more: &[String],
) -> Result<Rkvm> {
    Ok(Rkvm::new(Setup {
        way: Way::of(isolation),
        program: std::env::current_exe()?,
        root: context.root.clone(),
        monitors: context.engine().paths.monitors(),
        workload: Workload {
            image: order.image.clone(),
            command: order.command.clone(),
            flags: [order.run_flags.as_slice(), more].concat(),
        },
        session: session.name().to_owned(),
        lookup: session::lookup(context),
    }))
}

/// proc_pid_status(5) of a container's init process.
fn look(lookup: &Lookup, name: &str) -> Option<Process> {
    let pid = lookup(name)?.pid;
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok().filter(|_| pid > 0)?;
    let field = |name: &str| {
        let line = status.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|rest| rest.split_whitespace().next())
    };
    Some(Process {
        uid: field("Uid:")?.parse().ok()?,
        threads: field("Threads:")?.parse().ok()?,
        filtered: filtered(pid),
        capabilities: u64::from_str_radix(field("CapEff:")?, 16).ok()?,
    })
}

/// Threads of a process whose system calls are filtered.
fn filtered(pid: i32) -> usize {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    let status = |task: fs::DirEntry| fs::read_to_string(task.path().join("status")).unwrap_or_default();
    tasks.map(status).filter(|status| status.lines().any(|line| line == "Seccomp:\t2")).count()
}
