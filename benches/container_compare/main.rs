//! `./x bench container`: rkvm-oci, crun and runc side by side.
//!
//! All contestants run interleaved, in random order, on the same bundle, in one run and in one mount namespace: crun refuses
//! hybrid cgroups, so the v2 mount is taken away in a namespace of this benchmark's own. What is timed is what a container
//! manager does: `create`, `start`, wait for the container's init (this process is its subreaper), `delete`.

// A benchmark that cannot measure has nothing else to do than to stop and say why.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod contest;
mod engine;
mod environment;
mod floor;
mod stats;
mod sys;
mod unpack;

use std::path::PathBuf;

use clap::Parser;
use rkvm_testing::{Sandbox, reap};
use serde_json::json;

use contest::Contestant;
use stats::{Bootstrap, Random, Samples, Table};

/// Compares rkvm-oci with crun and runc, and `rkvm run` with both.
#[derive(Debug, Parser)]
struct Args {
    /// Timed rounds; each runs every contestant once
    #[arg(long, default_value_t = 60)]
    runs: usize,
    /// Rounds before the timed ones
    #[arg(long, default_value_t = 5)]
    warmup: usize,
    /// Seed of the order and of the bootstrap
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Write every sample to this file
    #[arg(long, value_name = "FILE")]
    json: Option<PathBuf>,
    /// Parts to run
    #[arg(long, value_delimiter = ',', default_value = "lifecycle,engine,memory,unpack")]
    parts: Vec<String>,
    /// OCI layout archive to unpack (see `./x images`)
    #[arg(long, value_name = "FILE")]
    image: Option<PathBuf>,
    /// OCI runtimes to compare
    #[arg(long, value_delimiter = ',', default_value = "rkvm-oci,crun,runc")]
    runtimes: Vec<String>,
    /// Given by cargo
    #[arg(long, hide = true)]
    bench: bool,
}

fn main() {
    let args = Args::parse();
    environment::print(args.seed);
    environment::leave_cgroup_v2();
    reap::become_subreaper();
    let has = |part: &str| args.parts.iter().any(|one| one == part);
    let mut random = Random::new(args.seed);
    let mut bootstrap = Bootstrap::new(args.seed);
    let mut all: Vec<(String, Samples)> = vec![];

    let mut sandbox = Sandbox::new();
    sandbox.without_leak_check();
    let mut contestants: Vec<Box<dyn Contestant>> = vec![];
    if has("lifecycle") {
        contestants.push(Box::new(floor::Floor::new(&sandbox)));
        contestants.push(Box::new(floor::ThreeProcesses::new(&sandbox)));
        for runtime in &args.runtimes {
            contestants.push(Box::new(contest::OciRuntime::new(
                &sandbox,
                runtime,
                contest::UserNamespace::New,
            )));
            contestants.push(Box::new(contest::OciRuntime::new(
                &sandbox,
                runtime,
                contest::UserNamespace::Host,
            )));
        }
    }
    if has("engine") {
        engine::load_image(&sandbox);
        for network in ["none", "bridge"] {
            contestants.push(Box::new(engine::Run::new(&sandbox, network)));
        }
    }
    if !contestants.is_empty() {
        all.extend(contest::race(&mut contestants, args.warmup, args.runs, &mut random));
        let mut table = Table::new("create+start+wait+delete of a static `true`, milliseconds");
        for (name, samples) in &all {
            table.row(name, samples, &mut bootstrap);
        }
        table.print();
        println!("\nRatios of medians, with 95 % bootstrap intervals");
        let ours = format!("rkvm-oci/{}", contest::UserNamespace::New.name());
        let ours_host = format!("rkvm-oci/{}", contest::UserNamespace::Host.name());
        for (of, to, target) in [
            (ours.as_str(), "crun/userns", 0.6),
            (ours.as_str(), "runc/userns", 0.25),
            (ours_host.as_str(), "crun/no-userns", 0.6),
            (ours_host.as_str(), "runc/no-userns", 0.25),
            ("rkvm run --rm/none", ours.as_str(), 2.0),
            ("rkvm run --rm/bridge", ours.as_str(), 2.0),
        ] {
            stats::print_ratio(&all, of, to, target, &mut bootstrap);
        }
    }
    if has("memory") {
        engine::load_image(&sandbox);
        engine::print_monitor_memory(&sandbox);
    }
    if has("unpack") {
        let results = unpack::race(&sandbox, args.image.as_deref(), args.runs.clamp(3, 7), &mut random);
        let mut table = Table::new("unpack of one image, milliseconds");
        for (name, samples) in &results {
            table.row(name, samples, &mut bootstrap);
        }
        table.print();
        println!("\nRatio of medians, with its 95 % bootstrap interval");
        stats::print_ratio(&results, "rkvm load", "umoci unpack", 1.0 / 1.5, &mut bootstrap);
        all.extend(results);
    }
    if let Some(file) = &args.json {
        let samples: serde_json::Map<_, _> =
            all.iter().map(|(name, samples)| (name.clone(), samples.to_json())).collect();
        let report = json!({ "seed": args.seed, "environment": environment::lines(), "samples_ns": samples });
        std::fs::write(file, report.to_string()).expect("write the JSON file");
        println!("\nSamples: {}", file.display());
    }
}
