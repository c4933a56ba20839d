//! The engine: `rkvm run --rm`, and what its monitor holds in memory.

use std::fs;
use std::process::{Command, Stdio};
use std::time::Instant;

use rkvm_testing::{Entry, Sandbox, binary, docker_archive};
use serde_json::json;

use crate::contest::{Contestant, static_pause, static_true};

/// Loads the image `static`, which has the same static program as the bundle, and one that never ends.
pub fn load_image(sandbox: &Sandbox) {
    let archive = sandbox.path().join("static.tar");
    if archive.exists() {
        return;
    }
    let folders = ["dev", "etc", "proc", "sys", "tmp"].map(Entry::folder);
    let programs = [Entry::program("true", static_true()), Entry::program("pause", static_pause())];
    docker_archive(
        &archive,
        "static:latest",
        &[[&folders[..], &programs].concat()],
        json!({ "Cmd": ["/true"] }),
    );
    sandbox.rkvm(["load", "-i"]).arg(&archive).ok();
}

/// `rkvm run --rm --network NETWORK static`.
pub struct Run {
    command: Vec<std::ffi::OsString>,
    root: std::path::PathBuf,
    network: String,
}

impl Run {
    pub fn new(sandbox: &Sandbox, network: &str) -> Self {
        let command = vec![
            binary("rkvm").into(),
            "run".into(),
            "--rm".into(),
            "--network".into(),
            network.into(),
            "--memory=256m".into(),
            "--cpus=1".into(),
            "--pids-limit=256".into(),
            "static".into(),
        ];
        Self { command, root: sandbox.root(), network: network.to_owned() }
    }
}

impl Contestant for Run {
    fn name(&self) -> String {
        format!("rkvm run --rm/{}", self.network)
    }

    fn run(&mut self) -> Vec<(&'static str, u64)> {
        let start = Instant::now();
        let output = Command::new(&self.command[0])
            .args(&self.command[1..])
            .env("RKVM_ROOT", &self.root)
            .stdin(Stdio::null())
            .output()
            .expect("run rkvm");
        let time = start.elapsed().as_nanos() as u64;
        assert!(output.status.success(), "{}: {}", self.name(), String::from_utf8_lossy(&output.stderr));
        rkvm_testing::reap::reap_all();
        vec![("all", time)]
    }
}

/// Prints the private memory of the monitors of two running containers.
pub fn print_monitor_memory(sandbox: &Sandbox) {
    println!("\nPrivate memory of a monitor, with two of them running (target: 3072 KiB at most)");
    let ids: Vec<String> = ["none", "bridge"]
        .map(|network| sandbox.rkvm(["run", "-d", "--network", network, "static", "/pause"]).ok().text())
        .to_vec();
    for id in &ids {
        let pid = sandbox.rkvm(["inspect", "--format", "{{.State.Pid}}", id]).ok().text();
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).expect("stat of the container's init");
        let monitor =
            stat.rsplit(") ").next().and_then(|rest| rest.split(' ').nth(1)).expect("parent").to_owned();
        let name = fs::read_to_string(format!("/proc/{monitor}/comm")).expect("name of the monitor");
        let rollup = fs::read_to_string(format!("/proc/{monitor}/smaps_rollup")).expect("smaps_rollup");
        let field = |name: &str| -> u64 {
            let line = rollup.lines().find(|line| line.starts_with(name)).expect("field of smaps_rollup");
            line.split_whitespace().nth(1).expect("value").parse().expect("a number")
        };
        let (dirty, clean) = (field("Private_Dirty:"), field("Private_Clean:"));
        println!(
            "  {:<12} private {} KiB (dirty {dirty}, clean {clean}), resident {} KiB",
            name.trim(),
            dirty + clean,
            field("Rss:")
        );
    }
    for id in &ids {
        sandbox.rkvm(["rm", "-f", id]).ok();
    }
    rkvm_testing::reap::reap_all();
}
