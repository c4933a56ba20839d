//! Hooks (runtime-spec, "POSIX-platform Hooks").

use std::fs;

use rkvm_testing::{Bundle, wait};
use serde_json::{Value, json};

use crate::subject::{Subject, namespace};
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("order", order),
    case("state-on-standard-input", state),
    case("arguments-and-environment", arguments),
    case("namespaces-they-run-in", namespaces),
    case("create-hooks-see-the-rootfs", create_sees_rootfs),
    case("a-failed-create-hook-stops-it", failed_create),
    case("a-failed-start-hook-stops-it", failed_start),
    case("a-failed-poststop-hook-is-a-warning", failed_poststop),
    case("a-hook-that-hangs-is-killed", timeout),
    only_rkvm("a-hook-whose-child-hangs-is-killed", "runc 1.1 waits for the child", timeout_child),
    only_rkvm("poststart-runs-at-start", "runc 1.1 runs it at create", poststart),
    case("a-missing-hook-program", missing),
    case("several-of-a-kind-in-order", several),
    case("poststop-after-delete", poststop),
    case("hooks-that-leave-a-child", leaves_child),
    only_rkvm("a-relative-hook-path", "runc 1.1.5 accepts it", relative),
    only_rkvm("a-failed-poststart-hook-is-a-warning", "runc 1.1 kills the container", failed_poststart),
    only_rkvm(
        "poststop-survives-a-changed-config",
        "runc 1.1 does too, by its state file of another form",
        poststop_kept,
    ),
];

const KINDS: [&str; 6] =
    ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"];

fn hook(script: &str) -> Value {
    json!({ "path": "/bin/sh", "args": ["sh", "-c", script], "env": ["PATH=/usr/bin:/bin"] })
}

/// A bundle whose hooks of every kind run `script`, in which KIND stands for the kind. Hooks of the container's own
/// namespaces write to the folder `/log` inside, which is `log` of the sandbox too.
fn with_hooks(s: &Subject, script: &str) -> Bundle {
    let log = s.sandbox.path().join("log");
    fs::create_dir_all(&log).unwrap();
    let mut bundle = s.script("echo program >> /log/order; sleep 1000");
    bundle.mount(json!({ "destination": "/log", "type": "bind", "source": log, "options": ["bind"] }));
    bundle.change(|config| {
        for kind in KINDS {
            let folder = if kind == "startContainer" { "/log".to_owned() } else { log.display().to_string() };
            let script = script.replace("KIND", kind).replace("LOG", &folder);
            config["hooks"][kind] = json!([hook(&script)]);
        }
    });
    bundle
}

fn order(s: &Subject) {
    let bundle = with_hooks(s, "echo KIND >> LOG/order");
    let order = s.sandbox.path().join("log/order");
    // Without poststart, which has a case of its own.
    let lines = || -> Vec<String> {
        let text = fs::read_to_string(&order).unwrap_or_default();
        text.lines().filter(|line| *line != "poststart").map(str::to_owned).collect()
    };
    let (pid, _) = s.create(&bundle);
    assert_eq!(lines(), ["prestart", "createRuntime", "createContainer"]);
    s.start();
    wait::until("the program", || (lines().len() == 5).then_some(()));
    assert_eq!(lines()[3..], ["startContainer", "program"]);
    s.end(pid);
    assert_eq!(lines().len(), 5);
    s.delete();
    assert_eq!(lines()[5..], ["poststop"]);
}

fn poststart(s: &Subject) {
    let log = s.sandbox.path().join("log");
    let mut bundle = s.bundle(&["sleep", "1000"]);
    let script = format!("cat > {}", log.display());
    bundle.change(|config| config["hooks"]["poststart"] = json!([hook(&script)]));
    let (pid, _) = s.create(&bundle);
    assert!(!log.exists());
    s.start();
    let state: Value = serde_json::from_slice(&fs::read(&log).unwrap()).unwrap();
    assert_eq!((&state["status"], &state["pid"]), (&json!("running"), &json!(pid)));
}

fn state(s: &Subject) {
    let mut bundle = with_hooks(s, "cat > LOG/KIND");
    bundle.change(|config| config["annotations"] = json!({ "key": "value" }));
    let (pid, _) = s.create(&bundle);
    s.start();
    s.end(pid);
    s.delete();
    for kind in KINDS {
        let text = fs::read(s.sandbox.path().join("log").join(kind)).unwrap();
        let state: Value = serde_json::from_slice(&text).unwrap_or_else(|error| panic!("{kind}: {error}"));
        assert_eq!(state["id"], s.id(), "{kind}");
        assert_eq!(state["bundle"], bundle.path.to_str().unwrap(), "{kind}");
        assert_eq!(state["annotations"]["key"], "value", "{kind}");
        assert!(state["ociVersion"].is_string(), "{kind}");
        let status = state["status"].as_str().unwrap();
        match kind {
            "prestart" | "createRuntime" | "createContainer" => {
                assert!(status.starts_with("creat"), "{kind}: {status}")
            }
            "startContainer" => {
                assert!(matches!(status, "creating" | "created" | "running"), "{kind}: {status}")
            }
            "poststart" => {}
            _ => assert_eq!(status, "stopped"),
        }
        if matches!(kind, "prestart" | "createRuntime" | "poststart") {
            assert_eq!(state["pid"], pid, "{kind}");
        }
    }
}

fn arguments(s: &Subject) {
    let log = s.sandbox.path().join("log");
    let mut bundle = s.bundle(&["true"]);
    let script =
        format!("echo \"$0|$1|$ONE|$FROM_CALLER\" > {}; env | wc -l >> {}", log.display(), log.display());
    bundle.change(|config| {
        config["hooks"]["createRuntime"] = json!([{
            "path": "/bin/sh", "args": ["ignored", "-c", script, "zero", "first"], "env": ["ONE=1", "PATH=/usr/bin:/bin"]
        }]);
    });
    s.cmd(["run", "--bundle"]).arg(&bundle.path).arg(s.id()).env("FROM_CALLER", "leaked").ok();
    let text = fs::read_to_string(log).unwrap();
    assert!(text.starts_with("zero|first|1|\n"), "{text}");
}

fn namespaces(s: &Subject) {
    let bundle = with_hooks(s, "readlink /proc/self/ns/uts > LOG/KIND");
    let (pid, _) = s.create(&bundle);
    let inside = namespace(&pid.to_string(), "uts");
    s.start();
    s.end(pid);
    s.delete();
    for kind in KINDS {
        let seen = fs::read_to_string(s.sandbox.path().join("log").join(kind)).unwrap();
        let want = match kind {
            "createContainer" | "startContainer" => inside.clone(),
            _ => namespace("self", "uts"),
        };
        assert_eq!(seen.trim(), want, "{kind}");
    }
}

fn create_sees_rootfs(s: &Subject) {
    // createContainer runs before pivot_root, in the container's mount namespace: it can mount into the rootfs.
    let mut bundle = s.script("cat /mnt/made");
    let script =
        format!("mount -t tmpfs none {0}/mnt && echo by the hook > {0}/mnt/made", bundle.rootfs().display());
    bundle.change(|config| config["hooks"]["createContainer"] = json!([hook(&script)]));
    assert_eq!(s.says(&bundle), "by the hook");
    assert!(!bundle.rootfs().join("mnt/made").exists(), "mounted on the host");
}

fn failed_create(s: &Subject) {
    for kind in ["prestart", "createRuntime", "createContainer"] {
        let mut bundle = s.script("echo program ran");
        bundle.change(|config| config["hooks"][kind] = json!([hook("echo because of this >&2; exit 5")]));
        let output = s.cmd(["create", "--bundle"]).arg(&bundle.path).arg(s.id()).fails("hook");
        assert!(output.stderr().contains("because of this") || output.stderr().contains('5'), "{output}");
        assert!(s.list().is_empty(), "{kind}");
        s.sandbox.assert_no_leaks();
    }
}

fn failed_start(s: &Subject) {
    let mut bundle = s.script("echo program ran");
    bundle.change(|config| config["hooks"]["startContainer"] = json!([hook("exit 5")]));
    let (_, output) = s.create(&bundle);
    let start = s.cmd(["start"]).arg(s.id()).run();
    wait::until("the container to be stopped", || {
        s.list().is_empty().then_some(()).or_else(|| (s.status() == "stopped").then_some(()))
    });
    assert!(!output.stdout().contains("program ran"), "{start}");
}

fn failed_poststop(s: &Subject) {
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.change(|config| config["hooks"]["poststop"] = json!([hook("exit 5"), hook("true")]));
    let pid = s.up(&bundle);
    s.end(pid);
    s.cmd(["delete"]).arg(s.id()).run();
    assert!(s.list().is_empty(), "the container stays");
    s.sandbox.assert_no_leaks();
}

fn timeout(s: &Subject) {
    hangs(s, "exec sleep 1000");
}

fn timeout_child(s: &Subject) {
    hangs(s, "sleep 1000; true");
}

fn hangs(s: &Subject, script: &str) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| {
        let mut hook = hook(script);
        hook["timeout"] = json!(1);
        config["hooks"]["createRuntime"] = json!([hook]);
    });
    s.run_fails(&bundle, "hook");
    s.sandbox.assert_no_leaks();
}

fn missing(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| config["hooks"]["createRuntime"] = json!([{ "path": "/no/such/hook" }]));
    s.run_fails(&bundle, "/no/such/hook");
}

fn several(s: &Subject) {
    let log = s.sandbox.path().join("log");
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| {
        config["hooks"]["createRuntime"] =
            [1, 2, 3].map(|number| hook(&format!("echo {number} >> {}", log.display()))).to_vec().into();
    });
    s.says(&bundle);
    assert_eq!(fs::read_to_string(log).unwrap(), "1\n2\n3\n");
}

fn poststop(s: &Subject) {
    let log = s.sandbox.path().join("log");
    let mut bundle = s.bundle(&["sleep", "1000"]);
    let cgroup = format!("/sys/fs/cgroup/pids{}", s.sandbox.cgroup("c"));
    let script = format!(
        "test -e {cgroup}/cgroup.procs && cat {cgroup}/cgroup.procs | wc -l >> {0} || echo gone >> {0}",
        log.display()
    );
    bundle.change(|config| config["hooks"]["poststop"] = json!([hook(&script)]));
    let pid = s.up(&bundle);
    s.cmd(["delete", "--force"]).arg(s.id()).ok();
    rkvm_testing::reap::wait_for(pid);
    let text = fs::read_to_string(log).unwrap();
    assert!(matches!(text.trim(), "gone" | "0"), "something of the container was left: {text}");
}

fn leaves_child(s: &Subject) {
    // A hook's child that keeps its streams must not hold the runtime up.
    let mut bundle = s.bundle(&["true"]);
    let script = format!("sleep 30 & echo $! > {}", s.sandbox.path().join("child").display());
    let script = format!("({script}) </dev/null >/dev/null 2>&1; true");
    bundle.change(|config| config["hooks"]["createRuntime"] = json!([hook(&script)]));
    s.says(&bundle);
    let child: i32 = fs::read_to_string(s.sandbox.path().join("child")).unwrap().trim().parse().unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(child), nix::sys::signal::SIGKILL).unwrap();
}

fn relative(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| config["hooks"]["createRuntime"] = json!([{ "path": "bin/hook" }]));
    s.run_fails(&bundle, "absolute");
}

fn failed_poststart(s: &Subject) {
    // runtime-spec: "the runtime MUST log a warning, but the remaining hooks and lifecycle continue".
    let log = s.sandbox.path().join("log");
    let mut bundle = s.bundle(&["sleep", "1000"]);
    let second = hook(&format!("echo second > {}", log.display()));
    bundle.change(|config| config["hooks"]["poststart"] = json!([hook("exit 5"), second]));
    s.create(&bundle);
    let output = s.cmd(["start"]).arg(s.id()).ok();
    assert!(output.stderr().contains("poststart"), "no warning: {output}");
    assert_eq!(fs::read_to_string(log).unwrap(), "second\n");
    assert_eq!(s.status(), "running");
}

fn poststop_kept(s: &Subject) {
    let log = s.sandbox.path().join("log");
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.change(|config| {
        config["hooks"]["poststop"] = json!([hook(&format!("echo ran > {}", log.display()))])
    });
    s.up(&bundle);
    fs::remove_dir_all(&bundle.path).unwrap();
    s.cmd(["delete", "--force"]).arg(s.id()).ok();
    assert_eq!(fs::read_to_string(log).unwrap(), "ran\n");
}
