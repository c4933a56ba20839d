//! Containers from `run` to `rm`: exit codes, names, restart policies, signals.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::Command;

use rkvm_testing::{Isolation, Sandbox, in_both_isolations, wait};

in_both_isolations! {
    exit_codes_are_the_programs_or_dockers,
    a_missing_program_leaves_a_created_container_and_rm_none,
    created_started_stopped_restarted_removed,
    several_names_are_each_tried_and_echoed,
    a_name_is_refused_twice_and_free_after_rm,
    restart_policies_restart_and_stop_holds,
    stop_sends_the_chosen_signal_then_kills,
    signals_of_the_foreground_client_reach_the_program,
    a_paused_container_is_stopped_all_the_same,
    exec_has_user_env_directory_and_exit_code,
    an_init_reaps_and_passes_signals_and_codes_on,
    limits_change_while_it_runs,
    memory_kill_is_recorded,
    a_restarting_container_can_be_stopped_and_removed,
}

fn sandbox(isolation: Isolation) -> Sandbox {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    sandbox
}

fn state(sandbox: &Sandbox, name: &str) -> serde_json::Value {
    sandbox.rkvm(["inspect", name]).ok().json()[0]["State"].clone()
}

/// Waits until the program has said "ready" `times` times. It does so once its traps are set: the kernel drops a signal to the first
/// process of a namespace that has no handler for it.
#[track_caller]
fn ready(sandbox: &Sandbox, name: &str, times: usize) {
    wait::until("the traps", || {
        (sandbox.rkvm(["logs", name]).ok().text().matches("ready").count() >= times).then_some(())
    });
}

fn exit_codes_are_the_programs_or_dockers(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let run = |args: &[&str]| sandbox.rkvm(["run", "--rm", "--network", "none", "busybox"]).args(args).run();
    assert_eq!(run(&["sh", "-c", "exit 7"]).code, 7);
    assert_eq!(run(&["sh", "-c", "kill -9 $$; sleep 5"]).code, 0, "pid 1 of a namespace cannot kill itself");
    assert!(run(&["no-such-program"]).expect_code(127).stderr().contains("no-such-program"));
    run(&["/etc"]).expect_code(126);
    sandbox.rkvm(["run", "no-such-image:none", "--pull"]).run().expect_code(125);
    sandbox.rkvm(["run", "--pull", "never", "no-such-image"]).run().expect_code(125);
    assert!(sandbox.rkvm(["ps", "-aq"]).ok().text().is_empty());
}

fn a_missing_program_leaves_a_created_container_and_rm_none(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let run = ["run", "--network", "none", "--name", "lost", "busybox", "no-such-program"];
    sandbox.rkvm(run).run().expect_code(127);
    let state = state(&sandbox, "lost");
    assert_eq!(state["Status"], "created");
    assert_eq!(state["ExitCode"], 127);
    sandbox.rkvm(["rm", "lost"]).ok();
}

fn created_started_stopped_restarted_removed(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let id = sandbox
        .rkvm([
            "create",
            "--name",
            "web",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "trap 'exit 3' TERM; echo ready; while :; do sleep 0.1; done",
        ])
        .ok()
        .text();
    assert_eq!(id.len(), 64);
    assert_eq!(state(&sandbox, "web")["Status"], "created");
    sandbox.rkvm(["stop", "web"]).ok();
    assert_eq!(sandbox.rkvm(["start", "web"]).ok().text(), "web");
    sandbox.rkvm(["start", &id[..10]]).ok();
    sandbox.rkvm(["rm", "web"]).fails("stop it first");
    let pid = state(&sandbox, "web")["Pid"].as_i64().unwrap();
    assert!(std::fs::exists(format!("/proc/{pid}")).unwrap());
    ready(&sandbox, "web", 1);
    sandbox.rkvm(["restart", "-t", "5", "web"]).ok();
    assert_ne!(state(&sandbox, "web")["Pid"].as_i64().unwrap(), pid);
    ready(&sandbox, "web", 2);
    sandbox.rkvm(["stop", "-t", "30", "web"]).ok();
    assert_eq!(state(&sandbox, "web")["Status"], "exited");
    assert_eq!(state(&sandbox, "web")["ExitCode"], 3);
    assert_eq!(sandbox.rkvm(["wait", "web"]).ok().text(), "3");
    sandbox.rkvm(["kill", "web"]).fails("exited");
    sandbox.rkvm(["rm", "web"]).ok();
    sandbox.rkvm(["start", "web"]).fails("no such container");
}

fn several_names_are_each_tried_and_echoed(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    for name in ["one", "two"] {
        sandbox.rkvm(["run", "-d", "--network", "none", "--name", name, "busybox", "sleep", "1000"]).ok();
    }
    let killed = sandbox.rkvm(["kill", "one", "missing", "two"]).run().expect_code(1);
    assert_eq!(killed.text(), "one\ntwo");
    assert!(killed.stderr().contains("missing"));
    assert_eq!(sandbox.rkvm(["wait", "one", "two"]).ok().text(), "137\n137");
    sandbox.rkvm(["rm", "-f", "one", "two", "missing"]).ok();
}

fn a_name_is_refused_twice_and_free_after_rm(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let create = || sandbox.rkvm(["create", "--name", "only", "--network", "none", "busybox", "true"]);
    create().ok();
    create().run().expect_code(125);
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text().lines().count(), 1);
    sandbox.rkvm(["rm", "only"]).ok();
    create().ok();
    sandbox.rkvm(["rm", "only"]).ok();
}

fn restart_policies_restart_and_stop_holds(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let run = |name: &str, policy: &str, code: &str| {
        sandbox
            .rkvm(["run", "-d", "--network", "none", "--name", name, "--restart", policy, "busybox"])
            .args(["sh", "-c", &format!("echo ran; exit {code}")])
            .ok();
    };
    run("twice", "on-failure:2", "4");
    run("fine", "on-failure", "0");
    run("always", "always", "0");
    wait::until("two retries", || (state(&sandbox, "twice")["Status"] == "exited").then_some(()));
    assert_eq!(sandbox.rkvm(["logs", "twice"]).ok().text().lines().count(), 3);
    assert_eq!(state(&sandbox, "twice")["ExitCode"], 4);
    wait::until("success to end it", || (state(&sandbox, "fine")["Status"] == "exited").then_some(()));
    assert_eq!(sandbox.rkvm(["logs", "fine"]).ok().text(), "ran");
    wait::until("restarts", || {
        (sandbox.rkvm(["logs", "always"]).ok().text().lines().count() >= 3).then_some(())
    });
    sandbox.rkvm(["stop", "always"]).ok();
    assert_eq!(state(&sandbox, "always")["Status"], "exited");
    let before = sandbox.rkvm(["logs", "always"]).ok().text();
    std::thread::sleep(std::time::Duration::from_millis(500));
    assert_eq!(sandbox.rkvm(["logs", "always"]).ok().text(), before, "a stopped container stays stopped");
    sandbox.rkvm(["rm", "twice", "fine", "always"]).ok();
}

fn stop_sends_the_chosen_signal_then_kills(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let script = "trap 'exit 9' USR1; trap '' TERM; echo ready; while :; do sleep 0.1; done";
    for (name, flags, code) in [("usr", &["--stop-signal", "USR1"][..], 9), ("stubborn", &[], 137)] {
        sandbox
            .rkvm(["run", "-d", "--network", "none", "--name", name])
            .args(flags)
            .args(["busybox", "sh", "-c", script])
            .ok();
        ready(&sandbox, name, 1);
        sandbox.rkvm(["stop", "-t", "1", name]).ok();
        assert_eq!(state(&sandbox, name)["ExitCode"], code, "{name}");
        sandbox.rkvm(["rm", name]).ok();
    }
}

fn signals_of_the_foreground_client_reach_the_program(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let script = "trap 'echo got it; exit 5' USR2; echo ready; while :; do sleep 0.1; done";
    let client = sandbox.rkvm(["run", "--rm", "--network", "none", "busybox", "sh", "-c", script]).spawn();
    wait::until("the trap", || client.stdout().contains("ready").then_some(()));
    client.signal(nix::sys::signal::Signal::SIGUSR2);
    let output = client.wait().expect_code(5);
    assert!(output.stdout().contains("got it"));
}

fn a_paused_container_is_stopped_all_the_same(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    sandbox.rkvm(["run", "-d", "--network", "none", "--name", "ice", "busybox", "sleep", "1000"]).ok();
    sandbox.rkvm(["pause", "ice"]).ok();
    assert_eq!(state(&sandbox, "ice")["Status"], "paused");
    sandbox.rkvm(["pause", "ice"]).fails("paused");
    sandbox.rkvm(["exec", "ice", "true"]).fails("paused");
    sandbox.rkvm(["start", "ice"]).fails("unpause");
    sandbox.rkvm(["unpause", "ice"]).ok();
    sandbox.rkvm(["exec", "ice", "true"]).ok();
    sandbox.rkvm(["pause", "ice"]).ok();
    sandbox.rkvm(["rm", "-f", "ice"]).ok();
}

fn exec_has_user_env_directory_and_exit_code(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    sandbox
        .rkvm(["run", "-d", "--network", "none", "--name", "host", "-e", "A=1", "busybox", "sleep", "1000"])
        .ok();
    let exec = |flags: &[&str], script: &str| {
        sandbox.rkvm(["exec"]).args(flags).args(["host", "sh", "-c", script]).run()
    };
    let text =
        exec(&["-u", "user", "-w", "/tmp", "-e", "B=2"], "echo $(id -u):$(id -g) $(pwd) $A$B $HOME; exit 6");
    assert_eq!((text.code, text.text().as_str()), (6, "1000:1000 /tmp 12 /home"));
    assert_eq!(exec(&["-u", "user"], "id -G").text(), "1000 2000");
    exec(&["-u", "nobody-here"], "true").expect_code(1);
    sandbox.rkvm(["exec", "host", "no-such-program"]).run().expect_code(127);
    sandbox.rkvm(["exec", "host", "/etc"]).run().expect_code(126);
    let echoed = sandbox.rkvm(["exec", "-i", "host", "cat"]).stdin(vec![b'x'; 300_000]).ok();
    assert_eq!(echoed.stdout().len(), 300_000);
    sandbox.rkvm(["exec", "-d", "host", "touch", "/tmp/made"]).ok();
    wait::until("the detached program", || (exec(&[], "test -e /tmp/made").code == 0).then_some(()));
    sandbox.rkvm(["rm", "-f", "host"]).ok();
}

fn an_init_reaps_and_passes_signals_and_codes_on(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let run = |script: &str| {
        sandbox.rkvm(["run", "--rm", "--init", "--network", "none", "busybox", "sh", "-c", script]).run()
    };
    assert!(run("cat /proc/1/comm").text().starts_with("rkvm-init"));
    assert_eq!(run("exit 8").code, 8);
    assert_eq!(run("kill -TERM $$").code, 143);
    let zombies =
        run("(sleep 0 & exec sleep 0.1) ; sleep 0.5; cat /proc/[0-9]*/stat | grep -c ') Z ' || true");
    assert_eq!(zombies.text().lines().last(), Some("0"), "{zombies}");
    sandbox.rkvm(["run", "--rm", "--init", "--network", "none", "busybox", "nope"]).run().expect_code(127);
}

fn limits_change_while_it_runs(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    sandbox
        .rkvm(["run", "-d", "--network", "none", "--name", "big", "-m", "64m", "busybox", "sleep", "1000"])
        .ok();
    let inspect = || sandbox.rkvm(["inspect", "big"]).ok().json()[0]["HostConfig"].clone();
    assert_eq!(inspect()["Memory"], 64 << 20);
    sandbox.rkvm(["update", "-m", "32m", "--memory-swap", "64m", "--restart", "always", "big"]).ok();
    assert_eq!(inspect()["Memory"], 32 << 20);
    assert_eq!(inspect()["RestartPolicy"]["Name"], "always");
    sandbox.rkvm(["update", "-m", "1m", "big"]).fails("6m");
    sandbox.rkvm(["rm", "-f", "big"]).ok();
}

fn memory_kill_is_recorded(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let hog = "x=$(head -c 100000000 /dev/zero | tr '\\0' x); echo survived";
    let run = ["run", "--network", "none", "--name", "hog", "-m", "16m", "--memory-swap", "16m", "busybox"];
    let output = sandbox.rkvm(run).args(["sh", "-c", hog]).run();
    assert_ne!(output.code, 0, "{output}");
    assert_eq!(state(&sandbox, "hog")["OOMKilled"], true);
    sandbox.rkvm(["rm", "hog"]).ok();
}

#[test]
fn timings_name_every_phase_of_a_container() {
    let sandbox = sandbox(Isolation::Container);
    let run = ["run", "--rm", "--network", "none", "--timings=json", "busybox", "true"];
    let report: serde_json::Value = serde_json::from_str(&sandbox.rkvm(run).ok().stderr()).unwrap();
    let phases: Vec<&str> =
        report["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["image", "rootfs", "network", "sandbox", "process", "exec"]);
    let sum: u64 =
        report["phases"].as_array().unwrap().iter().map(|phase| phase["ns"].as_u64().unwrap()).sum();
    assert_eq!(report["total_ns"].as_u64().unwrap(), sum);
}

#[test]
fn a_monitor_keeps_little_memory() {
    let sandbox = sandbox(Isolation::Container);
    let mut monitors = Vec::new();
    for name in ["one", "two"] {
        sandbox.rkvm(["run", "-d", "--name", name, "--network", "none", "busybox", "sleep", "1000"]).ok();
        let id = std::fs::read_link(sandbox.root().join("lib/names").join(name)).unwrap();
        let state = std::fs::read(sandbox.root().join("lib/containers").join(id).join("state.json")).unwrap();
        let state: serde_json::Value = serde_json::from_slice(&state).unwrap();
        monitors.push(state["monitor_pid"].as_i64().unwrap());
    }
    // Heap, stacks and data that was written to. The program's text is page cache: whether its pages count as private depends on who else
    // runs it at the moment and on how the file system caches a file.
    let smaps = std::fs::read_to_string(format!("/proc/{}/smaps", monitors[1])).unwrap();
    let own: u64 = smaps
        .lines()
        .filter(|line| line.starts_with("Anonymous:") || line.starts_with("Swap:"))
        .map(|line| line.split_whitespace().nth(1).unwrap().parse::<u64>().unwrap())
        .sum();
    assert!(own > 0 && own <= 3 * 1024, "{own} KiB:\n{smaps}");
    let comm = std::fs::read_to_string(format!("/proc/{}/status", monitors[1])).unwrap();
    assert!(comm.contains("Threads:\t1"), "{comm}");
    sandbox.rkvm(["rm", "-f", "one", "two"]).ok();
}

fn a_restarting_container_can_be_stopped_and_removed(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    for name in ["stop-me", "rm-me"] {
        sandbox
            .rkvm(["run", "-d", "--name", name, "--restart", "always", "busybox", "sh", "-c", "exit 1"])
            .ok();
        wait::until("a longer pause", || {
            let state = state(&sandbox, name);
            (state["Status"] == "restarting" && sandbox.rkvm(["logs", name]).run().code == 0).then_some(())
        });
    }
    sandbox.rkvm(["stop", "stop-me"]).ok();
    assert_eq!(state(&sandbox, "stop-me")["Status"], "exited");
    sandbox.rkvm(["rm", "stop-me"]).ok();
    sandbox.rkvm(["rm", "-f", "rm-me"]).ok();
}

/// As when its client fails, or is killed, before there is a container.
#[test]
fn a_monitor_that_is_told_nothing_ends_and_leaves_nothing() {
    let folder = tempfile::tempdir().unwrap();
    let (run, lib) = (folder.path().join("run"), folder.path().join("lib"));
    let (ours, theirs) = UnixStream::pair().unwrap();
    let mut monitor = Command::new(rkvm_testing::binary("rkvm-monitor"))
        .args([run.as_os_str(), lib.as_os_str(), "0123456789ab".as_ref()])
        .stdin(OwnedFd::from(theirs))
        .spawn()
        .unwrap();
    assert!(monitor.try_wait().unwrap().is_none(), "it waits");
    drop(ours);
    assert!(monitor.wait().unwrap().success());
    assert!(!run.exists() && !lib.exists());
}
