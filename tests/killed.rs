//! `kill -9` of the client, of the monitor and of the OCI runtime at every moment of a container's life: the next command
//! works, says what happened, and repairs it.
//!
//! The moments are swept: a first undisturbed run tells how long the operation takes, and it is then killed after every
//! part of that time. Which phase that is does not matter, as all are met.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkvm_testing::{Cmd, Running, Sandbox, wait};

/// Moments of one sweep. Each is a fresh container, so more of them cost time.
const MOMENTS: u32 = 24;

/// Runs `operation` once undisturbed, then [`MOMENTS`] times, killed ever later; `prepare` is called before and `check`
/// after each of them.
fn sweep(operation: impl Fn() -> Cmd, prepare: impl Fn(), check: impl Fn(&str)) {
    prepare();
    let start = Instant::now();
    operation().ok();
    let whole = start.elapsed();
    check("undisturbed");
    for moment in 0..MOMENTS {
        prepare();
        let running = operation().spawn();
        // Denser at the beginning, where most happens, and a little beyond the end.
        let part = f64::from(moment) / f64::from(MOMENTS);
        std::thread::sleep(whole.mul_f64(part * part * 1.2));
        let _ = kill(Pid::from_raw(running.pid()), Signal::SIGKILL);
        running.wait();
        check(&format!(
            "killed after {:.1} ms of {:.1}",
            whole.as_secs_f64() * part * part * 1.2e3,
            whole.as_secs_f64() * 1e3
        ));
    }
}

/// The next commands after a kill: they work, no container is in a state between states, and all can be removed.
fn next_commands_work(sandbox: &Sandbox, when: &str) {
    let listed = sandbox.rkvm(["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}"]).run();
    assert_eq!(listed.code, 0, "{when}: {listed}");
    for line in listed.stdout().lines() {
        let (id, state) = line.split_once(' ').expect("id and state");
        assert!(
            ["created", "running", "exited", "paused", "dead", "restarting"].contains(&state),
            "{when}: {line}"
        );
        let removed = sandbox.rkvm(["rm", "-f", id]).run();
        assert_eq!(removed.code, 0, "{when}: {removed}");
    }
    let left = sandbox.rkvm(["ps", "-aq"]).ok().text();
    assert_eq!(left, "", "{when}");
    // A monitor that outlives its client may still be making the container that the client asked for.
    let clean = wait::within(Duration::from_secs(20), || {
        let ids = sandbox.rkvm(["ps", "-aq"]).ok().stdout();
        if !ids.is_empty() {
            sandbox.rkvm(["rm", "-f"]).args(ids.lines()).run();
        }
        sandbox.leaks().is_empty().then_some(())
    });
    assert!(clean.is_some(), "{when}, left behind:\n{}", sandbox.leaks());
}

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    sandbox
}

#[test]
fn client_of_run() {
    let sandbox = sandbox();
    sweep(
        || sandbox.rkvm(["run", "--name", "one", "busybox", "true"]),
        || {},
        |when| next_commands_work(&sandbox, when),
    );
}

#[test]
fn client_of_run_detached() {
    let sandbox = sandbox();
    sweep(
        || sandbox.rkvm(["run", "-d", "--name", "one", "busybox", "sleep", "1000"]),
        || {},
        |when| next_commands_work(&sandbox, when),
    );
}

#[test]
fn client_of_stop_and_remove() {
    let sandbox = sandbox();
    let start = || {
        sandbox.rkvm(["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).ok();
    };
    sweep(|| sandbox.rkvm(["stop", "-t", "0", "one"]), start, |when| next_commands_work(&sandbox, when));
    sweep(|| sandbox.rkvm(["rm", "-f", "one"]), start, |when| next_commands_work(&sandbox, when));
}

#[test]
fn client_of_load() {
    let sandbox = Sandbox::new();
    sweep(
        || sandbox.rkvm(["load", "-i"]).arg(rkvm_testing::busybox_archive()),
        || {
            let _ = fs::remove_dir_all(sandbox.root());
        },
        |when| {
            // Whatever was there when it was killed, loading again gives a whole image.
            let again = sandbox.rkvm(["load", "-i"]).arg(rkvm_testing::busybox_archive()).run();
            assert_eq!(again.code, 0, "{when}: {again}");
            let said = sandbox.rkvm(["run", "--rm", "busybox", "echo", "whole"]).run();
            assert_eq!(said.text(), "whole", "{when}: {said}");
        },
    );
}

/// Process ids of this sandbox's monitors.
fn monitors(sandbox: &Sandbox) -> Vec<i32> {
    let is_monitor = |pid: &i32| {
        let line = fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let line = String::from_utf8_lossy(&line).into_owned();
        line.contains("rkvm-monitor") && line.contains(sandbox.root().to_str().unwrap())
    };
    let pids =
        fs::read_dir("/proc").unwrap().flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.filter(is_monitor).collect()
}

/// Waits for the monitor that `client` starts, and kills it `delay` later.
fn kill_monitor(sandbox: &Sandbox, client: &mut Running, delay: Duration) {
    let monitor = wait::until("a monitor", || match client.try_wait() {
        Some(_) => Some(None),
        None => monitors(sandbox).first().copied().map(Some),
    });
    std::thread::sleep(delay);
    if let Some(monitor) = monitor {
        let _ = kill(Pid::from_raw(monitor), Signal::SIGKILL);
    }
}

#[test]
fn monitor_while_it_starts_a_container() {
    let sandbox = sandbox();
    let run = || sandbox.rkvm(["run", "--name", "one", "busybox", "sleep", "0.2"]);
    let start = Instant::now();
    run().ok();
    let whole = start.elapsed();
    next_commands_work(&sandbox, "undisturbed");
    for moment in 0..MOMENTS {
        let part = f64::from(moment) / f64::from(MOMENTS);
        let delay = whole.mul_f64(part * part);
        let mut client = run().spawn();
        kill_monitor(&sandbox, &mut client, delay);
        // The client must notice, not wait for ever; a monitor killed late has done its work.
        let output = client.wait();
        let when = format!("monitor killed after {:.1} ms", delay.as_secs_f64() * 1e3);
        assert!(
            output.code == 0 || !output.stderr().trim().is_empty() || output.code >= 128,
            "{when}: {output}"
        );
        next_commands_work(&sandbox, &when);
    }
}

#[test]
fn monitor_of_a_running_container() {
    let sandbox = sandbox();
    let id =
        sandbox.rkvm(["run", "-d", "--name", "one", "-p"]).arg(rkvm_testing::free_port().to_string() + ":80");
    let id = id.args(["busybox", "sleep", "1000"]).ok().text();
    let monitor = monitors(&sandbox);
    assert_eq!(monitor.len(), 1);
    kill(Pid::from_raw(monitor[0]), Signal::SIGKILL).unwrap();
    // Reported: it ended, and nobody knows its own exit code.
    let state = wait::until("the container to be reported as ended", || {
        let state =
            sandbox.rkvm(["inspect", "--format", "{{.State.Status}} {{.State.ExitCode}}", "one"]).ok().text();
        state.starts_with("exited").then_some(state)
    });
    assert_eq!(state, "exited 137");
    assert!(sandbox.rkvm(["ps", "-a"]).ok().stdout().contains("Exited (137)"));
    // Repaired: none of its processes is left, and it starts again.
    wait::until("its processes to be gone", || sandbox.leaks().pids.is_empty().then_some(()));
    sandbox.rkvm(["start", "one"]).ok();
    assert_eq!(sandbox.rkvm(["ps", "-q", "--no-trunc"]).ok().text(), id);
    sandbox.rkvm(["rm", "-f", "one"]).ok();
    sandbox.assert_no_leaks();
}

#[test]
fn client_and_monitor_of_a_running_container() {
    let sandbox = sandbox();
    let client =
        sandbox.rkvm(["run", "--rm", "--name", "one", "busybox", "sh", "-c", "echo up; sleep 1000"]).spawn();
    wait::until("the container", || client.stdout().contains("up").then_some(()));
    // The client's end is not the container's.
    client.signal(Signal::SIGKILL);
    client.wait();
    assert_eq!(sandbox.rkvm(["ps", "--format", "{{.Names}}"]).ok().text(), "one");
    assert_eq!(sandbox.rkvm(["exec", "one", "echo", "alive"]).ok().text(), "alive");
    let monitor = monitors(&sandbox);
    kill(Pid::from_raw(monitor[0]), Signal::SIGKILL).unwrap();
    next_commands_work(&sandbox, "after both were killed");
}

#[test]
fn after_a_reboot() {
    // /run is empty then, and no process is left.
    let sandbox = sandbox();
    let id = sandbox
        .rkvm(["run", "-d", "--name", "one", "busybox", "sh", "-c", "echo first; sleep 1000"])
        .ok()
        .text();
    wait::until("its output", || sandbox.rkvm(["logs", "one"]).ok().stdout().contains("first").then_some(()));
    let leaks = sandbox.leaks();
    leaks.pids.iter().for_each(|pid| {
        let _ = kill(Pid::from_raw(*pid), Signal::SIGKILL);
    });
    wait::until("the processes to be gone", || sandbox.leaks().pids.is_empty().then_some(()));
    fs::remove_dir_all(sandbox.root().join("run")).unwrap();
    let listed = sandbox.rkvm(["ps", "-a", "--no-trunc", "--format", "{{.ID}} {{.State}}"]).ok().text();
    assert_eq!(listed, format!("{id} exited"));
    assert!(sandbox.rkvm(["logs", "one"]).ok().stdout().contains("first"));
    sandbox.rkvm(["start", "one"]).ok();
    sandbox.rkvm(["rm", "-f", "one"]).ok();
    sandbox.assert_no_leaks();
}

/// After an OCI runtime's command was killed: the container can be deleted by force, and its id used again.
fn oci_recovers(sandbox: &Sandbox, bundle: &rkvm_testing::Bundle, when: &str) {
    let id = sandbox.id("c");
    let listed = sandbox.oci(["list"]).run();
    assert_eq!(listed.code, 0, "{when}: {listed}");
    let deleted = sandbox.oci(["delete", "--force", &id]).run();
    assert_eq!(deleted.code, 0, "{when}: {deleted}");
    let clean = wait::within(Duration::from_secs(20), || sandbox.leaks().is_empty().then_some(()));
    assert!(clean.is_some(), "{when}, left behind:\n{}", sandbox.leaks());
    let again = sandbox.oci(["run", "--bundle"]).arg(&bundle.path).arg(&id).run();
    assert_eq!(again.code, 0, "{when}: {again}");
}

#[test]
fn oci_create() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("c", &["true"]);
    sweep(
        || sandbox.oci(["create", "--bundle"]).arg(&bundle.path).arg(sandbox.id("c")),
        || {},
        |when| oci_recovers(&sandbox, &bundle, when),
    );
}

#[test]
fn oci_start_and_delete() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("c", &["true"]);
    let id = sandbox.id("c");
    let create = || {
        sandbox.oci(["create", "--bundle"]).arg(&bundle.path).arg(&id).ok();
    };
    sweep(|| sandbox.oci(["start", &id]), create, |when| oci_recovers(&sandbox, &bundle, when));
    sweep(|| sandbox.oci(["delete", "--force", &id]), create, |when| oci_recovers(&sandbox, &bundle, when));
}

#[test]
fn oci_run() {
    let sandbox = Sandbox::new();
    let bundle = sandbox.bundle("c", &["true"]);
    sweep(
        || sandbox.oci(["run", "--bundle"]).arg(&bundle.path).arg(sandbox.id("c")),
        || {},
        |when| oci_recovers(&sandbox, &bundle, when),
    );
}
