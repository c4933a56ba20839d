//! The leak check itself: each kind of leftover is found and named, and another sandbox's is not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::process::Command;

use rkvm_testing::{Sandbox, arguments, processes, wait};

/// A sandbox that leaves something on purpose, and the line that must name it.
fn leaves(leave: impl FnOnce(&Sandbox), line: &str) {
    let other = Sandbox::new();
    let mut sandbox = Sandbox::new();
    sandbox.without_leak_check();
    sandbox.assert_no_leaks();
    leave(&sandbox);
    let found = wait::within(wait::PATIENCE, || {
        let leaks = sandbox.leaks();
        leaks.lines().iter().any(|found| found.contains(line)).then_some(())
    });
    assert!(found.is_some(), "no {line:?} among: {}", sandbox.leaks());
    assert!(other.leaks().is_empty(), "counted as another's: {}", other.leaks());
    drop(sandbox);
}

#[test]
fn a_process_is_found_by_its_environment_and_killed() {
    let mut pid = 0;
    leaves(
        |sandbox| {
            let mut child =
                Command::new("sleep").arg("1000").env("RKVM_ROOT", sandbox.root()).spawn().unwrap();
            pid = child.id();
            std::thread::spawn(move || child.wait());
        },
        "sleep 1000",
    );
    wait::until("the process to be killed", || (!fs::exists(format!("/proc/{pid}")).unwrap()).then_some(()));
}

#[test]
fn a_process_is_found_by_its_cgroup() {
    leaves(
        |sandbox| {
            let cgroup = format!("/sys/fs/cgroup/pids{}", sandbox.cgroup("c"));
            fs::create_dir_all(&cgroup).unwrap();
            let script = format!("echo $$ > {cgroup}/cgroup.procs; exec env -i sleep 1001");
            let mut child = Command::new("sh").args(["-c", &script]).spawn().unwrap();
            std::thread::spawn(move || child.wait());
        },
        "sleep 1001",
    );
}

#[test]
fn a_mount_is_found() {
    leaves(
        |sandbox| {
            let point = sandbox.path().join("mounted");
            fs::create_dir(&point).unwrap();
            assert!(
                Command::new("mount").args(["-t", "tmpfs", "none"]).arg(point).status().unwrap().success()
            );
        },
        "/mounted",
    );
}

#[test]
fn a_mount_in_another_mount_namespace_is_found() {
    leaves(
        |sandbox| {
            let point = sandbox.path().join("hidden");
            fs::create_dir(&point).unwrap();
            let script = format!("mount -t tmpfs none {} && exec env -i sleep 1002", point.display());
            let mut child = Command::new("unshare").args(["-m", "sh", "-c", &script]).spawn().unwrap();
            std::thread::spawn(move || child.wait());
            // Nothing else of this process carries the sandbox's name: it is killed here, not by the sandbox.
            wait::until("the mount", || {
                sandbox.leaks().lines().iter().any(|line| line.contains("/hidden")).then_some(())
            });
            fs::create_dir_all(sandbox.oci_root()).unwrap();
            for pid in processes().filter(|pid| arguments(*pid) == "sleep\u{0}1002\u{0}") {
                nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), nix::sys::signal::SIGKILL).unwrap();
            }
            fs::write(sandbox.oci_root().join("stale"), "").unwrap();
        },
        "/stale",
    );
}

#[test]
fn a_link_a_rule_a_cgroup_and_a_file_are_found() {
    let run = |line: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        assert!(Command::new(words[0]).args(&words[1..]).status().unwrap().success(), "{line}");
    };
    let tag = |sandbox: &Sandbox| sandbox.tag().to_owned();
    leaves(|sandbox| run(&format!("ip link add {} type bridge", tag(sandbox))), "link rkvmt-");
    leaves(|sandbox| run(&format!("nft add table inet {}", tag(sandbox))), "rule in table");
    leaves(
        |sandbox| fs::create_dir_all(format!("/sys/fs/cgroup/freezer{}", sandbox.cgroup("left"))).unwrap(),
        "cgroup /sys/fs/cgroup/freezer/",
    );
    leaves(
        |sandbox| {
            fs::create_dir_all(sandbox.root().join("run/abc")).unwrap();
            fs::write(sandbox.root().join("run/abc/lock"), "").unwrap();
        },
        "file /tmp/",
    );
}

#[test]
fn a_leftover_fails_the_test() {
    let result = std::panic::catch_unwind(|| {
        let sandbox = Sandbox::new();
        fs::create_dir_all(sandbox.root()).unwrap();
        fs::write(sandbox.root().join("lock"), "").unwrap();
    });
    let message = *result.unwrap_err().downcast::<String>().unwrap();
    assert!(message.contains("/lock"), "{message}");
}

#[test]
fn a_command_that_hangs_is_killed() {
    let sandbox = Sandbox::new();
    let hang = || sandbox.command("sleep").arg("1000").limit(std::time::Duration::from_millis(100)).run();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(hang));
    assert!(result.unwrap_err().downcast::<String>().unwrap().contains("did not end"));
}
