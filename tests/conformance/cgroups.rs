//! Cgroups: place, limits, their effect, update, statistics (runtime-spec, "Control groups").

use std::fs;
use std::path::{Path, PathBuf};

use rkvm_testing::{reap, wait};
use serde_json::{Value, json};

use crate::subject::Subject;
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("place", place),
    case("place-relative", place_relative),
    case("place-by-default", place_default),
    case("gone-after-delete", gone),
    case("sub-cgroups-are-removed-too", sub_cgroups),
    case("memory-limits", memory_limits),
    case("memory-kill", memory_kill),
    case("pids-limit", pids_limit),
    case("pids-unlimited", pids_unlimited),
    case("cpu-limits", cpu_limits),
    case("cpu-quota-holds-back", cpu_effect),
    case("cpuset", cpuset),
    case("limits-hold-before-the-program-runs", limits_early),
    case("bad-values", bad_values),
    case("update-by-flags", update_flags),
    case("update-by-json", update_json),
    case("update-keeps-the-rest", update_keeps),
    case("update-bad-values", update_bad),
    case("stats", stats),
    case("two-share-a-parent", share_parent),
    case("pids-of-other-containers-are-not-touched", delete_is_careful),
    only_rkvm("unified-needs-v2", "runc 1.1 refuses it with another message", unified),
    only_rkvm("what-the-host-lacks-is-named", "runc 1.1 says `no such file`", missing_controller),
];

/// Folder of the container's cgroup in hierarchy `controller`.
fn folder(s: &Subject, controller: &str) -> PathBuf {
    Path::new("/sys/fs/cgroup").join(controller).join(s.sandbox.cgroup("c").trim_start_matches('/'))
}

fn value(s: &Subject, controller: &str, file: &str) -> String {
    let path = folder(s, controller).join(file);
    fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())).trim().to_owned()
}

fn limited(s: &Subject, args: &[&str], resources: Value) -> rkvm_testing::Bundle {
    let mut bundle = s.bundle(args);
    bundle.change(|config| {
        for (name, value) in resources.as_object().unwrap() {
            config["linux"]["resources"][name] = value.clone();
        }
    });
    bundle
}

fn place(s: &Subject) {
    let pid = s.sleeper();
    for controller in ["memory", "pids", "cpu", "cpuset", "devices", "freezer"] {
        assert_eq!(value(s, controller, "cgroup.procs"), pid.to_string(), "{controller}");
    }
}

fn place_relative(s: &Subject) {
    // runtime-spec: the runtime chooses where a relative path is, but it must be the same every time.
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.change(|config| {
        config["linux"]["cgroupsPath"] = json!(s.sandbox.cgroup("c").trim_start_matches('/'))
    });
    let pid = s.up(&bundle);
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(text.contains(&s.sandbox.cgroup("c")), "{text}");
    s.end(pid);
    s.delete();
    s.sandbox.assert_no_leaks();
}

fn place_default(s: &Subject) {
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.change(|config| {
        config["linux"].as_object_mut().unwrap().remove("cgroupsPath");
    });
    let pid = s.up(&bundle);
    let text = fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap();
    assert!(text.lines().any(|line| line.contains("pids") && line.ends_with(&s.id())), "{text}");
    s.end(pid);
    s.delete();
    s.sandbox.assert_no_leaks();
}

fn gone(s: &Subject) {
    let pid = s.sleeper();
    assert!(folder(s, "memory").is_dir());
    s.end(pid);
    s.delete();
    for controller in
        ["memory", "pids", "cpu", "cpuacct", "cpuset", "devices", "freezer", "blkio", "unified", "systemd"]
    {
        assert!(!folder(s, controller).exists(), "{controller}");
    }
}

fn sub_cgroups(s: &Subject) {
    let pid = s.sleeper();
    fs::create_dir_all(folder(s, "pids").join("made/inside")).unwrap();
    fs::create_dir_all(folder(s, "memory").join("made")).unwrap();
    s.end(pid);
    s.delete();
    assert!(!folder(s, "pids").exists() && !folder(s, "memory").exists());
}

fn memory_limits(s: &Subject) {
    let bundle = limited(
        s,
        &["sleep", "1000"],
        json!({
            "memory": { "limit": 67_108_864, "reservation": 33_554_432, "swap": 134_217_728 }
        }),
    );
    let swap_counted = Path::new("/sys/fs/cgroup/memory/memory.memsw.limit_in_bytes").exists();
    let bundle = if swap_counted {
        bundle
    } else {
        limited(
            s,
            &["sleep", "1000"],
            json!({ "memory": { "limit": 67_108_864, "reservation": 33_554_432 } }),
        )
    };
    s.create(&bundle);
    assert_eq!(value(s, "memory", "memory.limit_in_bytes"), "67108864");
    assert_eq!(value(s, "memory", "memory.soft_limit_in_bytes"), "33554432");
    if swap_counted {
        assert_eq!(value(s, "memory", "memory.memsw.limit_in_bytes"), "134217728");
    }
}

/// Fills memory: busybox `tail` keeps its whole input.
const EAT: &[&str] = &["sh", "-c", "tail /dev/zero; echo code $?; exit 3"];

fn memory_kill(s: &Subject) {
    let bundle = limited(s, EAT, json!({ "memory": { "limit": 16_777_216 } }));
    let (pid, output) = s.create(&bundle);
    s.start();
    assert_eq!(reap::wait_for(pid), 3);
    assert!(output.stdout().contains("code 137"), "{output}");
    // Init itself.
    s.delete();
    let bundle = limited(s, &["tail", "/dev/zero"], json!({ "memory": { "limit": 16_777_216 } }));
    let pid = s.up(&bundle);
    assert_eq!(reap::wait_for(pid), 137);
    assert_eq!(s.status(), "stopped");
}

fn pids_limit(s: &Subject) {
    let script = "i=0; while [ $i -lt 20 ]; do sleep 100 & i=$((i+1)); done; echo all";
    let output = s.run(&limited(s, &["sh", "-c", script], json!({ "pids": { "limit": 5 } })));
    assert!(!output.text().contains("all") && output.stderr().contains("fork"), "{output}");
    let output = s.run(&limited(s, &["sh", "-c", script], json!({ "pids": { "limit": 30 } })));
    assert_eq!(output.text(), "all", "{output}");
}

fn pids_unlimited(s: &Subject) {
    s.create(&limited(s, &["true"], json!({ "pids": { "limit": -1 } })));
    assert_eq!(value(s, "pids", "pids.max"), "max");
}

fn cpu_limits(s: &Subject) {
    s.create(&limited(s, &["true"], json!({ "cpu": { "shares": 512, "quota": 20_000, "period": 50_000 } })));
    assert_eq!(value(s, "cpu", "cpu.shares"), "512");
    assert_eq!(value(s, "cpu", "cpu.cfs_quota_us"), "20000");
    assert_eq!(value(s, "cpu", "cpu.cfs_period_us"), "50000");
}

fn cpu_effect(s: &Subject) {
    // Not a time: the kernel's own count of periods in which the quota was used up.
    let pid = s.up(&limited(
        s,
        &["sh", "-c", "while :; do :; done"],
        json!({ "cpu": { "quota": 5_000, "period": 50_000 } }),
    ));
    wait::until("the quota to be used up", || {
        let stat = value(s, "cpu", "cpu.stat");
        let throttled = stat.lines().find_map(|line| line.strip_prefix("nr_throttled ")).unwrap();
        (throttled.parse::<u64>().unwrap() >= 3).then_some(())
    });
    s.end(pid);
}

fn cpuset(s: &Subject) {
    let bundle = limited(
        s,
        &["sh", "-c", "grep -E '^(Cpus|Mems)_allowed_list' /proc/self/status"],
        json!({
            "cpu": { "cpus": "0", "mems": "0" }
        }),
    );
    let said = s.says(&bundle);
    assert_eq!(
        said.split_whitespace().collect::<Vec<_>>(),
        ["Cpus_allowed_list:", "0", "Mems_allowed_list:", "0"]
    );
}

fn limits_early(s: &Subject) {
    let mut bundle =
        limited(s, &["true"], json!({ "pids": { "limit": 41 }, "memory": { "limit": 50_331_648 } }));
    bundle.script("true");
    s.create(&bundle);
    assert_eq!(value(s, "pids", "pids.max"), "41");
    assert_eq!(value(s, "memory", "memory.limit_in_bytes"), "50331648");
}

fn bad_values(s: &Subject) {
    for resources in [
        json!({ "cpu": { "cpus": "9999" } }),
        json!({ "cpu": { "cpus": "nonsense" } }),
        json!({ "cpu": { "quota": 1, "period": 100_000 } }),
        json!({ "memory": { "limit": "1g" } }),
        json!({ "devices": [{ "allow": true, "type": "nonsense", "access": "rwm" }] }),
        json!({ "devices": [{ "allow": true, "type": "c", "major": 1, "minor": 1, "access": "xyz" }] }),
    ] {
        s.run_fails(&limited(s, &["true"], resources), "");
    }
    s.sandbox.assert_no_leaks();
}

fn update_flags(s: &Subject) {
    s.sleeper();
    s.cmd(["update", "--memory", "41943040", "--memory-reservation", "20971520", "--pids-limit", "55"])
        .arg(s.id())
        .ok();
    s.cmd([
        "update",
        "--cpu-share",
        "300",
        "--cpu-quota",
        "30000",
        "--cpu-period",
        "60000",
        "--cpuset-cpus",
        "0",
    ])
    .arg(s.id())
    .ok();
    assert_eq!(value(s, "memory", "memory.limit_in_bytes"), "41943040");
    assert_eq!(value(s, "memory", "memory.soft_limit_in_bytes"), "20971520");
    assert_eq!(value(s, "pids", "pids.max"), "55");
    assert_eq!(value(s, "cpu", "cpu.shares"), "300");
    assert_eq!(value(s, "cpu", "cpu.cfs_quota_us"), "30000");
    assert_eq!(value(s, "cpu", "cpu.cfs_period_us"), "60000");
    assert_eq!(value(s, "cpuset", "cpuset.cpus"), "0");
}

fn update_json(s: &Subject) {
    s.sleeper();
    let resources = json!({ "memory": { "limit": 41_943_040 }, "pids": { "limit": 66 } }).to_string();
    s.cmd(["update", "--resources", "-"]).arg(s.id()).stdin(resources.as_str()).ok();
    assert_eq!(value(s, "memory", "memory.limit_in_bytes"), "41943040");
    let file = s.sandbox.path().join("resources");
    fs::write(&file, r#"{"cpu": {"shares": 222}}"#).unwrap();
    s.cmd(["update", "--resources"]).arg(file).arg(s.id()).ok();
    assert_eq!(value(s, "cpu", "cpu.shares"), "222");
    s.cmd(["update", "--resources", "-"]).arg(s.id()).stdin("{").fails("");
    s.cmd(["update", "--resources", "/no/such/file"]).arg(s.id()).fails("/no/such/file");
}

fn update_keeps(s: &Subject) {
    let bundle =
        limited(s, &["sleep", "1000"], json!({ "pids": { "limit": 77 }, "memory": { "limit": 50_331_648 } }));
    s.up(&bundle);
    s.cmd(["update", "--cpu-share", "300"]).arg(s.id()).ok();
    assert_eq!(value(s, "pids", "pids.max"), "77");
    assert_eq!(value(s, "memory", "memory.limit_in_bytes"), "50331648");
    assert!(
        value(s, "devices", "devices.list").lines().all(|line| line != "a *:* rwm"),
        "device rules were lifted"
    );
}

fn update_bad(s: &Subject) {
    s.sleeper();
    s.cmd(["update", "--memory", "nonsense"]).arg(s.id()).fails("");
    s.cmd(["update", "--cpuset-cpus", "9999"]).arg(s.id()).fails("");
    assert_eq!(s.status(), "running");
}

fn stats(s: &Subject) {
    let pid = s.up(&limited(
        s,
        &["sh", "-c", "i=0; while [ $i -lt 100000 ]; do i=$((i+1)); done; touch /tmp/done; sleep 1000"],
        json!({ "pids": { "limit": 99 }, "memory": { "limit": 67_108_864 } }),
    ));
    let done = s.sandbox.path().join("b/c/rootfs/tmp/done");
    wait::until("the loop to end", || done.exists().then_some(()));
    let event = s.cmd(["events", "--stats"]).arg(s.id()).ok().json();
    assert_eq!(event["type"], "stats");
    assert_eq!(event["id"], s.id());
    let data = &event["data"];
    assert!(data["cpu"]["usage"]["total"].as_u64().unwrap() > 0, "{data}");
    assert_eq!(data["pids"]["limit"], 99);
    assert_eq!(data["pids"]["current"], 1);
    assert!(data["memory"]["usage"]["usage"].as_u64().unwrap() > 0, "{data}");
    assert_eq!(data["memory"]["usage"]["limit"], 67_108_864);
    s.end(pid);
    s.cmd(["events", "--stats"]).arg(s.id()).fails("");
}

fn share_parent(s: &Subject) {
    let pid = s.sleeper();
    let other = s.sandbox.bundle("other", &["sleep", "1000"]);
    let id = s.sandbox.id("other");
    s.cmd(["run", "-d", "--bundle"]).arg(&other.path).arg(&id).ok();
    s.end(pid);
    s.delete();
    assert_eq!(s.cmd(["state"]).arg(&id).ok().json()["status"], "running");
    s.cmd(["delete", "-f"]).arg(&id).ok();
}

fn delete_is_careful(s: &Subject) {
    // A nested container's cgroup below ours: deleting the outer one must not pretend to have removed it while it runs.
    let mut outer = s.bundle(&["sleep", "1000"]);
    outer.change(|config| config["linux"]["cgroupsPath"] = json!(s.sandbox.cgroup("outer")));
    let mut inner = s.sandbox.bundle("inner", &["sleep", "1000"]);
    inner.change(|config| config["linux"]["cgroupsPath"] = json!(s.sandbox.cgroup("inner")));
    let pid = s.up(&outer);
    let id = s.sandbox.id("inner");
    s.cmd(["run", "-d", "--bundle"]).arg(&inner.path).arg(&id).ok();
    s.end(pid);
    s.cmd(["delete", "--force"]).arg(s.id()).ok();
    assert_eq!(s.cmd(["state"]).arg(&id).ok().json()["status"], "running");
}

fn unified(s: &Subject) {
    // A pure v2 host has these; on v1 and hybrid ones with no controllers in v2 they cannot be enforced.
    if Path::new("/sys/fs/cgroup/cgroup.controllers").exists() {
        return;
    }
    s.run_fails(&limited(s, &["true"], json!({ "unified": { "memory.high": "10000000" } })), "unified");
}

fn missing_controller(s: &Subject) {
    // A page size that no machine has: hugetlb itself may be there, on v1 or in the unified hierarchy of a hybrid host.
    let resources = json!({ "hugepageLimits": [{ "pageSize": "3MB", "limit": 4_194_304 }] });
    s.run_fails(&limited(s, &["true"], resources), "huge");
}
