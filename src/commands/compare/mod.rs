//! `rkvm compare`.

mod outputs;
mod progress;
pub mod session;
mod take;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Result, bail};
use rkvm_measure::budget::{self, Budget};
use rkvm_measure::model::{CacheState, Completion, Question, Report};
use rkvm_measure::probe::Probe;
use rkvm_measure::rkvm::Way;
use rkvm_measure::{file, peers, plan, render, summary, versus};
use rkvm_oci::Isolation;

use crate::context::Context;
use crate::output;
use outputs::Outputs;

const EXAMPLES: &str = "\
Examples:
  rkvm compare nginx --ready http:80 --runs 50
  rkvm compare busybox --ready exit --isolation container --json before.json -- true
  rkvm compare postgres --ready 'log:ready to accept connections' --run-flag=--memory=512m
  rkvm compare nginx --ready tcp:80 --with runc,crun,podman
  rkvm compare nginx --ready http:80 --budget p95=200ms     # exit code 3 when it is exceeded
  rkvm compare --replay before.json
  rkvm compare before.json after.json

Probes (--ready): exit (the command returns), exec (the program was executed), http:PORT[/path], tcp:PORT, log:REGEX.
The figures are from the start of the command to the moment the probe succeeds.";

/// Exit code of a measurement that exceeded a budget.
const EXIT_BUDGET: u8 = 3;
/// Exit code of a measurement that was interrupted: 128 + SIGINT.
const EXIT_INTERRUPTED: u8 = 130;

/// Flags of `rkvm compare`. Those with a default are options: whether one was given decides what it goes with.
#[derive(Debug, clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Image; or two reports, A.json B.json
    #[arg(value_name = "IMAGE", required_unless_present = "replay", num_args = 1..=2)]
    inputs: Vec<String>,
    /// When a start is done: exit | exec | http:PORT[/path] | tcp:PORT | log:REGEX [default: exec]
    #[arg(long, value_name = "PROBE")]
    ready: Option<String>,
    /// Measured starts of each [default: 30]
    #[arg(long, value_name = "N")]
    runs: Option<usize>,
    /// Starts of each before them, which do not count [default: 3]
    #[arg(long, value_name = "N")]
    warmup: Option<usize>,
    /// Isolations [default: container,vm]
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    isolation: Vec<Isolation>,
    /// Also measure microVMs that boot: the others go on from a template after their first start
    #[arg(long)]
    boot: bool,
    /// Seed of the order and of the intervals; one is drawn without
    #[arg(long, value_name = "NUMBER")]
    seed: Option<u64>,
    /// Drop the page cache before each start
    #[arg(long)]
    cold: bool,
    /// Start N at once, and measure each [default: 1]
    #[arg(long, value_name = "N")]
    parallel: Option<usize>,
    /// Also measure memory and start time as instances grow to N
    #[arg(long, value_name = "N")]
    density: Option<usize>,
    /// Other programs to measure on the same image: runc, crun, podman, docker, qemu-microvm, firecracker
    #[arg(long, value_delimiter = ',', value_name = "LIST")]
    with: Vec<String>,
    /// When a start has failed, e.g. 30s [default: 60s]
    #[arg(long, value_name = "TIME")]
    timeout: Option<String>,
    /// Refuse to measure where something distorts the figures
    #[arg(long)]
    strict: bool,
    /// Fail with exit code 3 above this, [SUBJECT:]FIGURE=TIME, e.g. p95=200ms or vm:median=150ms
    #[arg(long, value_name = "BUDGET")]
    budget: Vec<String>,
    /// Flag for `rkvm run`, e.g. --run-flag=--memory=256m
    #[arg(long = "run-flag", value_name = "FLAG", allow_hyphen_values = true)]
    run_flags: Vec<String>,
    #[command(flatten)]
    outputs: outputs::Flags,
    /// Draw a report again instead of measuring
    #[arg(long, value_name = "FILE", conflicts_with = "inputs")]
    replay: Option<PathBuf>,
    /// What to run in place of the image's command
    #[arg(last = true, value_name = "COMMAND")]
    command: Vec<String>,
}

impl Args {
    /// The flags that were given and are about measuring.
    fn measuring(&self) -> Vec<&'static str> {
        let given = [
            ("--ready", self.ready.is_some()),
            ("--runs", self.runs.is_some()),
            ("--warmup", self.warmup.is_some()),
            ("--isolation", !self.isolation.is_empty()),
            ("--boot", self.boot),
            ("--seed", self.seed.is_some()),
            ("--cold", self.cold),
            ("--parallel", self.parallel.is_some()),
            ("--density", self.density.is_some()),
            ("--with", !self.with.is_empty()),
            ("--timeout", self.timeout.is_some()),
            ("--strict", self.strict),
            ("--run-flag", !self.run_flags.is_empty()),
            ("a command after --", !self.command.is_empty()),
        ];
        given.into_iter().filter_map(|(name, is_given)| is_given.then_some(name)).collect()
    }
}

/// Refuses flags that would have no effect.
fn refuse(flags: &[&str], with: &str, instead: &str) -> Result<()> {
    match flags {
        [] => Ok(()),
        [flag] => bail!("{flag} does not go with {with}: {instead}"),
        _ => bail!("{} do not go with {with}: {instead}", flags.join(", ")),
    }
}

/// Measures, compares two reports, or draws one again.
pub fn run(args: Args, context: &Context) -> Result<u8> {
    let budgets: Vec<Budget> = args.budget.iter().map(|text| text.parse()).collect::<Result<_, _>>()?;
    if let Some(path) = &args.replay {
        let instead = "nothing is measured; leave out either of them";
        refuse(&args.measuring(), "--replay", instead)?;
        let outputs = args.outputs.reserve()?;
        let mut report = file::read(path)?;
        report.summary = summary::summarize(&report, &budgets);
        budget::check(&budgets, &report)?;
        return finish(&report, outputs);
    }
    match args.inputs.as_slice() {
        [before, after] => {
            let mut flags = args.measuring();
            flags.extend((!budgets.is_empty()).then_some("--budget"));
            flags.extend(args.outputs.given());
            // Two words that are no files are more likely an image and its command.
            let [before, after] = [Path::new(before), Path::new(after)];
            are_files(&[before, after])?;
            refuse(&flags, "two reports", "they are compared as they are and the result is printed")?;
            compare_reports(before, after)
        }
        [image] => {
            let order = Order::new(&args, image, budgets)?;
            let outputs = args.outputs.reserve()?;
            match take::take(&order, context)? {
                Some(report) => {
                    let code = finish(&report, outputs)?;
                    // What was measured is told first: the peer of a budget may have failed after all the others were measured.
                    if matches!(report.completion, Completion::Complete) {
                        budget::check(&order.budgets, &report)?;
                    }
                    Ok(code)
                }
                None => Ok(EXIT_INTERRUPTED),
            }
        }
        _ => bail!("give one image, or two reports"),
    }
}

fn are_files(paths: &[&Path]) -> Result<()> {
    for path in paths {
        if !path.exists() {
            bail!(
                "{} is no file: two arguments are two reports; a command for the image goes after --",
                path.display()
            );
        }
    }
    Ok(())
}

fn compare_reports(before: &Path, after: &Path) -> Result<u8> {
    let reports = [file::read(before)?, file::read(after)?];
    let names = [before.display().to_string(), after.display().to_string()];
    let versus = versus::versus((&names[0], &reports[0]), (&names[1], &reports[1]))?;
    output::print(&render::text::versus(&versus))?;
    Ok(0)
}

/// Prints and writes a report; the exit code.
fn finish(report: &Report, outputs: Outputs) -> Result<u8> {
    outputs.write(report)?;
    if report.summary.budgets.iter().any(|budget| !budget.kept) {
        return Ok(EXIT_BUDGET);
    }
    match &report.completion {
        Completion::Partial { reason, .. } if reason == "interrupted" => Ok(EXIT_INTERRUPTED),
        Completion::Partial { .. } => Ok(crate::commands::EXIT_FAILURE),
        Completion::Complete => Ok(0),
    }
}

/// A measurement that was asked for, checked.
struct Order {
    question: Question,
    probe: Probe,
    timeout: Duration,
    ways: Vec<Way>,
    peers: Vec<String>,
    strict: bool,
    budgets: Vec<Budget>,
}

impl Order {
    fn new(args: &Args, image: &str, budgets: Vec<Budget>) -> Result<Self> {
        let ready = args.ready.clone().unwrap_or_else(|| "exec".to_owned());
        let probe: Probe = ready.parse()?;
        let timeout = budget::duration("--timeout", args.timeout.as_deref().unwrap_or("60s"))?;
        let isolations = match args.isolation.as_slice() {
            [] => vec![Isolation::Container, Isolation::Vm],
            named => once_each(named),
        };
        let mut ways: Vec<Way> = isolations.into_iter().map(Way::of).collect();
        if args.boot {
            ways.push(Way { isolation: Isolation::Vm, boots: true });
        }
        let peers = once_each(&args.with);
        let (runs, warmup) = (args.runs.unwrap_or(30), args.warmup.unwrap_or(3));
        let (parallel, density) = (args.parallel.unwrap_or(1), args.density.unwrap_or(0));
        // Nothing is measured before the plan is known to be sound.
        plan::plan(ways.len() + peers.len(), runs, warmup, 0)?;
        if parallel == 0 || parallel > 1000 {
            bail!("--parallel {parallel}: give a number from 1 to 1000");
        }
        if density > 10_000 {
            bail!("--density {density}: give at most 10000 instances");
        }
        if density > 0 && matches!(probe, Probe::Exit) {
            bail!("--density needs instances that stay: use another probe than exit");
        }
        if let Some(name) = budgets.iter().find_map(|budget| {
            let name = budget.subject()?;
            let known = ways.iter().any(|way| way.id() == name)
                || peers.iter().any(|peer| peer == name);
            (!known).then(|| name.to_owned())
        }) {
            bail!("--budget names {name:?}, which is not measured");
        }
        peers::check(&peers)?;
        let seed = match args.seed {
            Some(seed) => seed,
            None => drawn_seed()?,
        };
        let question = Question {
            image: image.to_owned(),
            command: args.command.clone(),
            ready,
            runs,
            warmup,
            seed,
            cache: if args.cold { CacheState::Cold } else { CacheState::Warm },
            parallel,
            density,
            timeout_ms: u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX),
            run_flags: args.run_flags.clone(),
            command_line: std::env::args().collect(),
        };
        Ok(Self { question, probe, timeout, ways, peers, strict: args.strict, budgets })
    }

    /// Whether a budget names this subject.
    fn limits(&self, id: &str) -> bool {
        self.budgets.iter().any(|budget| budget.subject() == Some(id))
    }
}

/// Each of them once, in the order of their first.
fn once_each<T: Clone + PartialEq>(values: &[T]) -> Vec<T> {
    let mut each: Vec<T> = vec![];
    for value in values {
        if !each.contains(value) {
            each.push(value.clone());
        }
    }
    each
}

/// Six digits from the kernel: short enough to be typed again.
fn drawn_seed() -> Result<u64> {
    let digits = rkvm_engine::ids::random()?;
    Ok(u64::from_str_radix(digits.get(..8).unwrap_or("0"), 16)? % 1_000_000)
}
