//! `rkvm compare` when something is wrong: a peer, a disk, a flag, or the user's patience.

use super::*;

/// A folder with a program `name` that is this script, before everything else on PATH.
pub fn path_with(sandbox: &Sandbox, name: &str, script: &str) -> String {
    let folder = file(sandbox, "bin");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join(name);
    fs::write(&program, script).unwrap();
    fs::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    format!("{}:{}", folder.display(), std::env::var("PATH").unwrap())
}

/// A program that does nothing right.
pub const BROKEN: &str = "#!/bin/sh\necho broken >&2; exit 1\n";

/// A runc that fails from its `$0.good`th start on.
const FAILING_RUNC: &str = r#"#!/bin/sh
case "$*" in
*--version) echo "runc version 9.9.9"; exit 0;;
*run*) ;;
*) exit 0;;
esac
echo x >>"$0.starts"
[ "$(wc -l <"$0.starts")" -le "$(cat "$0.good")" ] && exit 0
echo "its cgroup is broken" >&2
exit 1
"#;

#[test]
fn a_peer_whose_starts_fail_is_named_and_the_others_go_on() {
    let sandbox = sandbox();
    let path = path_with(&sandbox, "runc", FAILING_RUNC);
    for (good, samples, reason) in [
        ("0", 0, "its first start failed: runc: the command ended"),
        ("1", 0, "given up after 3 failed starts in a row: the command ended"),
        ("3", 3, "given up after 3 failed starts in a row: the command ended"),
    ] {
        let _ = fs::remove_file(file(&sandbox, "bin/runc.starts"));
        fs::write(file(&sandbox, "bin/runc.good"), good).unwrap();
        let out = file(&sandbox, "peer.json");
        let args = ["--ready=exit", "--runs=8", "--warmup=1", "--with=runc", "--json", out.to_str().unwrap()];
        let output = compare(&sandbox, &args).args(["busybox", "--", "true"]).env("PATH", &path).ok();
        assert!(output.stderr().contains(&format!("runc: not measured: {reason}")), "{}", output.stderr());
        let report = json(&out);
        let missing = report["missing"].as_array().unwrap();
        let named = missing.iter().find(|one| one["id"] == "runc").unwrap();
        assert!(named["reason"].as_str().unwrap().contains(reason), "{named}");
        assert!(output.stdout().contains("runc: not measured"), "{}", output.stdout());
        let count = |list: &str, key: &str, id: &str| {
            report[list].as_array().unwrap().iter().filter(|one| one[key] == id).count()
        };
        assert_eq!(
            (count("samples", "subject", "container"), count("samples", "subject", "runc")),
            (9, samples)
        );
        assert_eq!(count("subjects", "id", "runc"), usize::from(samples > 0));
        assert_clean(&sandbox);
    }
}

#[test]
fn a_budget_that_limits_nothing_is_an_error() {
    let sandbox = sandbox();
    let out = file(&sandbox, "a.json");
    let out = out.to_str().unwrap();
    compare(&sandbox, &["--ready=exit", "--runs=2", "--warmup=0", "--json", out, "busybox", "--", "true"])
        .ok();
    let replayed = sandbox.rkvm(["compare", "--replay", out, "--budget=foo:p95=1ms"]).run();
    assert_fails(&replayed, 1, "--budget \"foo:p95=1ms\": foo was not measured; there are container");
    assert_eq!(replayed.stdout(), "");
    assert_fails(
        &sandbox.rkvm(["compare", out, out, "--budget=p95=1ms"]).run(),
        1,
        "--budget does not go with",
    );
    // The peer is there, and fails; what was measured is told all the same.
    let path = path_with(&sandbox, "runc", FAILING_RUNC);
    fs::write(file(&sandbox, "bin/runc.good"), "0").unwrap();
    let args = ["--ready=exit", "--runs=2", "--warmup=0", "--with=runc", "--budget=runc:p95=100s"];
    let failed = compare(&sandbox, &args).args(["busybox", "--", "true"]).env("PATH", &path).run();
    assert_fails(&failed, 1, "--budget \"runc:p95=100s\": runc was not measured: its first start failed");
    assert!(failed.stdout().contains("rkvm container"), "{}", failed.stdout());
    // It is not there: nothing is measured in vain.
    path_with(&sandbox, "runc", BROKEN);
    let failed = compare(&sandbox, &args).args(["busybox", "--", "true"]).env("PATH", &path).run();
    assert_fails(&failed, 1, "--budget names \"runc\", which cannot be measured");
    assert_eq!(failed.stdout(), "");
    assert_clean(&sandbox);
}

#[test]
fn a_peer_that_is_measured_to_its_return_says_so() {
    let sandbox = sandbox();
    let path = path_with(&sandbox, "runc", FAILING_RUNC);
    fs::write(file(&sandbox, "bin/runc.good"), "99").unwrap();
    let out = file(&sandbox, "a.json");
    for (probe, is_told) in [("exec", true), ("exit", false)] {
        let args =
            ["--runs=2", "--warmup=0", "--with=runc", "--ready", probe, "--json", out.to_str().unwrap()];
        compare(&sandbox, &args).args(["busybox", "--", "true"]).env("PATH", &path).ok();
        let report = json(&out);
        let told = |subject: usize| {
            let differences = report["subjects"][subject]["differences"].as_array().unwrap().iter();
            differences.filter(|one| one.as_str().unwrap().contains("to its command's return")).count()
        };
        assert_eq!((told(0), told(1)), (0, usize::from(is_told)), "{probe}");
    }
}

#[test]
fn a_flag_without_effect_is_refused_and_a_peer_named_twice_is_measured_once() {
    let sandbox = sandbox();
    let out = file(&sandbox, "a.json");
    let out = out.to_str().unwrap();
    let path = path_with(&sandbox, "runc", FAILING_RUNC);
    fs::write(file(&sandbox, "bin/runc.good"), "99").unwrap();
    let args = [
        "--ready=exit",
        "--runs=2",
        "--warmup=0",
        "--with=runc,runc",
        "--json",
        out,
        "busybox",
        "--",
        "true",
    ];
    compare(&sandbox, &args).env("PATH", &path).ok();
    let report = json(Path::new(out));
    assert_eq!(report["subjects"].as_array().unwrap().len(), 2);
    let run = |args: &[&str]| sandbox.rkvm(["compare"]).args(args).run();
    assert_fails(
        &run(&[out, out, "--html", "x", "--json", "y"]),
        1,
        "--json, --html do not go with two reports",
    );
    assert_fails(&run(&[out, out, "--", "true"]), 1, "a command after -- does not go with two reports");
    for flags in [
        ["--runs", "30"],
        ["--warmup", "3"],
        ["--ready", "exec"],
        ["--seed", "1"],
        ["--isolation", "container"],
        ["--parallel", "1"],
        ["--density", "2"],
        ["--with", "runc"],
        ["--timeout", "60s"],
        ["--strict", "--cold"],
        ["--run-flag", "--tty"],
        ["--", "true"],
    ] {
        let mut args = vec!["--replay", out];
        args.extend(flags);
        let name = flags[0];
        let refused = run(&args);
        assert_eq!((refused.code, refused.stdout()), (1, String::new()), "{name}");
        assert!(
            refused.stderr().contains(name) && refused.stderr().contains("not go with --replay"),
            "{name}"
        );
    }
}

#[test]
fn an_interrupt_in_the_first_moments_leaves_nothing() {
    let sandbox = sandbox();
    let out = file(&sandbox, "early.json");
    let args =
        ["--ready=exec", "--runs=100", "--json", out.to_str().unwrap(), "busybox", "--", "sleep", "1000"];
    for signal in [Signal::SIGINT, Signal::SIGTERM, Signal::SIGHUP] {
        // Also where the tests themselves are started with `nohup`: what it has ignored stays so.
        let running = compare(&sandbox, &args).by("env", &["--default-signal=HUP"]).spawn();
        let sessions = || fs::read_dir(sandbox.root().join("lib/compare")).ok()?.flatten().next();
        wait::until("a session", sessions);
        running.signal(signal);
        assert_eq!(running.wait().code, 130, "{signal}");
        assert_clean(&sandbox);
        let files = fs::read_dir(sandbox.path()).unwrap().flatten().map(|one| one.file_name());
        let left: Vec<_> = files.filter(|name| name.to_string_lossy().starts_with(".early")).collect();
        assert!(left.is_empty(), "{signal}: {left:?}");
    }
}

#[test]
fn an_interrupt_ends_a_growing_number_of_instances() {
    let sandbox = sandbox();
    let out = file(&sandbox, "grown.json");
    let args = ["--ready=exec", "--runs=1", "--warmup=0", "--density=500", "--json", out.to_str().unwrap()];
    let running = compare(&sandbox, &args).args(["busybox", "--", "sleep", "1000"]).spawn();
    wait::until("an instance", || {
        let names = fs::read_dir(sandbox.root().join("lib/names")).ok()?;
        let mut names = names.flatten().filter_map(|name| name.file_name().into_string().ok());
        names.find(|name| name.ends_with("-density-2"))
    });
    running.signal(Signal::SIGINT);
    let output = running.wait();
    assert_eq!(output.code, 130, "{}", output.stderr());
    let report = json(&out);
    let count = report["density"].as_array().unwrap().len();
    assert!((1..100).contains(&count), "{count} instances");
    assert_eq!(report["completion"]["reason"], "interrupted");
    assert_clean(&sandbox);
}

#[test]
fn a_full_disk_costs_a_file_and_not_the_measurement() {
    let sandbox = sandbox();
    let csv = file(&sandbox, "a.csv");
    let args = ["--ready=exit", "--runs=2", "--warmup=0", "--json=/dev/full", "--csv", csv.to_str().unwrap()];
    let output = compare(&sandbox, &args).args(["busybox", "--", "true"]).run();
    assert_fails(&output, 1, "cannot write /dev/full");
    assert!(output.stdout().contains("rkvm container"), "{}", output.stdout());
    assert!(fs::read_to_string(&csv).unwrap().lines().count() >= 3);
    assert_clean(&sandbox);
}
