//! Limits that `rkvm run` sets: what happens when a container reaches them.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use rkvm_testing::{Isolation, Sandbox, in_both_isolations, wait};

in_both_isolations! {
    a_container_that_takes_too_much_memory_is_killed_and_says_so,
    a_container_killed_by_hand_was_not_out_of_memory,
    only_the_process_that_took_the_memory_is_killed,
    processes_are_limited,
    cpu_time_follows_the_quota,
}

fn sandbox(isolation: Isolation) -> Sandbox {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    sandbox
}

fn inspect(sandbox: &Sandbox, container: &str, format: &str) -> String {
    sandbox.rkvm(["inspect", "--format", format, container]).ok().text()
}

/// A file of the container's cgroup in hierarchy `controller`.
fn cgroup_file(sandbox: &Sandbox, container: &str, controller: &str, file: &str) -> String {
    let pid = inspect(sandbox, container, "{{.State.Pid}}");
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    let v1 = text.lines().find_map(|line| line.split_once(&format!(":{controller}:")).map(|(_, path)| path));
    let path = match v1 {
        Some(path) => format!("/sys/fs/cgroup/{controller}{path}/{file}"),
        None => format!("/sys/fs/cgroup{}/{file}", text.trim().rsplit(':').next().unwrap()),
    };
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}")).trim().to_owned()
}

fn a_container_that_takes_too_much_memory_is_killed_and_says_so(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    sandbox.rkvm(["run", "-d", "--name", "eater", "--memory", "16m", "busybox", "tail", "/dev/zero"]).ok();
    assert_eq!(sandbox.rkvm(["wait", "eater"]).ok().text(), "137");
    assert_eq!(inspect(&sandbox, "eater", "{{.State.OOMKilled}} {{.State.ExitCode}}"), "true 137");
    sandbox.rkvm(["rm", "eater"]).ok();
    sandbox.rkvm(["run", "--rm", "--memory", "16m", "busybox", "tail", "/dev/zero"]).run().expect_code(137);
}

fn a_container_killed_by_hand_was_not_out_of_memory(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    sandbox.rkvm(["run", "-d", "--name", "sleeper", "--memory", "16m", "busybox", "sleep", "1000"]).ok();
    sandbox.rkvm(["kill", "sleeper"]).ok();
    assert_eq!(sandbox.rkvm(["wait", "sleeper"]).ok().text(), "137");
    assert_eq!(inspect(&sandbox, "sleeper", "{{.State.OOMKilled}}"), "false");
    sandbox.rkvm(["rm", "sleeper"]).ok();
}

fn only_the_process_that_took_the_memory_is_killed(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let script = "tail /dev/zero; echo code $?";
    let output = sandbox.rkvm(["run", "--rm", "--memory", "16m", "busybox", "sh", "-c", script]).ok();
    assert!(output.stdout().contains("code 137"), "{output}");
}

fn processes_are_limited(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let script = "i=0; while [ $i -lt 20 ]; do sleep 100 & i=$((i+1)); done; echo all";
    let run = |limit: &str| {
        sandbox.rkvm(["run", "--rm", "--pids-limit", limit, "busybox", "sh", "-c", script]).run()
    };
    let output = run("8");
    assert!(!output.stdout().contains("all") && output.stderr().contains("fork"), "{output}");
    assert_eq!(run("40").text(), "all");
    assert_eq!(run("-1").text(), "all");
}

fn cpu_time_follows_the_quota(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    // Side by side, and both far below what a busy machine has left: the ratio counts, not the time.
    for (name, cpus) in [("slow", "0.02"), ("fast", "0.1")] {
        let script = "while :; do :; done";
        sandbox.rkvm(["run", "-d", "--name", name, "--cpus", cpus, "busybox", "sh", "-c", script]).ok();
    }
    let periods = |name: &str| -> u64 {
        let stat = cgroup_file(&sandbox, name, "cpu", "cpu.stat");
        stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap().parse().unwrap()
    };
    let usage =
        |name: &str| -> f64 { cgroup_file(&sandbox, name, "cpuacct", "cpuacct.usage").parse().unwrap() };
    wait::until("both to be held back", || (periods("slow") > 3 && periods("fast") > 3).then_some(()));
    let before = [usage("slow"), usage("fast")];
    let throttled = periods("slow");
    wait::until("thirty more periods", || (periods("slow") > throttled + 30).then_some(()));
    let ratio = (usage("fast") - before[1]) / (usage("slow") - before[0]);
    sandbox.rkvm(["rm", "-f", "slow", "fast"]).ok();
    assert!((2.0..12.0).contains(&ratio), "five times the quota gave {ratio:.2} times the cpu time");
}

#[test]
fn limits_are_changed_while_it_runs() {
    let sandbox = sandbox(Isolation::Container);
    sandbox.rkvm(["run", "-d", "--name", "one", "--pids-limit", "50", "busybox", "sleep", "1000"]).ok();
    assert_eq!(cgroup_file(&sandbox, "one", "pids", "pids.max"), "50");
    sandbox.rkvm(["update", "--pids-limit", "60", "--memory", "64m", "one"]).ok();
    assert_eq!(cgroup_file(&sandbox, "one", "pids", "pids.max"), "60");
    assert_eq!(cgroup_file(&sandbox, "one", "memory", "memory.limit_in_bytes"), "67108864");
    sandbox.rkvm(["restart", "-t", "0", "one"]).ok();
    assert_eq!(cgroup_file(&sandbox, "one", "pids", "pids.max"), "60", "forgotten by a restart");
    sandbox.rkvm(["rm", "-f", "one"]).ok();
}

#[test]
fn limits_are_shown() {
    let sandbox = sandbox(Isolation::Container);
    sandbox
        .rkvm([
            "create",
            "--name",
            "one",
            "--memory",
            "64m",
            "--cpus",
            "1.5",
            "--pids-limit",
            "99",
            "busybox",
        ])
        .ok();
    let format = "{{.HostConfig.Memory}} {{.HostConfig.NanoCpus}} {{.HostConfig.PidsLimit}}";
    assert_eq!(inspect(&sandbox, "one", format), "67108864 1500000000 99");
    sandbox.rkvm(["rm", "one"]).ok();
}

#[test]
fn limits_that_cannot_be_are_refused() {
    let sandbox = sandbox(Isolation::Container);
    for (flag, value) in [
        ("--memory", "nonsense"),
        ("--memory", "-5m"),
        ("--memory", "1k"),
        ("--cpus", "nonsense"),
        ("--cpus", "-1"),
        ("--cpus", "100000"),
        ("--pids-limit", "many"),
        ("--ulimit", "nofile=2:1"),
        ("--ulimit", "nonsense=1"),
        ("--shm-size", "x"),
    ] {
        let output =
            sandbox.rkvm(["run", "--rm"]).arg(format!("{flag}={value}")).args(["busybox", "true"]).fails("");
        assert_eq!(output.code, 125, "{flag}={value}: {output}");
        assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "", "{flag}={value} left a container");
    }
}
