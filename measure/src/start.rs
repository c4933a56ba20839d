//! One start: from the command to readiness.

use std::path::Path;
use std::sync::Barrier;
use std::thread;
use std::time::{Duration, Instant};

use nix::sched::{CloneFlags, setns};
use rkvm_oci::timeline::MonotonicNs;

use crate::contestant::{Contestant, Instance, Mode, OwnPhases, Target};
use crate::error::{Error, Result};
use crate::interrupt;
use crate::model::{Failure, PHASE_COMMAND, PhaseTime};
use crate::probe::{Answer, Probe};
use crate::process::{Event, Outputs, Running, Stream};

/// How starts are made.
#[derive(Debug, Clone)]
pub struct Conditions<'a> {
    /// To what they are measured.
    pub probe: &'a Probe,
    /// When one has failed.
    pub timeout: Duration,
    /// Folder for the outputs of commands.
    pub folder: &'a Path,
}

/// A start that became ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ready {
    /// From the command's start, nanoseconds.
    pub total_ns: u64,
    /// Its parts.
    pub phases: Vec<PhaseTime>,
}

/// What becomes of an instance that is ready.
#[derive(Debug, Clone, Copy)]
pub enum After<'a> {
    /// It is removed at once.
    Remove,
    /// It is removed when all that wait at this barrier are ready or have failed: removing disturbs what still starts.
    RemoveTogether(&'a Barrier),
    /// It stays until the caller removes it.
    Keep,
}

/// An instance that became ready.
#[derive(Debug)]
pub struct Started {
    /// How long it took.
    pub ready: Ready,
    /// Its command when that still runs; dropping this ends it.
    command: Option<Running>,
}

/// Starts an instance and waits until it is ready.
///
/// # Errors
/// [`Error::NotReady`] and [`Error::Interrupted`], with nothing of it left; or nothing could be started.
pub fn start(
    contestant: &dyn Contestant,
    instance: Instance<'_>,
    conditions: &Conditions<'_>,
    after: After<'_>,
) -> Result<Started> {
    let mode = if conditions.probe.is_attached() { Mode::Attached } else { Mode::Detached };
    let barrier = match after {
        After::RemoveTogether(barrier) => Some(barrier),
        After::Remove | After::Keep => None,
    };
    let mut one = One { contestant, instance, conditions, output: Captured::default(), barrier };
    let result = contestant.prepare(instance, mode).and_then(|()| match mode {
        Mode::Attached => one.attached(after),
        Mode::Detached => one.detached(),
    });
    one.meet();
    if result.is_err() || !matches!(after, After::Keep) {
        let removed = contestant.remove(instance);
        let started = result?;
        removed?;
        contestant.settle();
        return Ok(started);
    }
    result
}

/// Ends and removes an instance that was kept.
///
/// # Errors
/// As [`Contestant::remove`].
pub fn remove(contestant: &dyn Contestant, instance: Instance<'_>, started: Started) -> Result<()> {
    let removed = contestant.remove(instance);
    drop(started.command);
    removed
}

/// What came from the command's outputs, the last of it.
#[derive(Debug, Default)]
struct Captured {
    stdout: String,
    stderr: String,
}

/// Characters that are kept of each output.
const KEPT: usize = 64 << 10;
/// Lines that are shown of it.
const LINES: usize = 10;

impl Captured {
    fn add(&mut self, stream: Stream, bytes: &[u8]) -> &str {
        let text = match stream {
            Stream::Stdout => &mut self.stdout,
            Stream::Stderr => &mut self.stderr,
        };
        if text.len() > 2 * KEPT {
            let cut = (text.len() - KEPT..).find(|index| text.is_char_boundary(*index)).unwrap_or(0);
            text.drain(..cut);
        }
        let fresh = text.rfind('\n').map_or(0, |index| index + 1);
        text.push_str(&String::from_utf8_lossy(bytes));
        &text[fresh..]
    }

    fn tail(&self) -> Vec<String> {
        let all = format!("{}\n{}", self.stdout, self.stderr);
        let lines: Vec<&str> = all.lines().filter(|line| !line.trim().is_empty()).collect();
        lines[lines.len().saturating_sub(LINES)..].iter().map(|line| (*line).to_owned()).collect()
    }
}

struct One<'a> {
    contestant: &'a dyn Contestant,
    instance: Instance<'a>,
    conditions: &'a Conditions<'a>,
    output: Captured,
    barrier: Option<&'a Barrier>,
}

impl One<'_> {
    /// Waits for the others, once.
    fn meet(&mut self) {
        if let Some(barrier) = self.barrier.take() {
            barrier.wait();
        }
    }

    fn attached(&mut self, after: After<'_>) -> Result<Started> {
        let launch = self.contestant.launch(self.instance, Mode::Attached);
        let mut running = Running::spawn(&launch, Outputs::Events)?;
        let deadline = Instant::now() + self.conditions.timeout;
        let ready = loop {
            let (at, event) = running.next(deadline);
            match (event, self.conditions.probe) {
                (Event::Output(stream, bytes), Probe::Log(regex)) => {
                    if self.output.add(stream, &bytes).lines().any(|line| regex.is_match(line)) {
                        break at;
                    }
                }
                (Event::Output(stream, bytes), _) => {
                    self.output.add(stream, &bytes);
                }
                (Event::Exited(status), Probe::Exit) if status.success() => break at,
                (Event::Exited(status), _) => {
                    self.drain(&mut running);
                    return Err(self.failed(format!("the command ended ({status}) before it was ready")));
                }
                (Event::Timeout, probe) => {
                    let message = format!("{} within {}", probe.missed(), show(self.conditions.timeout));
                    let error = self.failed(message);
                    running.end();
                    return Err(error);
                }
                (Event::Interrupted, _) => return Err(Error::Interrupted),
                (Event::Closed, _) => {}
            }
        };
        if matches!(after, After::Keep) {
            // It goes on, and tells its phases when it ends.
            return Ok(Started { ready: join(running.begin, Some(ready), None), command: Some(running) });
        }
        if matches!(self.conditions.probe, Probe::Log(_)) {
            self.meet();
            self.contestant.remove(self.instance)?;
        }
        self.drain(&mut running);
        if matches!(self.conditions.probe, Probe::Exit)
            && let Some(message) = self.contestant.failure(&self.output.stdout)
        {
            return Err(self.failed(message));
        }
        Ok(self.ready(running.begin, Some(ready)))
    }

    fn detached(&mut self) -> Result<Started> {
        let launch = self.contestant.launch(self.instance, Mode::Detached);
        let outputs = Outputs::Files(self.conditions.folder, self.instance.name);
        let mut running = Running::spawn(&launch, outputs)?;
        let deadline = Instant::now() + self.conditions.timeout;
        let (returned, event) = running.next(deadline);
        let (stdout, stderr) = running.files();
        self.output = Captured { stdout, stderr };
        match event {
            Event::Exited(status) if status.success() => {}
            Event::Exited(status) => return Err(self.failed(format!("the command failed ({status})"))),
            Event::Interrupted => return Err(Error::Interrupted),
            _ => {
                let message = format!("the command did not return within {}", show(self.conditions.timeout));
                let error = self.failed(message);
                running.end();
                return Err(error);
            }
        }
        let Some(port) = self.conditions.probe.port() else {
            let told = self.contestant.phases(&self.output.stderr).is_some();
            return Ok(self.ready(running.begin, (!told).then_some(returned)));
        };
        let target = self.contestant.target(self.instance, port)?;
        let ready = self.ask(&target, deadline)?;
        Ok(self.ready(running.begin, Some(ready)))
    }

    /// Asks over the network until it is ready. A thread of its own, because it may have to enter a network namespace.
    fn ask(&self, target: &Target, deadline: Instant) -> Result<MonotonicNs> {
        let asked = thread::scope(|scope| {
            let asking = scope.spawn(|| {
                if let Some(namespace) = &target.namespace {
                    setns(namespace, CloneFlags::CLONE_NEWNET).map_err(|errno| {
                        Error::file("enter the network namespace of", self.instance.name, errno.into())
                    })?;
                }
                self.ask_here(target, deadline)
            });
            asking.join()
        });
        asked.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    }

    fn ask_here(&self, target: &Target, deadline: Instant) -> Result<MonotonicNs> {
        let mut looked = Instant::now();
        let mut patience = ANSWER;
        loop {
            match self.conditions.probe.ask(target.address, PATIENCE, patience) {
                Answer::Ready => return Ok(MonotonicNs::now()),
                Answer::Late => patience = (patience * 2).min(LONGEST_ANSWER),
                Answer::Not => {}
            }
            if interrupt::requested() {
                return Err(Error::Interrupted);
            }
            if Instant::now() >= deadline {
                let message =
                    format!("{} within {}", self.conditions.probe.missed(), show(self.conditions.timeout));
                return Err(self.failed(message));
            }
            if looked.elapsed() > LOOK {
                looked = Instant::now();
                if let Some(end) = self.contestant.ended(self.instance) {
                    return Err(self.failed(format!("the program ended ({end}) before it was ready")));
                }
            }
            thread::sleep(PAUSE);
        }
    }

    /// Reads the outputs to their end, but waits no longer than for what is on its way.
    fn drain(&mut self, running: &mut Running) {
        let deadline = Instant::now() + DRAIN;
        let mut closed = 0;
        while closed < 2 {
            match running.next(deadline).1 {
                Event::Output(stream, bytes) => {
                    self.output.add(stream, &bytes);
                }
                Event::Closed => closed += 1,
                Event::Timeout | Event::Interrupted => return,
                Event::Exited(_) => {}
            }
        }
    }

    /// Joins the two clocks: ours around the command, and the command's own within.
    fn ready(&self, begin: MonotonicNs, ready: Option<MonotonicNs>) -> Started {
        let own = self.contestant.phases(&self.output.stderr);
        Started { ready: join(begin, ready, own), command: None }
    }

    fn failed(&self, message: String) -> Error {
        let own = self.contestant.phases(&self.output.stderr);
        let reached = own
            .and_then(|own| own.phases.last().map(|(phase, _)| phase.clone()))
            .or_else(|| self.contestant.reached(self.instance));
        let mut log = self.output.tail();
        log.retain(|line| !line.contains("{\"phases\":") && !is_id(line));
        // An attached command has passed on what there is.
        if log.is_empty() || !self.conditions.probe.is_attached() {
            log.splice(0..0, self.contestant.log(self.instance));
        }
        Error::NotReady(Box::new(Failure {
            subject: self.contestant.subject().id.clone(),
            order: 0,
            message,
            reached,
            log,
        }))
    }
}

/// The id that a detached command prints is no line of the program's.
fn is_id(line: &str) -> bool {
    line.len() == 64 && line.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// How long a connection may take to be made before a new one is tried.
const PATIENCE: Duration = Duration::from_millis(20);
/// How long the first answer may take once the connection is there, before it is asked anew: a request to a server that has just begun
/// may be lost, and a server that answers slowly must be heard too. It doubles each time.
const ANSWER: Duration = Duration::from_millis(50);
/// Longest time for an answer.
const LONGEST_ANSWER: Duration = Duration::from_secs(10);
/// Pause between two questions: the error of a measurement, and the load that asking makes.
const PAUSE: Duration = Duration::from_micros(500);
/// How often it is looked whether the program still runs.
const LOOK: Duration = Duration::from_millis(100);
/// How long the rest of an output is waited for.
const DRAIN: Duration = Duration::from_secs(10);

fn show(duration: Duration) -> String {
    if duration.as_millis().is_multiple_of(1000) {
        format!("{} s", duration.as_secs())
    } else {
        format!("{} ms", duration.as_millis())
    }
}

/// The whole and its parts. Without `ready` the whole ends with the command's last phase.
fn join(begin: MonotonicNs, ready: Option<MonotonicNs>, own: Option<OwnPhases>) -> Ready {
    let Some(own) = own else {
        let total_ns = ready.map_or(0, |ready| ready.0.saturating_sub(begin.0));
        return Ready { total_ns, phases: vec![] };
    };
    let mut phases =
        vec![PhaseTime { phase: PHASE_COMMAND.to_owned(), ns: own.start_ns.saturating_sub(begin.0) }];
    let mut end = own.start_ns.max(begin.0);
    for (phase, ns) in own.phases {
        end += ns;
        phases.push(PhaseTime { phase, ns });
    }
    if let Some(ready) = ready {
        phases.push(PhaseTime { phase: "ready".to_owned(), ns: ready.0.saturating_sub(end) });
    }
    let total_ns = ready.map_or(end, |ready| ready.0).saturating_sub(begin.0);
    Ready { total_ns, phases }
}
