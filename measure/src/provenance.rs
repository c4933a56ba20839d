//! Where figures come from.

use std::fs;
use std::path::Path;

use crate::fairness::{Host, mitigations};
use crate::model::Provenance;

/// How the names of kernel parameters begin that change how fast programs start or system calls are (the kernel's
/// admin-guide/kernel-parameters.rst). Reports are published: what else a host's command line says, such as paths, names, addresses and
/// arguments of its init, is nobody's business.
const TELLING: [&str; 46] = [
    "amd_",
    "apparmor",
    "audit",
    "cgroup",
    "clocksource",
    "console",
    "cpufreq",
    "cpuidle",
    "default_hugepagesz",
    "gather_data",
    "haltpoll",
    "hugepages",
    "idle",
    "intel_",
    "iommu",
    "isolcpus",
    "kpti",
    "kvm",
    "l1tf",
    "loglevel",
    "lsm",
    "maxcpus",
    "mds",
    "mem",
    "mitigations",
    "mmio_stale",
    "nested",
    "nohz",
    "nokaslr",
    "nopti",
    "nosmt",
    "nospec",
    "nr_cpus",
    "page_reporting",
    "preempt",
    "processor",
    "psi",
    "pti",
    "quiet",
    "rcu",
    "retbleed",
    "selinux",
    "spec",
    "systemd.unified_cgroup_hierarchy",
    "transparent_hugepage",
    "tsx",
];

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
        kernel_command_line: telling(&text("/proc/cmdline")),
        mitigations: mitigations(Path::new("/")),
        kvm: host.kvm.clone(),
        hypervisor: host.hypervisor.clone(),
        cgroup: host.cgroup.clone(),
        governor: host.governor.clone(),
        load_before: host.load,
        ..Provenance::default()
    }
}

/// The parameters of a kernel's command line that matter to figures, and how many others there are.
fn telling(command_line: &str) -> String {
    // Behind `--` are the arguments of init.
    let words = command_line.split_whitespace().take_while(|word| *word != "--");
    let (mut kept, others): (Vec<&str>, Vec<&str>) =
        words.partition(|word| TELLING.iter().any(|name| word.starts_with(name)));
    let rest = format!("({} others)", others.len());
    if !others.is_empty() {
        kept.push(&rest);
    }
    kept.join(" ")
}

/// The value of a line `name : value`.
fn value(text: &str, name: &str) -> String {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_once(':')).map(|(_, value)| value.trim().to_owned()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_command_line_only_what_matters_is_told() {
        let line = "BOOT_IMAGE=/vmlinuz root=UUID=1234 mitigations=off isolcpus=2,3 token=secret quiet -- --password secret";
        assert_eq!(telling(line), "mitigations=off isolcpus=2,3 quiet (3 others)");
        assert_eq!(telling("nopti"), "nopti");
        assert_eq!(telling(""), "");
    }
}
