//! Where figures come from.

use std::fs;
use std::path::Path;

use crate::fairness::{Host, mitigations};
use crate::model::Provenance;

/// The commit this program was built from; `None` in a build from an archive.
pub fn commit() -> Option<String> {
    Some(env!("RKVM_MEASURE_COMMIT")).filter(|commit| !commit.is_empty()).map(str::to_owned)
}

/// All that the host and the build tell of themselves; image, guest kernel and peers are added by the caller.
pub fn of_this_host(host: &Host, rkvm_version: &str) -> Provenance {
    let text = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    Provenance {
        rkvm_version: rkvm_version.to_owned(),
        rkvm_commit: commit(),
        rkvm_profile: if cfg!(debug_assertions) { "debug" } else { "release" }.to_owned(),
        cpu: value(&text("/proc/cpuinfo"), "model name"),
        cpus: std::thread::available_parallelism().map_or(0, usize::from),
        memory: value(&text("/proc/meminfo"), "MemTotal")
            .split(' ')
            .next()
            .and_then(|number| number.parse::<u64>().ok())
            .unwrap_or(0)
            * 1024,
        kernel: format!("{} {}", text("/proc/sys/kernel/osrelease"), text("/proc/sys/kernel/version")),
        kernel_command_line: text("/proc/cmdline"),
        mitigations: mitigations(Path::new("/")),
        kvm: host.kvm.clone(),
        hypervisor: host.hypervisor.clone(),
        cgroup: host.cgroup.clone(),
        governor: host.governor.clone(),
        load_before: host.load,
        ..Provenance::default()
    }
}

/// The value of a line `name : value`.
fn value(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}
