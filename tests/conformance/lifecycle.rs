//! Lifecycle, state, exit codes, signals (runtime-spec, "Runtime and Lifecycle").

use std::fs;

use rkvm_testing::{reap, wait};
use serde_json::json;

use crate::subject::{Subject, proc_status};
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("states", states),
    case("state-json", state_json),
    case("the-program-waits-for-start", waits_for_start),
    case("exit-codes-of-run", exit_codes),
    case("run-leaves-nothing", run_leaves_nothing),
    case("run-detached", run_detached),
    case("run-in-the-current-folder", run_in_current_folder),
    case("start-twice", start_twice),
    case("start-a-stopped-one", start_stopped),
    case("duplicate-id", duplicate_id),
    case("the-id-is-free-after-delete", id_is_free_again),
    case("delete-a-running-one", delete_running),
    case("delete-by-force", delete_force),
    case("delete-by-force-what-is-not-there", delete_force_missing),
    case("delete-a-created-one-by-force", delete_created),
    case("kill-by-name-and-number", kill_names),
    case("kill-reaches-only-init", kill_init_only),
    case("kill-all", kill_all),
    case("kill-a-created-one", kill_created),
    case("kill-a-stopped-one", kill_stopped),
    only_rkvm("realtime-signal", "runc 1.1 knows no names of realtime signals", realtime_signal),
    case("init-killed-ends-the-container", init_killed_ends_all),
    case("pause-and-resume", pause_resume),
    case("pause-twice-and-resume-twice", pause_wrong_state),
    case("delete-a-paused-one-by-force", delete_paused),
    case("kill-a-paused-one", kill_paused),
    case("two-containers-at-once", two_at_once),
    case("config-may-change-after-create", config_is_read_once),
    case("pid-file", pid_file),
    case("pid-file-that-cannot-be-written", pid_file_unwritable),
    case("signals-are-forwarded-by-run", run_forwards_signals),
    only_rkvm(
        "a-zombie-init-is-stopped-with-pid-0",
        "runc 1.1 keeps the pid of a stopped container out",
        stopped_pid,
    ),
];

fn states(s: &Subject) {
    let bundle = s.bundle(&["sleep", "1000"]);
    let (pid, _) = s.create(&bundle);
    assert_eq!(s.status(), "created");
    s.start();
    assert_eq!(s.status(), "running");
    assert_eq!(s.end(pid), 137);
    assert_eq!(s.status(), "stopped");
    s.delete();
    s.cmd(["state"]).arg(s.id()).fails("not exist");
}

fn state_json(s: &Subject) {
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.change(|config| config["annotations"] = json!({ "org.example.key": "value" }));
    let (pid, _) = s.create(&bundle);
    let state = s.state();
    assert!(state["ociVersion"].as_str().unwrap().starts_with("1."), "{state}");
    assert_eq!(state["id"], s.id());
    assert_eq!(state["status"], "created");
    assert_eq!(state["pid"], pid);
    assert_eq!(state["bundle"], bundle.path.to_str().unwrap());
    assert_eq!(state["annotations"], json!({ "org.example.key": "value" }));
}

fn waits_for_start(s: &Subject) {
    let bundle = s.script("echo started > /tmp/mark; sleep 1000");
    let (_, _) = s.create(&bundle);
    let mark = bundle.rootfs().join("tmp/mark");
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert!(!mark.exists(), "the program ran before start");
    s.start();
    wait::until("the program to run", || mark.exists().then_some(()));
}

fn exit_codes(s: &Subject) {
    for code in [0, 1, 3, 125, 255] {
        s.run(&s.script(&format!("exit {code}"))).expect_code(code);
    }
    // Init ignores signals that it has no handler for, even its own, unless they come from outside: a child stands in.
    let mut bundle = s.script("sh -c 'kill -9 $$'; exit $?");
    s.run(&bundle).expect_code(137);
    bundle.without_namespace("pid").script("kill -9 $$");
    s.run(&bundle).expect_code(137);
}

fn run_leaves_nothing(s: &Subject) {
    assert_eq!(s.says_script("echo hello"), "hello");
    assert!(s.list().is_empty());
    s.sandbox.assert_no_leaks();
}

fn run_detached(s: &Subject) {
    let bundle = s.bundle(&["sleep", "1000"]);
    s.cmd(["run", "--detach", "--bundle"]).arg(&bundle.path).arg(s.id()).ok();
    assert_eq!(s.status(), "running");
}

fn run_in_current_folder(s: &Subject) {
    let bundle = s.bundle(&["echo", "here"]);
    assert_eq!(s.cmd(["run"]).arg(s.id()).cwd(&bundle.path).ok().text(), "here");
}

fn start_twice(s: &Subject) {
    s.sleeper();
    s.cmd(["start"]).arg(s.id()).fails("");
    assert_eq!(s.status(), "running");
}

fn start_stopped(s: &Subject) {
    let pid = s.sleeper();
    s.end(pid);
    s.cmd(["start"]).arg(s.id()).fails("stopped");
}

fn duplicate_id(s: &Subject) {
    s.sleeper();
    let other = s.sandbox.bundle("other", &["true"]);
    s.cmd(["create", "--bundle"]).arg(&other.path).arg(s.id()).fails("exist");
    s.cmd(["run", "--bundle"]).arg(&other.path).arg(s.id()).fails("exist");
    assert_eq!(s.status(), "running", "the first one was touched");
}

fn id_is_free_again(s: &Subject) {
    let bundle = s.script("echo again");
    for _ in 0..3 {
        assert_eq!(s.says(&bundle), "again");
    }
}

fn delete_running(s: &Subject) {
    let pid = s.sleeper();
    s.cmd(["delete"]).arg(s.id()).fails("");
    assert_eq!(s.status(), "running");
    s.end(pid);
    s.delete();
    s.sandbox.assert_no_leaks();
}

fn delete_force(s: &Subject) {
    let pid = s.sleeper();
    s.cmd(["delete", "--force"]).arg(s.id()).ok();
    assert_eq!(reap::wait_for(pid), 137);
    s.cmd(["state"]).arg(s.id()).fails("not exist");
    s.sandbox.assert_no_leaks();
}

fn delete_force_missing(s: &Subject) {
    s.cmd(["delete", "--force"]).arg(s.id()).ok();
    s.cmd(["delete"]).arg(s.id()).fails("not exist");
}

fn delete_created(s: &Subject) {
    let (pid, _) = s.create(&s.bundle(&["true"]));
    s.cmd(["delete", "--force"]).arg(s.id()).ok();
    assert_eq!(reap::wait_for(pid), 137);
    s.sandbox.assert_no_leaks();
}

fn kill_names(s: &Subject) {
    let (_, output) = s.create(&s.script(
        "trap 'echo got-hup' HUP; trap 'echo got-usr1' USR1; trap 'echo got-term; exit 7' TERM; echo ready; \
         while :; do sleep 0.05; done",
    ));
    let pid = s.state()["pid"].as_i64().unwrap() as i32;
    s.start();
    s.wait_for_output(&output, "ready");
    s.kill("1");
    s.wait_for_output(&output, "got-hup");
    s.kill("SIGUSR1");
    s.wait_for_output(&output, "got-usr1");
    // TERM is the default.
    s.cmd(["kill"]).arg(s.id()).ok();
    assert_eq!(reap::wait_for(pid), 7);
    assert!(output.stdout().contains("got-term"));
    assert_eq!(s.status(), "stopped");
}

fn kill_init_only(s: &Subject) {
    let (_, output) = s.create(&s.script(
        "sh -c 'trap \"echo child\" USR1; while :; do sleep 0.05; done' & \
         trap 'echo init' USR1; echo ready; while :; do sleep 0.05; done",
    ));
    s.start();
    s.wait_for_output(&output, "ready");
    s.kill("USR1");
    s.wait_for_output(&output, "init");
    assert!(!output.stdout().contains("child"), "{output}");
}

fn kill_all(s: &Subject) {
    let (pid, output) = s.create(&s.script(
        "sh -c 'trap \"echo child-got-it; exit\" USR1; echo child-ready; while :; do sleep 0.05; done' & \
         trap 'echo init-got-it' USR1; echo init-ready; while :; do sleep 0.05; done",
    ));
    s.start();
    s.wait_for_output(&output, "child-ready");
    s.wait_for_output(&output, "init-ready");
    s.cmd(["kill", "--all"]).arg(s.id()).arg("USR1").ok();
    s.wait_for_output(&output, "init-got-it");
    s.wait_for_output(&output, "child-got-it");
    s.end(pid);
    s.delete();
}

fn kill_created(s: &Subject) {
    let (pid, _) = s.create(&s.bundle(&["true"]));
    assert_eq!(s.end(pid), 137);
    assert_eq!(s.status(), "stopped");
    s.delete();
}

fn kill_stopped(s: &Subject) {
    let pid = s.sleeper();
    s.end(pid);
    s.cmd(["kill"]).arg(s.id()).arg("KILL").fails("");
}

fn realtime_signal(s: &Subject) {
    let pid = s.sleeper();
    // Init has no handler: from outside the default action counts, which is to end.
    s.kill("RTMIN+3");
    // glibc's SIGRTMIN is 34, the kernel's 32; names are glibc's.
    wait::within(std::time::Duration::from_secs(1), || (s.status() == "stopped").then_some(()));
    s.cmd(["kill"]).arg(s.id()).arg("NOPE").fails("signal");
    s.end(pid);
}

fn init_killed_ends_all(s: &Subject) {
    let pid = s.up(&s.script("sleep 1000 & sleep 1000 & sleep 1000"));
    wait::until("all three processes", || {
        (s.cmd(["ps", "--format", "json"]).arg(s.id()).ok().json().as_array().unwrap().len() == 3)
            .then_some(())
    });
    s.end(pid);
    s.delete();
    s.sandbox.assert_no_leaks();
}

fn pause_resume(s: &Subject) {
    let (pid, output) = s.create(&s.script("i=0; while :; do i=$((i+1)); echo $i; sleep 0.02; done"));
    s.start();
    s.wait_for_output(&output, "2\n");
    s.cmd(["pause"]).arg(s.id()).ok();
    assert_eq!(s.status(), "paused");
    // What it had written before the pause may still be on its way.
    let before = wait::until("it to stand still", || {
        let before = output.stdout();
        std::thread::sleep(std::time::Duration::from_millis(200));
        (output.stdout() == before).then_some(before)
    });
    s.cmd(["resume"]).arg(s.id()).ok();
    assert_eq!(s.status(), "running");
    wait::until("it to go on", || (output.stdout().len() > before.len()).then_some(()));
    s.end(pid);
}

fn pause_wrong_state(s: &Subject) {
    let pid = s.sleeper();
    s.cmd(["resume"]).arg(s.id()).fails("");
    s.cmd(["pause"]).arg(s.id()).ok();
    s.cmd(["pause"]).arg(s.id()).fails("");
    s.cmd(["resume"]).arg(s.id()).ok();
    s.end(pid);
    s.cmd(["pause"]).arg(s.id()).fails("");
}

fn delete_paused(s: &Subject) {
    s.sleeper();
    s.cmd(["pause"]).arg(s.id()).ok();
    s.cmd(["delete", "--force"]).arg(s.id()).ok();
    s.sandbox.assert_no_leaks();
}

fn kill_paused(s: &Subject) {
    let pid = s.sleeper();
    s.cmd(["pause"]).arg(s.id()).ok();
    // A frozen process does not die on cgroup v1 until it is thawed, so the runtime has to do that.
    s.kill("KILL");
    assert_eq!(reap::wait_for(pid), 137);
    s.delete();
}

fn two_at_once(s: &Subject) {
    let one = s.sleeper();
    let other = s.sandbox.bundle("other", &["sleep", "1000"]);
    let id = s.sandbox.id("other");
    s.cmd(["run", "-d", "--bundle"]).arg(&other.path).arg(&id).ok();
    let mut listed = s.list();
    listed.sort();
    assert_eq!(listed, [s.id(), id.clone()]);
    s.end(one);
    s.delete();
    assert_eq!(s.cmd(["state"]).arg(&id).ok().json()["status"], "running");
    s.cmd(["delete", "-f"]).arg(&id).ok();
}

fn config_is_read_once(s: &Subject) {
    let mut bundle = s.script("echo first > /tmp/mark; sleep 1000");
    s.create(&bundle);
    bundle.script("echo second > /tmp/mark; sleep 1000");
    s.start();
    let mark = bundle.rootfs().join("tmp/mark");
    let text =
        wait::until("the program to run", || fs::read_to_string(&mark).ok().filter(|text| !text.is_empty()));
    assert_eq!(text, "first\n");
}

fn pid_file(s: &Subject) {
    let (pid, _) = s.create(&s.bundle(&["true"]));
    // No line end: what containerd and conmon parse.
    let text = fs::read_to_string(s.sandbox.path().join("pid")).unwrap();
    assert_eq!(text, pid.to_string());
    assert_eq!(proc_status(pid, "NSpid").split_whitespace().last(), Some("1"));
}

fn pid_file_unwritable(s: &Subject) {
    let bundle = s.bundle(&["true"]);
    s.cmd(["create", "--bundle"])
        .arg(&bundle.path)
        .args(["--pid-file", "/nonexistent/folder/pid"])
        .arg(s.id())
        .fails("pid");
    assert!(s.list().is_empty());
    s.sandbox.assert_no_leaks();
}

fn run_forwards_signals(s: &Subject) {
    let bundle = s.script("trap 'echo got-it; exit 5' TERM; echo ready; while :; do sleep 0.05; done");
    let running = s.cmd(["run", "--bundle"]).arg(&bundle.path).arg(s.id()).spawn();
    wait::until("the program to be ready", || running.stdout().contains("ready").then_some(()));
    running.signal(nix::sys::signal::SIGTERM);
    let output = running.wait().expect_code(5);
    assert!(output.stdout().contains("got-it"));
}

fn stopped_pid(s: &Subject) {
    let pid = s.sleeper();
    s.kill("KILL");
    // Not waited for: it is a zombie now, which runtime-spec's states know nothing of.
    wait::until("the container to be stopped", || (s.status() == "stopped").then_some(()));
    assert_eq!(s.state()["pid"], 0);
    reap::wait_for(pid);
}
