//! `rkvm run` as a contestant: the real binary, as a user would call it.

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use rkvm_oci::Isolation;
use serde::Deserialize;

use crate::contestant::{Contestant, Instance, Launch, Mode, OwnPhases, Target};
use crate::error::{Error, Result};
use crate::model::{Subject, SubjectKind};
use crate::process::helper;
use crate::session::LABEL;

/// What the engine knows of a container.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// Its address; `None` without a network of its own.
    pub address: Option<IpAddr>,
    /// Its monitor; 0 without.
    pub monitor_pid: i32,
    /// Its init process, or the VMM; 0 when it does not run.
    pub pid: i32,
    /// Its exit code when it has ended.
    pub exit_code: Option<u8>,
    /// The last phase of its start that is known to have ended.
    pub reached: Option<String>,
}

/// Asks the engine for a container by its name; `None`: there is none.
pub type Lookup = Box<dyn Fn(&str) -> Option<Seen> + Send + Sync>;

/// What is run.
#[derive(Debug, Clone, Default)]
pub struct Workload {
    /// The image's name.
    pub image: String,
    /// What runs in place of its command; empty: its own.
    pub command: Vec<String>,
    /// Flags for `rkvm run`.
    pub flags: Vec<String>,
}

/// A way to start a container.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Way {
    /// How containers are kept apart.
    pub isolation: Isolation,
    /// Whether a microVM boots; otherwise it goes on from a template, if there is one.
    pub boots: bool,
}

impl Way {
    /// The usual one.
    pub fn of(isolation: Isolation) -> Self {
        Self { isolation, boots: false }
    }

    /// What reports call it.
    pub fn id(self) -> &'static str {
        match (self.isolation, self.boots) {
            (Isolation::Container, _) => "container",
            (Isolation::Vm, false) => "vm",
            (Isolation::Vm, true) => "vm-boot",
        }
    }
}

/// `rkvm run --isolation=...`.
pub struct Rkvm {
    subject: Subject,
    way: Way,
    program: PathBuf,
    root: Option<PathBuf>,
    monitors: PathBuf,
    /// Monitors that were there before: of containers that are not ours.
    others: usize,
    workload: Workload,
    session: String,
    lookup: Lookup,
}

/// What an [`Rkvm`] is made from.
pub struct Setup {
    /// How it is started.
    pub way: Way,
    /// The rkvm binary.
    pub program: PathBuf,
    /// `RKVM_ROOT`; `None`: the default folders.
    pub root: Option<PathBuf>,
    /// Folder with one entry for each living monitor.
    pub monitors: PathBuf,
    /// What is run.
    pub workload: Workload,
    /// The measurement's name.
    pub session: String,
    /// The engine's knowledge.
    pub lookup: Lookup,
}

impl Rkvm {
    /// A contestant.
    pub fn new(setup: Setup) -> Self {
        let Setup { way, program, root, monitors, workload, session, lookup } = setup;
        let kind = match way.isolation {
            Isolation::Container => SubjectKind::Container,
            Isolation::Vm => SubjectKind::Vm,
        };
        let subject = Subject {
            id: way.id().to_owned(),
            kind,
            name: format!("rkvm {}", way.id()),
            command_line: vec![],
            differences: vec![],
        };
        let others = living(&monitors);
        let mut rkvm = Self { subject, way, program, root, monitors, others, workload, session, lookup };
        let example = rkvm.launch(Instance { name: "NAME", slot: 0 }, Mode::Detached);
        rkvm.subject.command_line =
            example.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        rkvm
    }

    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        match &self.root {
            Some(root) => command.env("RKVM_ROOT", root),
            None => command.env_remove("RKVM_ROOT"),
        };
        command
    }
}

impl Contestant for Rkvm {
    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn launch(&self, instance: Instance<'_>, mode: Mode) -> Launch {
        let mut argv: Vec<OsString> = vec![self.program.clone().into(), "run".into()];
        argv.push(match mode {
            Mode::Attached => "--rm".into(),
            Mode::Detached => "-d".into(),
        });
        let isolation = format!("--isolation={}", self.way.isolation);
        let label = format!("--label={LABEL}={}", self.session);
        let fixed = ["--pull=never", "--timings=json", &isolation, &label, "--name", instance.name];
        argv.extend(fixed.map(OsString::from));
        if self.way.boots {
            argv.push("--template=never".into());
        }
        argv.extend(self.workload.flags.iter().map(OsString::from));
        argv.push((&self.workload.image).into());
        argv.extend(self.workload.command.iter().map(OsString::from));
        let env = self.root.iter().map(|root| ("RKVM_ROOT".into(), root.into())).collect();
        Launch { argv, env }
    }

    fn phases(&self, stderr: &str) -> Option<OwnPhases> {
        parse_timings(stderr)
    }

    fn target(&self, instance: Instance<'_>, port: u16) -> Result<Target> {
        let seen = (self.lookup)(instance.name);
        match seen.and_then(|seen| seen.address) {
            Some(address) => Ok(Target { address: SocketAddr::new(address, port), namespace: None }),
            None => Err(Error::invalid(
                "--ready",
                port.to_string(),
                format!(
                    "{} has no address that could be asked: it needs --network bridge or host",
                    self.subject.name
                ),
            )),
        }
    }

    fn ended(&self, instance: Instance<'_>) -> Option<String> {
        let seen = (self.lookup)(instance.name)?;
        seen.exit_code.map(|code| format!("exit code {code}"))
    }

    fn reached(&self, instance: Instance<'_>) -> Option<String> {
        (self.lookup)(instance.name)?.reached
    }

    fn log(&self, instance: Instance<'_>) -> Vec<String> {
        let mut command = self.command();
        command.args(["logs", "--tail", "10", instance.name]);
        let Ok(output) = command.output() else { return vec![] };
        if !output.status.success() {
            return vec![];
        }
        let text = [output.stdout, output.stderr].concat();
        String::from_utf8_lossy(&text).lines().map(str::to_owned).collect()
    }

    fn processes(&self, instance: Instance<'_>) -> Vec<i32> {
        (self.lookup)(instance.name).map(|seen| seen.monitor_pid).filter(|pid| *pid > 0).into_iter().collect()
    }

    fn remove(&self, instance: Instance<'_>) -> Result<()> {
        if (self.lookup)(instance.name).is_none() {
            return Ok(());
        }
        match helper(self.command().args(["rm", "--force", "--volumes", instance.name])) {
            // It was removed in this moment (--rm).
            Err(_) if (self.lookup)(instance.name).is_none() => Ok(()),
            other => other.map(drop),
        }
    }

    fn settle(&self) {
        // A monitor removes the link and the write layer when nobody waits any more.
        let deadline = Instant::now() + SETTLE;
        while living(&self.monitors) > self.others && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(2));
        }
    }
}

fn living(monitors: &Path) -> usize {
    std::fs::read_dir(monitors).map_or(0, Iterator::count)
}

/// How long the monitors of removed containers are waited for.
const SETTLE: Duration = Duration::from_millis(500);

#[derive(Deserialize)]
struct Timings {
    start_ns: u64,
    phases: Vec<Timing>,
}

#[derive(Deserialize)]
struct Timing {
    phase: String,
    ns: u64,
}

/// What `--timings=json` printed; the container's own output may be around it.
fn parse_timings(stderr: &str) -> Option<OwnPhases> {
    let text = &stderr[stderr.rfind("{\"phases\":")?..];
    let timings = serde_json::Deserializer::from_str(text).into_iter::<Timings>().next()?.ok()?;
    let phases = timings.phases.into_iter().map(|one| (one.phase, one.ns)).collect();
    Some(OwnPhases { start_ns: timings.start_ns, phases })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timings_are_found_among_the_containers_own_output() {
        let stderr = "warning: {\"phases\": none}\nno line end{\"phases\":[{\"ns\":5,\"phase\":\"image\"},{\"ns\":7,\"phase\":\"exec\"}],\"start_ns\":100,\"total_ns\":12}\nlater";
        let own = parse_timings(stderr).unwrap();
        assert_eq!(own.start_ns, 100);
        assert_eq!(own.phases, [("image".to_owned(), 5), ("exec".to_owned(), 7)]);
        assert_eq!(parse_timings("nothing"), None);
        assert_eq!(parse_timings("{\"phases\":[]"), None);
    }
}
