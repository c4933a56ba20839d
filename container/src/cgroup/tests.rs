use std::process::{Child, Command, Stdio};

use oci_spec::runtime::{LinuxPidsBuilder, LinuxResourcesBuilder};

use super::*;

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

fn inhabited(name: &str, resources: &LinuxResources) -> Inhabited {
    let id = format!("test-{name}-{}", std::process::id());
    let cgroup = Cgroup::create(None, &id, Some(resources)).unwrap();
    let process = Command::new("sleep").arg("1000").stdin(Stdio::null()).spawn().unwrap();
    let inhabited = Inhabited { cgroup, process };
    inhabited.cgroup.add_process(inhabited.process.id() as i32).unwrap();
    inhabited
}

#[test]
fn a_process_is_found_frozen_counted_and_ended() {
    let pids = LinuxPidsBuilder::default().limit(7).build().unwrap();
    let resources = LinuxResourcesBuilder::default().pids(pids).build().unwrap();
    let mut inhabited = inhabited("life", &resources);
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
}
