//! `kill -9` of the client, of the monitor, of the OCI runtime and of the container's own process (its init, or its machine)
//! at every moment of a container's life: the next command works, says what happened, and repairs it.
//!
//! The moments are swept: a first undisturbed run tells how long the operation takes, and it is then killed after every
//! part of that time. Which phase that is does not matter, as all are met. Phases too short to be met by chance are made
//! longer (`RKVM_TEST_DELAY`).

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkvm_testing::{
    Cmd, Isolation, Running, Sandbox, arguments, children, in_both_isolations, processes, wait,
};

in_both_isolations! {
    client_of_run,
    client_of_run_detached,
    client_of_stop_and_remove,
    monitor_while_it_starts_a_container,
    first_process_while_it_starts,
    every_process_in_every_phase,
    monitor_of_a_running_container,
    client_and_monitor_of_a_running_container,
    after_a_reboot,
    oci_create,
    oci_create_and_its_process_in_every_phase,
    oci_start_and_delete,
    oci_run,
}

/// The moments of one sweep, as parts of the whole time. Each is a fresh container, so more of them cost time.
fn moments(isolation: Isolation) -> Vec<f64> {
    match isolation {
        // Denser at the beginning, where most happens.
        Isolation::Container => (0..24).map(|moment| (f64::from(moment) / 24.0).powi(2)).collect(),
        // The middle is the guest's boot; most happens before and after it.
        Isolation::Vm => [0.0, 0.03, 0.08, 0.15, 0.25, 0.5, 0.7, 0.8, 0.88, 0.94].to_vec(),
    }
}

/// Runs `operation` once undisturbed, then once for each of the [`moments`], killed then; `prepare` is called before and
/// `check` after each of them.
fn sweep(isolation: Isolation, operation: impl Fn() -> Cmd, prepare: impl Fn(), check: impl Fn(&str)) {
    prepare();
    let start = Instant::now();
    operation().ok();
    let whole = start.elapsed();
    check("undisturbed");
    for part in moments(isolation) {
        prepare();
        let running = operation().spawn();
        // A little beyond the end, too.
        let delay = whole.mul_f64(part * 1.2);
        std::thread::sleep(delay);
        let _ = kill(Pid::from_raw(running.pid()), Signal::SIGKILL);
        running.wait();
        check(&format!("killed after {:.1} ms of {:.1}", ms(delay), ms(whole)));
    }
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
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

fn sandbox(isolation: Isolation) -> Sandbox {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    sandbox
}

fn client_of_run(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    sweep(
        isolation,
        || sandbox.rkvm(["run", "--name", "one", "busybox", "true"]),
        || {},
        |when| next_commands_work(&sandbox, when),
    );
}

fn client_of_run_detached(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    sweep(
        isolation,
        || sandbox.rkvm(["run", "-d", "--name", "one", "busybox", "sleep", "1000"]),
        || {},
        |when| next_commands_work(&sandbox, when),
    );
}

fn client_of_stop_and_remove(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let start = || {
        sandbox.rkvm(["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).ok();
    };
    sweep(
        isolation,
        || sandbox.rkvm(["stop", "-t", "0", "one"]),
        start,
        |when| next_commands_work(&sandbox, when),
    );
    sweep(isolation, || sandbox.rkvm(["rm", "-f", "one"]), start, |when| next_commands_work(&sandbox, when));
}

#[test]
fn client_of_load() {
    let sandbox = Sandbox::new();
    sweep(
        Isolation::Container,
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
        let line = arguments(*pid);
        line.contains("rkvm-monitor") && line.contains(sandbox.root().to_str().unwrap())
    };
    processes().filter(is_monitor).collect()
}

/// The monitor's child that becomes the container: its init, or the process of its machine.
fn first_process(sandbox: &Sandbox) -> Option<i32> {
    monitors(sandbox).into_iter().find_map(|monitor| children(monitor).first().copied())
}

/// Waits for the process that `client` brings forth and `find` finds, and kills it `delay` later.
fn kill_found(client: &mut Running, delay: Duration, find: impl Fn() -> Option<i32>) {
    let found = wait::until("a process to kill", || match client.try_wait() {
        Some(_) => Some(None),
        None => find().map(Some),
    });
    std::thread::sleep(delay);
    if let Some(pid) = found {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Kills what `find` finds at every moment of a foreground run.
fn while_it_starts(isolation: Isolation, what: &str, find: impl Fn(&Sandbox) -> Option<i32>) {
    let sandbox = sandbox(isolation);
    let run = || sandbox.rkvm(["run", "--name", "one", "busybox", "sleep", "0.2"]);
    let start = Instant::now();
    run().ok();
    let whole = start.elapsed();
    next_commands_work(&sandbox, "undisturbed");
    for part in moments(isolation) {
        let delay = whole.mul_f64(part);
        let mut client = run().spawn();
        kill_found(&mut client, delay, || find(&sandbox));
        // The client must notice, not wait for ever; what is killed late has done its work.
        let output = client.wait();
        let when = format!("{what} killed after {:.1} ms", ms(delay));
        assert!(
            output.code == 0 || !output.stderr().trim().is_empty() || output.code >= 128,
            "{when}: {output}"
        );
        next_commands_work(&sandbox, &when);
    }
}

fn monitor_while_it_starts_a_container(isolation: Isolation) {
    while_it_starts(isolation, "monitor", |sandbox| monitors(sandbox).first().copied());
}

fn first_process_while_it_starts(isolation: Isolation) {
    while_it_starts(isolation, "first process", first_process);
}

/// Who is killed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Victim {
    Client,
    Monitor,
    FirstProcess,
}

fn every_process_in_every_phase(isolation: Isolation) {
    use Victim::{Client, FirstProcess, Monitor};
    let sandbox = sandbox(isolation);
    let run = ["run", "-d", "--timings=json", "--name", "one", "busybox", "sleep", "1000"];
    let report: serde_json::Value = serde_json::from_str(&sandbox.rkvm(run).ok().stderr()).unwrap();
    next_commands_work(&sandbox, "undisturbed");
    // Long enough to be met on a busy host.
    let longer = Duration::from_millis(300);
    let mut begin = Duration::ZERO;
    for phase in report["phases"].as_array().unwrap() {
        let name = phase["phase"].as_str().unwrap();
        let length = Duration::from_nanos(phase["ns"].as_u64().unwrap());
        let victims: &[Victim] = match name {
            "image" => &[Client],
            "rootfs" | "network" => &[Client, Monitor],
            _ => &[Client, Monitor, FirstProcess],
        };
        for victim in victims {
            let client =
                sandbox.rkvm(run).env("RKVM_TEST_DELAY", format!("{name}={}", longer.as_millis())).spawn();
            std::thread::sleep(begin + length + longer / 2);
            let pid = match victim {
                Client => Some(client.pid()),
                Monitor => monitors(&sandbox).first().copied(),
                FirstProcess => first_process(&sandbox),
            };
            if let Some(pid) = pid {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let output = client.wait();
            let when = format!("{victim:?} killed in phase {name}");
            assert!(output.code == 0 || output.code >= 125, "{when}: {output}");
            assert!(
                output.signal.is_some() || output.code == 0 || !output.stderr().is_empty(),
                "{when}: {output}"
            );
            next_commands_work(&sandbox, &when);
        }
        begin += length;
    }
}

fn monitor_of_a_running_container(isolation: Isolation) {
    let sandbox = sandbox(isolation);
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

fn client_and_monitor_of_a_running_container(isolation: Isolation) {
    let sandbox = sandbox(isolation);
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

fn after_a_reboot(isolation: Isolation) {
    // /run is empty then, and no process is left.
    let sandbox = sandbox(isolation);
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

fn oci_create(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    let bundle = sandbox.bundle("c", &["true"]);
    sweep(
        isolation,
        || sandbox.oci(["create", "--bundle"]).arg(&bundle.path).arg(sandbox.id("c")),
        || {},
        |when| oci_recovers(&sandbox, &bundle, when),
    );
}

fn oci_create_and_its_process_in_every_phase(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    let bundle = sandbox.bundle("c", &["true"]);
    let create = || sandbox.oci(["create", "--bundle"]).arg(&bundle.path).arg(sandbox.id("c"));
    let start = Instant::now();
    create().ok();
    let whole = start.elapsed();
    oci_recovers(&sandbox, &bundle, "undisturbed");
    for phase in ["sandbox", "boot", "process"] {
        for what in ["create", "its process"] {
            // Beside the container's process a VM has had its whole boot by then: it only waits to be recorded.
            let running = create().env("RKVM_TEST_DELAY", format!("{phase}=300")).spawn();
            std::thread::sleep(whole + Duration::from_millis(150));
            let victim =
                if what == "create" { Some(running.pid()) } else { children(running.pid()).first().copied() };
            if let Some(pid) = victim {
                let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
            }
            let output = running.wait();
            let when = format!("{what} killed in phase {phase}");
            assert!(
                output.signal.is_some() || output.code == 0 || !output.stderr().is_empty(),
                "{when}: {output}"
            );
            oci_recovers(&sandbox, &bundle, &when);
        }
    }
}

fn oci_start_and_delete(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    let bundle = sandbox.bundle("c", &["true"]);
    let id = sandbox.id("c");
    let create = || {
        sandbox.oci(["create", "--bundle"]).arg(&bundle.path).arg(&id).ok();
    };
    sweep(isolation, || sandbox.oci(["start", &id]), create, |when| oci_recovers(&sandbox, &bundle, when));
    sweep(
        isolation,
        || sandbox.oci(["delete", "--force", &id]),
        create,
        |when| oci_recovers(&sandbox, &bundle, when),
    );
}

fn oci_run(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    let bundle = sandbox.bundle("c", &["true"]);
    sweep(
        isolation,
        || sandbox.oci(["run", "--bundle"]).arg(&bundle.path).arg(sandbox.id("c")),
        || {},
        |when| oci_recovers(&sandbox, &bundle, when),
    );
}
