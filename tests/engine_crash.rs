//! Killed clients and monitors, and reboots: the next command tells the truth and nothing stays behind.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkvm_testing::{Isolation, Sandbox, arguments, in_both_isolations, processes, wait};

in_both_isolations! {
    a_killed_client_changes_nothing_for_the_container,
    a_killed_client_ends_the_input_of_its_container,
    a_killed_monitor_is_reported_and_cleaned_up,
    a_foreground_client_survives_its_monitors_death,
    a_monitor_that_does_not_answer_is_no_obstacle_to_a_forced_removal,
    a_killed_monitor_of_a_removed_container_leaves_nothing,
    clients_and_monitors_killed_at_any_moment_of_a_start,
    after_a_reboot_containers_count_as_exited_and_start_again,
}

fn sandbox(isolation: Isolation) -> Sandbox {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    sandbox
}

fn recorded(sandbox: &Sandbox, name: &str) -> serde_json::Value {
    let id = std::fs::read_link(sandbox.root().join("lib/names").join(name)).unwrap();
    let path = sandbox.root().join("lib/containers").join(id).join("state.json");
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

fn kill_monitor(sandbox: &Sandbox, name: &str) {
    let pid = recorded(sandbox, name)["monitor_pid"].as_i64().unwrap() as i32;
    assert!(pid > 1);
    kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
    wait::until("the monitor's end", || {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
}

fn a_monitor_that_does_not_answer_is_no_obstacle_to_a_forced_removal(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    sandbox.rkvm(["run", "-d", "--name", "stuck", "busybox", "sleep", "1000"]).ok();
    let pid = recorded(&sandbox, "stuck")["monitor_pid"].as_i64().unwrap() as i32;
    kill(Pid::from_raw(pid), Signal::SIGSTOP).unwrap();
    sandbox.rkvm(["rm", "-f", "stuck"]).limit(Duration::from_secs(60)).ok();
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
    sandbox.assert_no_leaks();
}

fn a_killed_client_changes_nothing_for_the_container(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let client = sandbox
        .rkvm([
            "run",
            "--name",
            "alone",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "echo up; sleep 2; echo done; exit 3",
        ])
        .spawn();
    wait::until("output", || client.stdout().contains("up").then_some(()));
    client.signal(Signal::SIGKILL);
    client.wait();
    assert_eq!(sandbox.rkvm(["wait", "alone"]).ok().text(), "3");
    assert_eq!(sandbox.rkvm(["logs", "alone"]).ok().text(), "up\ndone");
    sandbox.rkvm(["rm", "alone"]).ok();
}

fn a_killed_client_ends_the_input_of_its_container(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let client = sandbox
        .rkvm([
            "run",
            "-i",
            "--name",
            "fed",
            "--network",
            "none",
            "busybox",
            "sh",
            "-c",
            "echo up; cat; exit 6",
        ])
        .stdin(vec![])
        .spawn();
    client.wait().expect_code(6);
    sandbox.rkvm(["rm", "fed"]).ok();
}

fn a_killed_monitor_is_reported_and_cleaned_up(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let port = rkvm_testing::free_port();
    let publish = format!("127.0.0.1:{port}:80");
    sandbox.rkvm(["run", "-d", "--name", "orphan", "-p", &publish, "busybox", "sleep", "1000"]).ok();
    let init = recorded(&sandbox, "orphan")["pid"].as_i64().unwrap();
    kill_monitor(&sandbox, "orphan");
    let listed = sandbox.rkvm(["ps", "-a"]).ok().text();
    assert!(listed.contains("Exited (137)"), "{listed}");
    wait::until("the orphan's end", || {
        // Whoever inherits a zombie reaps it in its own time.
        let stat = std::fs::read_to_string(format!("/proc/{init}/stat")).unwrap_or_default();
        (stat.is_empty() || stat.contains(") Z ")).then_some(())
    });
    sandbox.rkvm(["start", "orphan"]).ok();
    sandbox.rkvm(["rm", "-f", "orphan"]).ok();
    sandbox.assert_no_leaks();
}

fn a_foreground_client_survives_its_monitors_death(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let client = sandbox
        .rkvm(["run", "--name", "fore", "--network", "none", "busybox", "sh", "-c", "echo up; sleep 1000"])
        .spawn();
    wait::until("output", || client.stdout().contains("up").then_some(()));
    kill_monitor(&sandbox, "fore");
    let output = client.wait().expect_code(137);
    assert!(output.stderr().contains("monitor"), "{output}");
    sandbox.rkvm(["rm", "fore"]).ok();
}

fn a_killed_monitor_of_a_removed_container_leaves_nothing(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    sandbox
        .rkvm([
            "run",
            "-d",
            "--rm",
            "--name",
            "gone",
            "--network",
            "none",
            "-v",
            "/data",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    kill_monitor(&sandbox, "gone");
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
    assert_eq!(std::fs::read_dir(sandbox.root().join("lib/volumes")).unwrap().count(), 0);
    sandbox.assert_no_leaks();
}

fn clients_and_monitors_killed_at_any_moment_of_a_start(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    for delay_ms in [0, 5, 10, 20, 35, 50, 80, 120, 200] {
        for victim in ["rkvm", "rkvm-monitor"] {
            let name = format!("c{delay_ms}{}", victim.len());
            let client = sandbox.rkvm(["run", "-d", "--name", &name, "busybox", "sleep", "1000"]).spawn();
            std::thread::sleep(Duration::from_millis(delay_ms));
            if victim == "rkvm" {
                client.signal(Signal::SIGKILL);
            } else {
                kill_monitors_of(&sandbox);
            }
            client.wait();
            sandbox.rkvm(["ps", "-a"]).ok();
            // A monitor that its client left alone goes on; wait until it has made up its mind.
            wait::until("a state that can be removed", || {
                let removed = sandbox.rkvm(["rm", "-f", &name]).run();
                (removed.code == 0 && sandbox.rkvm(["ps", "-aq"]).ok().text().is_empty()).then_some(())
            });
        }
    }
    sandbox.rkvm(["ps", "-a"]).ok();
    sandbox.assert_no_leaks();
}

/// Kills every monitor whose arguments name this sandbox.
fn kill_monitors_of(sandbox: &Sandbox) {
    let root = sandbox.root();
    for pid in processes() {
        let line = arguments(pid);
        if line.contains("rkvm-monitor\0") && line.contains(root.to_str().unwrap()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    }
}

fn after_a_reboot_containers_count_as_exited_and_start_again(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    sandbox.rkvm(["run", "-d", "--name", "old", "--network", "none", "busybox", "sleep", "1000"]).ok();
    let state = recorded(&sandbox, "old");
    // What a reboot does: every process gone, and an empty run folder.
    kill_monitor(&sandbox, "old");
    let init = state["pid"].as_i64().unwrap();
    kill(Pid::from_raw(init as i32), Signal::SIGKILL).unwrap();
    wait::until("the end of init", || (!std::fs::exists(format!("/proc/{init}")).unwrap()).then_some(()));
    for hierarchy in std::fs::read_dir("/sys/fs/cgroup").unwrap().filter_map(Result::ok) {
        let id = std::fs::read_link(sandbox.root().join("lib/names/old")).unwrap();
        let _ = std::fs::remove_dir(hierarchy.path().join("rkvm").join(id));
    }
    std::fs::remove_dir_all(sandbox.root().join("run")).unwrap();
    let listed = sandbox.rkvm(["ps", "-a"]).ok().text();
    assert!(listed.contains("Exited (137)"), "{listed}");
    sandbox.rkvm(["start", "old"]).ok();
    assert_eq!(sandbox.rkvm(["exec", "old", "echo", "up"]).ok().text(), "up");
    sandbox.rkvm(["rm", "-f", "old"]).ok();
}
