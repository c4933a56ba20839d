//! What this host is and can do.

use std::fmt;
use std::fs;
use std::path::Path;

use serde::Serialize;

#[cfg(test)]
mod tests;

/// The machine's architecture in Go's words, which images use.
pub fn go_architecture() -> &'static str {
    match std::env::consts::ARCH {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

/// The kernel's release, e.g. `6.1.0-13-amd64`.
pub fn kernel_release() -> String {
    read_trimmed("/proc/sys/kernel/osrelease")
}

/// The distribution, e.g. `Debian GNU/Linux 12 (bookworm)`.
pub fn operating_system() -> String {
    let text = read_trimmed("/etc/os-release");
    let name = text.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
    name.unwrap_or("unknown").trim_matches('"').to_owned()
}

/// The machine's memory, bytes; 0 when it is not known.
pub fn memory_bytes() -> u64 {
    let text = read_trimmed("/proc/meminfo");
    let line = text.lines().find_map(|line| line.strip_prefix("MemTotal:"));
    let kibibytes = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
    kibibytes.unwrap_or(0) * 1024
}

/// How cgroups are mounted below /sys/fs/cgroup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum CgroupMode {
    /// One tree for each controller.
    V1,
    /// One tree.
    V2,
    /// One tree for each controller, and the single tree for processes only.
    Hybrid,
    /// Not at all.
    None,
}

impl CgroupMode {
    /// That of this host.
    pub fn of_this_host() -> Self {
        Self::of(Path::new("/sys/fs/cgroup"))
    }

    fn of(root: &Path) -> Self {
        let has = |name: &str| root.join(name).exists();
        match (has("cgroup.controllers"), has("unified/cgroup.controllers"), has("memory") || has("cpu")) {
            (true, ..) => Self::V2,
            (_, true, _) => Self::Hybrid,
            (.., true) => Self::V1,
            _ => Self::None,
        }
    }
}

impl fmt::Display for CgroupMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::V1 => "v1",
            Self::V2 => "v2",
            Self::Hybrid => "hybrid",
            Self::None => "none",
        })
    }
}

/// Names of the cgroup controllers that can be used.
pub fn cgroup_controllers(mode: CgroupMode) -> Vec<String> {
    match mode {
        CgroupMode::V2 => {
            read_trimmed("/sys/fs/cgroup/cgroup.controllers").split_whitespace().map(str::to_owned).collect()
        }
        CgroupMode::V1 | CgroupMode::Hybrid => {
            let text = read_trimmed("/proc/cgroups");
            let names = text.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
                // cgroups(7): name, hierarchy (0 when it is mounted nowhere), cgroups, enabled.
                let mut fields = line.split_whitespace();
                let (name, hierarchy) = (fields.next()?, fields.next()?);
                (hierarchy != "0" && fields.nth(1) == Some("1")).then(|| name.to_owned())
            });
            names.collect()
        }
        CgroupMode::None => vec![],
    }
}

/// Kinds of namespaces that the kernel has: `cgroup`, `ipc`, `mnt`, ...
pub fn namespaces() -> Vec<String> {
    let entries = fs::read_dir("/proc/self/ns").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let mut names: Vec<_> = names.filter(|name| !name.ends_with("_for_children")).collect();
    names.sort();
    names
}

/// What protects containers beside namespaces, in Docker's words.
pub fn security_options() -> Vec<String> {
    let mut options = vec![];
    if Path::new("/proc/sys/kernel/seccomp/actions_avail").exists() {
        options.push("name=seccomp,profile=builtin".to_owned());
    }
    let modules = read_trimmed("/sys/kernel/security/lsm");
    for module in modules.split(',').filter(|module| matches!(*module, "apparmor" | "selinux")) {
        options.push(format!("name={module}"));
    }
    if read_trimmed("/proc/sys/user/max_user_namespaces").parse::<u64>().is_ok_and(|count| count > 0) {
        options.push("name=userns".to_owned());
    }
    options.push("name=cgroupns".to_owned());
    options
}

/// Whether the kernel has a file system, loaded.
pub fn has_filesystem(name: &str) -> bool {
    read_trimmed("/proc/filesystems").lines().any(|line| line.split_whitespace().last() == Some(name))
}

/// Type of the file system on which `path`, or what of it exists, lies: `ext4`.
pub fn filesystem_of(path: &Path) -> String {
    let existing = path.ancestors().find_map(|path| fs::canonicalize(path).ok()).unwrap_or_default();
    type_at(&read_trimmed("/proc/self/mountinfo"), &existing)
}

/// proc_pid_mountinfo(5): the fifth field is the mount point, the first after ` - ` the type; of several mounts at one place
/// the last is visible.
fn type_at(mountinfo: &str, path: &Path) -> String {
    let mount = |line: &str| {
        let (left, right) = line.split_once(" - ")?;
        let point = left.split(' ').nth(4)?.replace("\\040", " ");
        let kind = right.split(' ').next()?.to_owned();
        path.starts_with(&point).then_some((Path::new(&point).components().count(), kind))
    };
    let deepest = mountinfo.lines().filter_map(mount).max_by_key(|(depth, _)| *depth);
    deepest.map_or_else(|| "unknown".to_owned(), |(_, kind)| kind)
}

/// What this host offers to microVMs, and what they will boot. Only the command line knows who to ask.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machines {
    /// What /dev/kvm offers.
    pub kvm: Kvm,
    /// What a microVM boots unless it is told otherwise.
    pub guest: Guest,
}

/// What /dev/kvm offers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Kvm {
    /// How virtual machines are run.
    pub kind: KvmKind,
    /// The same in words, or what is missing and what to do about it.
    pub reason: String,
}

/// How virtual machines are run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum KvmKind {
    /// By an Intel processor (VT-x).
    Intel,
    /// By an AMD processor (SVM).
    Amd,
    /// By another processor.
    Hardware,
    /// By page tables that the host's kernel keeps (module kvm_pvm).
    Pvm,
    /// Not at all.
    None,
}

impl fmt::Display for KvmKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Intel => "Intel",
            Self::Amd => "AMD",
            Self::Hardware => "hardware",
            Self::Pvm => "PVM",
            Self::None => "none",
        })
    }
}

/// What a microVM boots.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Guest {
    /// Path of the kernel; empty when there is none.
    pub kernel: String,
    /// Path of the initramfs; empty when there is none.
    pub initramfs: String,
    /// Why there is none; empty when there is.
    pub reason: String,
}

impl fmt::Display for Guest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.reason.is_empty() {
            write!(f, "{} with {}", self.kernel, self.initramfs)
        } else {
            f.write_str(&self.reason)
        }
    }
}

/// A small file's text without the space around it; empty when it cannot be read.
pub(crate) fn read_trimmed(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}
