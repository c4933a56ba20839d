//! `rkvm compare` through the real binary: what it says of a start is true, and nothing of a measurement is left.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use rkvm_testing::{Cmd, Output, Sandbox, binary, have, wait};
use serde_json::Value;

#[path = "compare/faults.rs"]
mod faults;

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    sandbox
}

/// `rkvm compare --isolation container --network none ARGS`.
fn compare(sandbox: &Sandbox, args: &[&str]) -> Cmd {
    compare_in(sandbox, "container", args)
}

/// `rkvm compare --isolation ISOLATION --network none ARGS`.
fn compare_in(sandbox: &Sandbox, isolation: &str, args: &[&str]) -> Cmd {
    let isolation = format!("--isolation={isolation}");
    sandbox.rkvm(["compare", &isolation, "--run-flag=--network=none", "--seed=1"]).args(args)
}

/// The isolations of this host: without KVM or a guest kernel there is no microVM.
fn isolations() -> &'static [&'static str] {
    if has_vm() { &["container", "vm"] } else { &["container"] }
}

fn has_vm() -> bool {
    let guest = binary("rkvm").with_file_name("guest");
    Path::new("/dev/kvm").exists() && guest.exists()
}

/// The phases of a start in an isolation, but for what comes after the program was executed.
fn phases(isolation: &str) -> Vec<&'static str> {
    let all = ["command", "image", "rootfs", "network", "sandbox", "boot", "process", "exec"];
    all.into_iter().filter(|name| isolation == "vm" || *name != "boot").collect()
}

fn json(path: &Path) -> Value {
    serde_json::from_str(&fs::read_to_string(path).unwrap()).unwrap()
}

/// A measurement's report.
fn report(sandbox: &Sandbox, name: &str, args: &[&str]) -> Value {
    report_in(sandbox, "container", name, args)
}

fn report_in(sandbox: &Sandbox, isolation: &str, name: &str, args: &[&str]) -> Value {
    let path = file(sandbox, name);
    compare_in(sandbox, isolation, &["--json", path.to_str().unwrap()]).args(args).ok();
    assert_clean(sandbox);
    json(&path)
}

fn file(sandbox: &Sandbox, name: &str) -> PathBuf {
    sandbox.path().join(name)
}

/// No container and no file of a measurement is left.
#[track_caller]
fn assert_clean(sandbox: &Sandbox) {
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
    let folder = sandbox.root().join("lib/compare");
    let left: Vec<_> = fs::read_dir(folder).into_iter().flatten().flatten().map(|one| one.path()).collect();
    assert!(left.is_empty(), "{left:?}");
}

#[track_caller]
fn assert_fails(output: &Output, code: i32, message: &str) {
    assert_eq!(output.code, code, "{}", output.stderr());
    assert!(output.stderr().contains(message), "{message:?} is not in:\n{}", output.stderr());
}

/// Median of a phase, milliseconds.
fn phase(report: &Value, name: &str) -> f64 {
    let phases = report["summary"]["subjects"][0]["phases"].as_array().unwrap();
    let one = phases.iter().find(|one| one["phase"] == name).unwrap_or_else(|| panic!("no phase {name}"));
    one["duration"]["value"].as_f64().unwrap() / 1e6
}

/// Shortest of a phase in any start, milliseconds: other load makes phases longer, never shorter.
fn shortest(report: &Value, name: &str) -> f64 {
    let samples = report["samples"].as_array().unwrap().iter();
    let phases = samples.flat_map(|sample| sample["phases"].as_array().unwrap());
    let times = phases.filter(|one| one["phase"] == name).map(|one| one["ns"].as_f64().unwrap() / 1e6);
    times.reduce(f64::min).unwrap_or_else(|| panic!("no phase {name}"))
}

#[test]
fn every_start_is_kept_and_its_phases_add_up() {
    let sandbox = sandbox();
    let report =
        report(&sandbox, "a.json", &["--ready=exit", "--runs=3", "--warmup=1", "busybox", "--", "true"]);
    assert_eq!(report["schema"], "rkvm-compare");
    assert_eq!(report["completion"]["state"], "complete");
    let samples = report["samples"].as_array().unwrap();
    assert_eq!(samples.len(), 4);
    assert_eq!(samples.iter().filter(|sample| sample["kind"] == "warmup").count(), 1);
    for sample in samples {
        let phases = sample["phases"].as_array().unwrap();
        let names: Vec<_> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
        assert_eq!(names, ["command", "image", "rootfs", "network", "sandbox", "process", "exec", "ready"]);
        let sum: f64 = phases.iter().map(|phase| phase["ns"].as_f64().unwrap()).sum();
        let whole = sample["total_ns"].as_f64().unwrap();
        assert!((sum - whole).abs() <= 0.02 * whole, "{sum} of {whole}");
    }
    let provenance = &report["provenance"];
    assert!(provenance["image_digest"].as_str().unwrap().starts_with("sha256:"));
    assert!(!provenance["kernel"].as_str().unwrap().is_empty());
    assert_eq!(report["question"]["seed"], 1);
}

#[test]
fn both_isolations_are_measured_on_one_clock() {
    let sandbox = sandbox();
    let path = file(&sandbox, "both.json");
    let fixed = ["compare", "--ready=exit", "--runs=2", "--warmup=1", "--boot"];
    let args = fixed.iter().chain(&["--run-flag=--network=none", "--json"]);
    let text = sandbox.rkvm(args).arg(&path).args(["busybox", "--", "true"]).ok().stdout();
    assert!(text.contains("Not reliable: with 2 starts p95 and p99 are"), "{text}");
    assert_clean(&sandbox);
    let report = json(&path);
    let Some(vm) = report["subjects"].as_array().unwrap().iter().position(|one| one["id"] == "vm") else {
        let missing = report["missing"].as_array().unwrap();
        assert!(missing.iter().any(|one| one["id"] == "vm"), "a vm is measured or named");
        return;
    };
    assert_eq!(vm, 1, "all are related to the container");
    let boots = |index: usize| {
        let words = report["subjects"][index]["command_line"].as_array().unwrap();
        words.iter().any(|word| word == "--template=never")
    };
    assert!(report["subjects"][2]["id"] == "vm-boot" && boots(2) && !boots(1));
    let phases = report["summary"]["subjects"][vm]["phases"].as_array().unwrap();
    let names: Vec<_> = phases.iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(
        names,
        ["command", "image", "rootfs", "network", "sandbox", "boot", "process", "exec", "ready"]
    );
    for subject in report["summary"]["subjects"].as_array().unwrap() {
        assert!(subject["worst_gap"].as_f64().unwrap() < 0.02, "{subject}");
    }
    assert!(report["summary"]["comparisons"][0]["ratio"]["value"].as_f64().unwrap() > 1.0);
    assert_eq!(report["provenance"]["guest_kernel_sha256"].as_str().unwrap().len(), 64);
}

/// Each phase of an isolation is delayed in turn; the others must not notice. Each is judged by its shortest time in all reports in which
/// it was not delayed, because other load only makes phases longer.
fn delays_show_in_their_phases(isolation: &str, delay: f64) {
    let sandbox = sandbox();
    let args = ["--ready=exec", "--runs=2", "--warmup=1", "busybox", "--", "sleep", "1000"];
    let mut reports = vec![("", report_in(&sandbox, isolation, "base.json", &args))];
    // The command's own phase ends before any of our code runs.
    for slow in phases(isolation).into_iter().skip(1) {
        let path = file(&sandbox, &format!("{slow}.json"));
        let variable = format!("{slow}={delay}");
        compare_in(&sandbox, isolation, &["--json", path.to_str().unwrap()])
            .args(args)
            .env("RKVM_TEST_DELAY", variable)
            .ok();
        reports.push((slow, json(&path)));
    }
    for name in phases(isolation) {
        let others = reports.iter().filter(|(slow, _)| *slow != name);
        let base = others.map(|(_, report)| shortest(report, name)).reduce(f64::min).unwrap();
        for (slow, report) in &reports {
            let more = shortest(report, name) - base;
            let is_right =
                if *slow == name { (delay * 0.99..delay * 1.5).contains(&more) } else { more < delay / 2.0 };
            assert!(is_right, "{isolation}: {slow} was delayed by {delay} ms, {name} took {more:.0} ms more");
        }
    }
    for (slow, report) in &reports {
        let gap = &report["summary"]["subjects"][0]["worst_gap"];
        assert!(gap.as_f64().unwrap() < 0.02, "{isolation}, {slow}: {gap}");
    }
    // The same reports, compared.
    let paths = ["base.json", "network.json"].map(|name| file(&sandbox, name));
    let text = sandbox.rkvm(["compare"]).args(&paths).ok().stdout();
    let ratio = |name: &str| -> f64 {
        let line = text.lines().find(|line| line.trim_start().starts_with(name)).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    };
    assert!(ratio("network") > ratio("exec") && ratio(isolation) > 1.0, "{text}");
}

#[test]
fn a_delay_in_a_container_shows_in_its_phase_and_nowhere_else() {
    delays_show_in_their_phases("container", 600.0);
}

#[test]
fn a_delay_in_a_microvm_shows_in_its_phase_and_nowhere_else() {
    if has_vm() {
        delays_show_in_their_phases("vm", 2000.0);
    }
}

#[test]
fn a_delay_of_the_program_is_its_readiness() {
    for isolation in isolations() {
        let sandbox = sandbox();
        let program = "sleep 1; echo now ready; sleep 1000";
        let args = ["--ready=log:now r..dy", "--runs=2", "--warmup=0", "busybox", "--", "sh", "-c", program];
        let report = report_in(&sandbox, isolation, "log.json", &args);
        let ready = phase(&report, "ready");
        // The guest's own sleep may begin before the host has heard that its program was executed.
        assert!((900.0..10_000.0).contains(&ready), "{isolation}: {ready}");
        assert!(phase(&report, "exec") < 800.0, "{isolation}: {}", phase(&report, "exec"));
    }
}

#[test]
fn a_server_is_asked_over_the_network() {
    let sandbox = sandbox();
    let program = "mkdir -p /www; echo hello >/www/index.html; exec httpd -f -p 8000 -h /www";
    let probes = ["--ready=http:8000/index.html", "--ready=tcp:8000"];
    for (isolation, probe) in isolations().iter().flat_map(|one| probes.map(|probe| (one, probe))) {
        let path = file(&sandbox, "http.json");
        let isolation = format!("--isolation={isolation}");
        sandbox
            .rkvm(["compare", &isolation, "--runs=2", "--warmup=1", "--timeout=30s", probe])
            .args(["--json", path.to_str().unwrap(), "busybox", "--", "sh", "-c", program])
            .ok();
        let report = json(&path);
        assert_eq!(report["samples"].as_array().unwrap().len(), 3);
        assert!(phase(&report, "ready") > 0.0);
        assert_clean(&sandbox);
    }
}

#[test]
fn other_runtimes_run_the_same_program_and_a_missing_one_is_named() {
    let sandbox = sandbox();
    let args = [
        "--ready=exit",
        "--runs=2",
        "--warmup=1",
        "--with=runc,crun",
        "busybox",
        "--",
        "grep",
        "-q",
        "busybox",
    ];
    // grep reads nothing from /dev/null and fails: a failing program must fail in each of them.
    let failed = compare(&sandbox, &args).run();
    assert_fails(&failed, 1, "before it was ready");
    assert_clean(&sandbox);
    let path = file(&sandbox, "peers.json");
    // Those that this host does not have are named in the report.
    let args = [
        "--ready=exit",
        "--runs=2",
        "--warmup=1",
        "--with=runc,crun,qemu-microvm,firecracker",
        "busybox",
        "--",
        "test",
        "-e",
        "/bin/busybox",
    ];
    compare(&sandbox, &["--json", path.to_str().unwrap()]).args(args).ok();
    let report = json(&path);
    let count = |list: &str, key: &str, peer: &str| {
        report[list].as_array().unwrap().iter().filter(|one| one[key] == peer).count()
    };
    for peer in ["runc", "crun", "qemu-microvm", "firecracker"] {
        let missing = count("missing", "id", peer);
        assert_eq!(count("samples", "subject", peer), if missing == 0 { 3 } else { 0 }, "{peer}");
        if ["runc", "crun"].contains(&peer) {
            assert_eq!(missing == 0, have(peer), "{peer}");
        }
    }
    assert_clean(&sandbox);
}

#[test]
fn instances_at_once_and_growing_are_measured_with_cold_caches() {
    for isolation in isolations() {
        let sandbox = sandbox();
        let args = ["--ready=exec", "--runs=2", "--warmup=0", "--parallel=2", "--density=3", "--cold"];
        let args = [args.as_slice(), &["busybox", "--", "sleep", "1000"]].concat();
        let report = report_in(&sandbox, isolation, "many.json", &args);
        assert_eq!(report["question"]["cache"], "cold");
        let samples = report["samples"].as_array().unwrap();
        assert_eq!(samples.len(), 4);
        assert_eq!(samples.iter().filter(|sample| sample["instance"] == 1).count(), 2);
        let density = report["density"].as_array().unwrap();
        let pss: Vec<u64> = density.iter().map(|point| point["pss_bytes"].as_u64().unwrap()).collect();
        assert!(pss.len() == 3 && pss[0] > 100_000 && pss[2] > pss[0], "{isolation}: {pss:?}");
        let counts: Vec<u64> = density.iter().map(|point| point["instances"].as_u64().unwrap()).collect();
        assert_eq!(counts, [1, 2, 3]);
        assert!(density.iter().all(|point| point["start_ns"].as_u64().unwrap() > 0));
        let path = file(&sandbox, "many.json");
        let text = sandbox.rkvm(["compare", "--replay"]).arg(&path).ok().stdout();
        assert!(text.contains("cold caches"), "{text}");
    }
}

/// A program that behaves like Firecracker as far as its command line, configuration and console go.
const FAKE_FIRECRACKER: &str = r#"#!/usr/bin/python3
import json, os, socket, subprocess, sys, time
if sys.argv[1:] == ["--version"]:
    print("Firecracker v9.9.9"); sys.exit(0)
assert sys.argv[1:3] == ["--no-api", "--config-file"] and len(sys.argv) == 4, sys.argv
config = json.load(open(sys.argv[3]))
boot, drive = config["boot-source"], config["drives"][0]
assert open(boot["kernel_image_path"], "rb").read(4) == b"\x7fELF"
assert open(boot["initrd_path"], "rb").read(6) == b"070701"
assert "rdinit=/init" in boot["boot_args"] and "console=ttyS0" in boot["boot_args"]
with open(drive["path_on_host"], "rb") as image:
    image.seek(1024); assert image.read(4) == b"\xe2\xe1\xf5\xe0", "no erofs"
assert drive["is_read_only"] and not drive["is_root_device"]
assert config["machine-config"] == {"vcpu_count": 1, "mem_size_mib": 256}
time.sleep(0.5)
if "network-interfaces" in config:
    device = config["network-interfaces"][0]["host_dev_name"]
    subprocess.check_call(["ip", "link", "show", device], stdout=subprocess.DEVNULL)
    subprocess.check_call(["ip", "address", "add", "10.0.2.15/32", "dev", "lo"])
    server = socket.create_server(("10.0.2.15", 8000))
    while True: server.accept()
print("a line of its guest", flush=True)
print(os.environ.get("FAKE_ENDING", "rkvm: the program ended with 0"), flush=True)
"#;

#[test]
fn firecracker_is_driven() {
    if !has_vm() || !have("python3") {
        return;
    }
    let sandbox = sandbox();
    let path = faults::path_with(&sandbox, "firecracker", FAKE_FIRECRACKER);
    let measure = |args: &[&str]| {
        let fixed = ["--runs=2", "--warmup=0", "--timeout=20s", "--with=firecracker"];
        compare(&sandbox, &fixed).args(args).env("PATH", &path)
    };
    let out = file(&sandbox, "fire.json");
    let out = out.to_str().unwrap();
    let checked = || {
        let report = json(Path::new(out));
        let samples: Vec<Value> = report["samples"].as_array().unwrap().clone();
        let ours: Vec<&Value> = samples.iter().filter(|one| one["subject"] == "firecracker").collect();
        assert_eq!(ours.len(), 2, "{:?}", report["missing"]);
        assert!(ours.iter().all(|one| one["total_ns"].as_u64().unwrap() > 500_000_000));
        assert_eq!(report["provenance"]["peer_versions"]["firecracker"], "Firecracker v9.9.9");
        assert_clean(&sandbox);
    };
    measure(&["--ready=exit", "--json", out, "busybox", "--", "true"]).ok();
    checked();
    let line = ["busybox", "--", "sh", "-c", "echo a line of its guest; sleep 1000"];
    measure(&["--ready=log:its guest", "--json", out]).args(line).ok();
    checked();
    // What takes part in the container answers too.
    let server = ["busybox", "--", "sh", "-c", "mkdir -p /www; exec httpd -f -p 8000 -h /www"];
    let bridge = ["compare", "--isolation=container", "--ready=tcp:8000", "--runs=2", "--warmup=0"];
    let with = ["--timeout=20s", "--with=firecracker", "--json", out];
    sandbox.rkvm(bridge).args(with).args(server).env("PATH", &path).ok();
    checked();
    // Firecracker itself succeeds when the program has failed, and when the kernel never came so far.
    for (ending, message) in
        [("rkvm: the program ended with 3", "ended with 3"), ("panic", "its program had not ended")]
    {
        let failed = measure(&["--ready=exit", "busybox", "--", "true"]).env("FAKE_ENDING", ending).ok();
        for text in ["firecracker: not measured: its first start failed", message, "a line of its guest"] {
            assert!(failed.stderr().contains(text), "{text:?} is not in:\n{}", failed.stderr());
        }
    }
    // One that is broken is named like one that is missing.
    faults::path_with(&sandbox, "firecracker", faults::BROKEN);
    let text = measure(&["--ready=exit", "busybox", "--", "true"]).ok();
    assert!(text.stderr().contains("firecracker: not measured"), "{}", text.stderr());
    assert_clean(&sandbox);
}

#[test]
fn budgets_decide_the_exit_code_and_a_report_is_drawn_again() {
    let sandbox = sandbox();
    let path = file(&sandbox, "a.json");
    let path = path.to_str().unwrap();
    let args = ["--ready=exit", "--runs=2", "--warmup=0", "--json", path];
    let kept = compare(&sandbox, &args).args(["--budget=p95=100s", "busybox", "--", "true"]).ok();
    assert!(kept.stdout().contains("kept"), "{}", kept.stdout());
    let over = sandbox.rkvm(["compare", "--replay", path, "--budget=max=1us"]).run();
    assert_eq!(over.code, 3);
    assert!(over.stdout().contains("EXCEEDED"), "{}", over.stdout());
    let again = sandbox.rkvm(["compare", "--replay", path, "--json", "-"]).ok().stdout();
    let (old, new) = (json(Path::new(path)), serde_json::from_str::<Value>(&again).unwrap());
    assert_eq!(
        (&old["samples"], &old["summary"]["subjects"]),
        (&new["samples"], &new["summary"]["subjects"])
    );
    let both = sandbox.rkvm(["compare", path, path]).ok().stdout();
    assert!(both.contains("No difference"), "{both}");
}

#[test]
fn bad_input_is_refused_before_anything_runs() {
    let sandbox = sandbox();
    let run = |args: &[&str]| compare(&sandbox, args).run();
    assert_fails(&run(&["--runs=0", "busybox"]), 1, "at least one run");
    assert_fails(&run(&["--ready=nonsense", "busybox"]), 1, "http:PORT[/path]");
    assert_fails(&run(&["--ready=log:[", "busybox"]), 1, "--ready");
    assert_fails(&run(&["--budget=p95", "busybox"]), 1, "--budget");
    assert_fails(&run(&["--budget=vm:p95=1s", "busybox"]), 1, "which is not measured");
    assert_fails(&run(&["--with=nothing", "busybox"]), 1, "--with");
    assert_fails(&run(&["--ready=exit", "--density=2", "busybox"]), 1, "--density");
    assert_fails(&run(&["--json=/proc/report.json", "busybox"]), 1, "cannot write /proc/report.json");
    assert_fails(&run(&["registry.invalid/nothing:1"]), 1, "registry.invalid/nothing:1");
    let missing = run(&["--ready=exec", "busybox", "--", "/no/such/program"]);
    assert_fails(&missing, 1, "/no/such/program");
    assert_fails(&missing, 1, "the last phase that ended is `process`");
    assert_fails(&run(&["missing.json", "missing.json"]), 1, "missing.json");
    // This host is a debug build at the least.
    assert_fails(&run(&["--strict", "--ready=exit", "busybox", "--", "true"]), 1, "--strict");
    assert_clean(&sandbox);
}

#[test]
fn a_probe_that_never_succeeds_names_the_phase_and_the_last_lines() {
    let sandbox = sandbox();
    let program = "echo still starting; sleep 1000";
    let output =
        compare(&sandbox, &["--timeout=1s", "--ready=log:finished", "busybox", "--", "sh", "-c", program])
            .run();
    assert_fails(
        &output,
        1,
        "no line of its output matched \"finished\" within 1 s; the last phase that ended is `exec`",
    );
    assert!(output.stderr().contains("| still starting"), "{}", output.stderr());
    let ended = ["--ready=log:finished", "busybox", "--", "sh", "-c", "echo gave up; exit 3"];
    for isolation in isolations() {
        let output = compare_in(&sandbox, isolation, &ended).run();
        assert_fails(&output, 1, "before it was ready; the last phase that ended is `exec`");
        assert!(output.stderr().contains("| gave up"), "{isolation}: {}", output.stderr());
    }
    let output = sandbox
        .rkvm(["compare", "--isolation=container", "--timeout=1s", "--ready=tcp:1", "busybox", "--"])
        .args(["sh", "-c", program])
        .run();
    assert_fails(&output, 1, "port 1 took no connection within 1 s; the last phase that ended is `exec`");
    assert!(output.stderr().contains("| still starting"), "{}", output.stderr());
    // A start that hangs before its program is executed.
    let output = compare(&sandbox, &["--timeout=1s", "--ready=exec", "busybox", "--", "sleep", "1000"])
        .env("RKVM_TEST_DELAY", "sandbox=3000")
        .run();
    assert_fails(&output, 1, "did not return within 1 s; the last phase that ended is `network`");
    assert_clean(&sandbox);
}

/// A measurement that would take minutes, caught in the midst of its starts.
fn long_run(sandbox: &Sandbox, isolation: &str, path: &Path) -> rkvm_testing::Running {
    let args = ["--ready=exec", "--runs=100", "--warmup=0", "--json", path.to_str().unwrap()];
    let running = compare_in(sandbox, isolation, &args)
        .args(["busybox", "--", "sleep", "1000"])
        .env("RKVM_TEST_DELAY", "network=300")
        .spawn();
    // Some are done and one is being made.
    wait::until("a start", || {
        let names = fs::read_dir(sandbox.root().join("lib/names")).ok()?;
        let mut names = names.flatten().filter_map(|name| name.file_name().into_string().ok());
        names.find(|name| name.starts_with("rkvm-compare-") && !name.ends_with("-0-0"))
    });
    running
}

#[test]
fn an_interrupt_keeps_what_was_measured() {
    for isolation in isolations() {
        let sandbox = sandbox();
        let path = file(&sandbox, "partial.json");
        let running = long_run(&sandbox, isolation, &path);
        running.signal(Signal::SIGINT);
        let output = running.wait();
        assert_eq!(output.code, 130, "{}", output.stderr());
        assert!(output.stdout().contains("PARTIAL"), "{}", output.stdout());
        let report = json(&path);
        assert_eq!(report["completion"]["state"], "partial");
        assert_eq!(report["completion"]["reason"], "interrupted");
        assert!(!report["samples"].as_array().unwrap().is_empty());
        assert_clean(&sandbox);
    }
}

#[test]
fn what_a_killed_measurement_left_is_removed_by_the_next() {
    for isolation in isolations() {
        let sandbox = sandbox();
        let running = long_run(&sandbox, isolation, &file(&sandbox, "killed.json"));
        running.signal(Signal::SIGKILL);
        running.wait();
        std::thread::sleep(Duration::from_millis(500));
        assert_ne!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "", "its last start goes on without it");
        report(&sandbox, "next.json", &["--ready=exit", "--runs=1", "--warmup=0", "busybox", "--", "true"]);
    }
}
