use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use super::*;

fn resources(json: &str) -> LinuxResources {
    serde_json::from_str(json).unwrap()
}

fn id(name: &str) -> String {
    format!("test-{name}-{}", std::process::id())
}

/// A cgroup and a process in it; both end with the test.
struct Inhabited {
    cgroup: Cgroup,
    process: Child,
}

impl Drop for Inhabited {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
        let _ = self.cgroup.remove();
    }
}

fn inhabited(name: &str, json: &str) -> Inhabited {
    let cgroup = Cgroup::create(None, &id(name), Some(&resources(json))).unwrap();
    let process = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let inhabited = Inhabited { cgroup, process };
    inhabited.cgroup.add_process(inhabited.process.id() as i32).unwrap();
    inhabited
}

/// The file in whichever hierarchy has it.
fn read(cgroup: &Cgroup, name: &str) -> String {
    let json = serde_json::to_value(cgroup).unwrap();
    let mut folders = vec![];
    collect_paths(&json, &mut folders);
    let found = folders.iter().find_map(|folder| fs::read_to_string(folder.join(name)).ok());
    found.unwrap_or_else(|| panic!("no {name} in {folders:?}")).trim().to_owned()
}

fn collect_paths(json: &serde_json::Value, folders: &mut Vec<PathBuf>) {
    match json {
        serde_json::Value::Object(map) => {
            folders.extend(map.get("path").and_then(|path| path.as_str()).map(PathBuf::from));
            map.values().for_each(|value| collect_paths(value, folders));
        }
        serde_json::Value::Array(all) => all.iter().for_each(|value| collect_paths(value, folders)),
        _ => {}
    }
}

fn left_behind(id: &str) -> Vec<PathBuf> {
    // On a v2 host the folder itself is the hierarchy.
    let root = PathBuf::from("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(&root).unwrap().map(|entry| entry.unwrap().path());
    hierarchies.chain([root]).map(|hierarchy| hierarchy.join(id)).filter(|path| path.exists()).collect()
}

#[test]
fn a_process_is_found_frozen_counted_and_ended() {
    let mut inhabited = inhabited("life", r#"{"pids": {"limit": 7}}"#);
    let text = serde_json::to_string(&inhabited.cgroup).unwrap();
    let cgroup: Cgroup = serde_json::from_str(&text).unwrap();
    assert_eq!(cgroup.processes().unwrap(), [inhabited.process.id() as i32]);
    let stats = cgroup.stats().unwrap();
    assert_eq!((stats.pids_current, stats.pids_limit), (Some(1), Some(7)));
    assert_eq!(stats.oom_kills, Some(0));
    cgroup.freeze().unwrap();
    assert!(cgroup.is_frozen().unwrap());
    cgroup.thaw().unwrap();
    assert!(!cgroup.is_frozen().unwrap());
    cgroup.freeze().unwrap();
    cgroup.kill_all().unwrap();
    inhabited.process.wait().unwrap();
    cgroup.remove().unwrap();
    cgroup.remove().unwrap();
    assert!(cgroup.processes().unwrap().is_empty());
    assert!(left_behind(&format!("rkvm-{}", id("life"))).is_empty());
}

#[test]
fn a_thread_enters_every_v1_hierarchy_by_itself() {
    let cgroup = Cgroup::create(None, &id("enter"), None).unwrap();
    let entrance = cgroup.entrance().unwrap();
    let seen = std::thread::spawn(move || {
        entrance.join(Born::Inside).unwrap();
        fs::read_to_string("/proc/thread-self/cgroup").unwrap()
    })
    .join()
    .unwrap();
    let name = format!("/rkvm-{}", id("enter"));
    // The unified hierarchy is entered by clone3.
    assert!(seen.lines().filter(|line| !line.starts_with("0::")).all(|line| line.ends_with(&name)), "{seen}");
    cgroup.remove().unwrap();
}

#[test]
fn limits_arrive_and_are_updated_alone() {
    let start = r#"{"memory": {"limit": 67108864, "reservation": 33554432}, "pids": {"limit": 20},
                    "cpu": {"shares": 512, "quota": 50000, "period": 100000, "cpus": "0"}}"#;
    let inhabited = inhabited("limits", start);
    let cgroup = &inhabited.cgroup;
    if cgroup.v1().is_none() {
        return;
    }
    assert_eq!(read(cgroup, "memory.limit_in_bytes"), "67108864");
    assert_eq!(read(cgroup, "memory.soft_limit_in_bytes"), "33554432");
    assert_eq!(read(cgroup, "cpu.shares"), "512");
    assert_eq!(read(cgroup, "cpu.cfs_quota_us"), "50000");
    assert_eq!(read(cgroup, "cpuset.cpus"), "0");
    assert_eq!(cgroup.stats().unwrap().memory_limit_bytes, Some(67_108_864));
    // A longer period and quota at once: neither fits the other's old value in every order.
    cgroup.update(&resources(r#"{"cpu": {"quota": 900000, "period": 1000000}}"#)).unwrap();
    cgroup.update(&resources(r#"{"cpu": {"quota": 5000, "period": 5000}}"#)).unwrap();
    assert_eq!(read(cgroup, "cpu.cfs_quota_us"), "5000");
    assert_eq!(read(cgroup, "cpu.cfs_period_us"), "5000");
    assert_eq!(read(cgroup, "cpu.shares"), "512");
    // Memory and swap up, then down, then without limit.
    for (limit, swap) in [(134_217_728_u64, 268_435_456_u64), (1 << 30, 2 << 30), (67_108_864, 67_108_864)] {
        cgroup.update(&resources(&format!(r#"{{"memory": {{"limit": {limit}, "swap": {swap}}}}}"#))).unwrap();
        assert_eq!(read(cgroup, "memory.limit_in_bytes"), limit.to_string());
        assert_eq!(read(cgroup, "memory.memsw.limit_in_bytes"), swap.to_string());
    }
    cgroup.update(&resources(r#"{"memory": {"limit": -1}, "pids": {"limit": -1}}"#)).unwrap();
    let stats = cgroup.stats().unwrap();
    assert_eq!((stats.memory_limit_bytes, stats.pids_limit), (None, None));
}

#[test]
fn what_the_host_cannot_enforce_is_named_and_leaves_nothing() {
    for (json, field) in [
        (r#"{"hugepageLimits": [{"pageSize": "3MB", "limit": 0}]}"#, "linux.resources.hugepageLimits"),
        (r#"{"hugepageLimits": [{"pageSize": "../2MB", "limit": 0}]}"#, "linux.resources.hugepageLimits"),
        (r#"{"cpu": {"quota": 1, "period": 100000}}"#, "linux.resources.cpu.quota"),
        (r#"{"cpu": {"cpus": "4096"}}"#, "linux.resources.cpu.cpus"),
        (r#"{"memory": {"swappiness": 101}}"#, "linux.resources.memory.swappiness"),
        (r#"{"unified": {"nothing.max": "1"}}"#, "linux.resources.unified"),
        (
            r#"{"devices": [{"allow": true, "type": "c", "access": "x"}]}"#,
            "linux.resources.devices[0].access",
        ),
    ] {
        let id = id("refused");
        let result = Cgroup::create(None, &id, Some(&resources(json)));
        let Err(error) = result else { panic!("{json} was accepted") };
        let error = error.to_string();
        assert!(error.contains(field), "{json}: {error}");
        assert!(left_behind(&format!("rkvm-{id}")).is_empty(), "{json}");
    }
}

#[test]
fn a_controller_that_only_the_unified_hierarchy_has_is_used_there() {
    let offered = fs::read_to_string("/sys/fs/cgroup/unified/cgroup.controllers").unwrap_or_default();
    if !offered.split_whitespace().any(|one| one == "hugetlb") {
        return;
    }
    let json = r#"{"hugepageLimits": [{"pageSize": "2MB", "limit": 4194304}], "pids": {"limit": 9}}"#;
    let inhabited = inhabited("mixed", json);
    assert!(matches!(inhabited.cgroup, Cgroup::Hybrid(..)));
    assert_eq!(read(&inhabited.cgroup, "hugetlb.2MB.max"), "4194304");
    assert_eq!(read(&inhabited.cgroup, "pids.max"), "9");
}

#[test]
fn a_cgroup_in_use_is_not_shared() {
    let inhabited = inhabited("taken", "{}");
    let path = format!("/rkvm-{}", id("taken"));
    let error = Cgroup::create(Some(Path::new(&path)), "other", None).unwrap_err().to_string();
    assert!(error.contains(&inhabited.process.id().to_string()), "{error}");
    assert_eq!(inhabited.cgroup.processes().unwrap().len(), 1, "the other create must not have removed it");
}

#[test]
fn ancestors_come_and_go_with_the_cgroup() {
    let top = id("deep");
    let path = format!("/{top}/middle/leaf");
    let cgroup = Cgroup::create(Some(Path::new(&path)), "x", None).unwrap();
    cgroup.entrance().unwrap();
    assert!(!left_behind(&top).is_empty());
    cgroup.remove().unwrap();
    assert!(left_behind(&top).is_empty());
}

#[test]
fn what_the_container_made_below_goes_too() {
    let cgroup = Cgroup::create(None, &id("below"), None).unwrap();
    let json = serde_json::to_value(&cgroup).unwrap();
    let mut folders = vec![];
    collect_paths(&json, &mut folders);
    for folder in &folders {
        fs::create_dir_all(folder.join("a/b")).unwrap();
    }
    cgroup.remove().unwrap();
    assert!(left_behind(&format!("rkvm-{}", id("below"))).is_empty());
}

#[test]
fn device_rules_change_without_closing_what_stays_open() {
    let inhabited = inhabited("devices", r#"{"devices": [{"allow": false, "access": "rwm"}]}"#);
    let cgroup = &inhabited.cgroup;
    let json = r#"{"devices": [{"allow": true, "type": "b", "major": 7, "minor": 0, "access": "r"}]}"#;
    cgroup.update(&resources(json)).unwrap();
    cgroup.update(&resources("{}")).unwrap();
    if cgroup.v1().is_some() {
        let list = read(cgroup, "devices.list");
        assert!(list.lines().any(|line| line == "b 7:0 r") && list.contains("c 1:3 rwm"), "{list}");
    }
}

#[test]
fn a_cgroup_that_is_frozen_or_in_use_further_down_is_not_shared() {
    let again = |name: &str| {
        Cgroup::create(Some(Path::new(&format!("/rkvm-{}", id(name)))), "other", None)
            .unwrap_err()
            .to_string()
    };
    let frozen = Cgroup::create(None, &id("cold"), None).unwrap();
    frozen.freeze().unwrap();
    let error = again("cold");
    frozen.thaw().unwrap();
    frozen.remove().unwrap();
    assert!(error.contains("frozen"), "{error}");

    let below = Cgroup::create(Some(Path::new(&format!("/rkvm-{}/leaf", id("top")))), "x", None).unwrap();
    let process = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let inhabited = Inhabited { cgroup: below, process };
    inhabited.cgroup.add_process(inhabited.process.id() as i32).unwrap();
    let error = again("top");
    assert!(error.contains(&inhabited.process.id().to_string()), "{error}");
}
