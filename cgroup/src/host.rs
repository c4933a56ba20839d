//! Which cgroup hierarchies this host has mounted, and where.

use std::collections::HashSet;
use std::fs;
use std::path::PathBuf;

use nix::sys::statfs::{CGROUP2_SUPER_MAGIC, statfs};
use rkvm_oci::{Error, Result};

/// Where cgroups are mounted by convention; a cgroup2 file system here means the host is purely v2.
const CONVENTION: &str = "/sys/fs/cgroup";

/// A mounted v1 hierarchy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct V1Mount {
    /// Its controllers as the kernel lists them: `memory`, `cpu,cpuacct`, `name=systemd`.
    pub controllers: String,
    /// Its mount point.
    pub mount: PathBuf,
}

/// All mounted hierarchies.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    /// v1 hierarchies, each once, in the order in which they were mounted.
    pub v1: Vec<V1Mount>,
    /// Mount point of the unified hierarchy.
    pub v2: Option<PathBuf>,
}

/// Whether the unified hierarchy is mounted at /sys/fs/cgroup, as on a host without v1.
pub fn is_unified() -> bool {
    statfs(CONVENTION).is_ok_and(|stat| stat.filesystem_type() == CGROUP2_SUPER_MAGIC)
}

/// Finds the mounted hierarchies: one `statfs` on a v2 host, one read of mountinfo on the others.
///
/// # Errors
/// No hierarchy is mounted, or mountinfo cannot be read.
pub(super) fn discover() -> Result<Mounts> {
    if is_unified() {
        return Ok(Mounts { v1: vec![], v2: Some(CONVENTION.into()) });
    }
    let text = fs::read_to_string("/proc/self/mountinfo")
        .map_err(|source| Error::failed("read", "/proc/self/mountinfo", source))?;
    let mounts = parse(&text);
    if mounts.v1.is_empty() && mounts.v2.is_none() {
        return Err(Error::unsupported(
            "linux.resources",
            "no cgroup hierarchy is mounted; `mount -t cgroup2 none /sys/fs/cgroup` mounts the unified one",
        ));
    }
    Ok(mounts)
}

/// Reads the format of proc_pid_mountinfo(5). The first mount of each hierarchy counts: the others are bind mounts,
/// those of containers among them.
fn parse(mountinfo: &str) -> Mounts {
    let mut mounts = Mounts::default();
    let mut seen = HashSet::new();
    for line in mountinfo.lines() {
        // Fields before the separator: id, parent, device, root, mount point, options, optional fields.
        // After it: type, source, super options.
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let kind = right.next().unwrap_or_default();
        if kind != "cgroup" && kind != "cgroup2" {
            continue;
        }
        let mut left = left.split(' ').skip(2);
        let (Some(device), Some(_root), Some(mount)) = (left.next(), left.next(), left.next()) else {
            continue;
        };
        if !seen.insert(device) {
            continue;
        }
        let mount = PathBuf::from(unescape(mount));
        if kind == "cgroup2" {
            mounts.v2.get_or_insert(mount);
            continue;
        }
        let controllers: Vec<&str> = right
            .nth(1)
            .unwrap_or_default()
            .split(',')
            .filter(|option| CONTROLLERS.contains(option) || option.starts_with("name="))
            .collect();
        mounts.v1.push(V1Mount { controllers: controllers.join(","), mount });
    }
    mounts
}

/// Names of v1 controllers, to tell them from mount options.
const CONTROLLERS: [&str; 14] = [
    "blkio",
    "cpu",
    "cpuacct",
    "cpuset",
    "debug",
    "devices",
    "freezer",
    "hugetlb",
    "memory",
    "misc",
    "net_cls",
    "net_prio",
    "perf_event",
    "pids",
];

/// Undoes the octal escapes of mountinfo (space, tab, newline, backslash).
fn unescape(text: &str) -> String {
    let mut plain = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        plain.push_str(&rest[..at]);
        let code = rest.get(at + 1..at + 4).and_then(|octal| u8::from_str_radix(octal, 8).ok());
        match code {
            Some(code) => {
                plain.push(char::from(code));
                rest = &rest[at + 4..];
            }
            None => {
                plain.push('\\');
                rest = &rest[at + 1..];
            }
        }
    }
    plain.push_str(rest);
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    const HYBRID: &str = "\
31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755
32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw,relatime shared:9 - cgroup cgroup rw,cpu,cpuacct
36 31 0:33 / /sys/fs/cgroup/my\\040devices rw,relatime - cgroup cgroup rw,devices
40 31 0:37 / /sys/fs/cgroup/systemd rw,relatime - cgroup cgroup rw,xattr,name=systemd
41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw,nsdelegate
99 31 0:29 /docker/x /other/cgroup/cpu rw,relatime - cgroup cgroup rw,cpu,cpuacct
";

    #[test]
    fn a_hybrid_host_has_each_hierarchy_once() {
        let mounts = parse(HYBRID);
        let found: Vec<_> =
            mounts.v1.iter().map(|one| (one.controllers.as_str(), one.mount.to_str().unwrap())).collect();
        assert_eq!(
            found,
            [
                ("cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
                ("devices", "/sys/fs/cgroup/my devices"),
                ("name=systemd", "/sys/fs/cgroup/systemd"),
            ]
        );
        assert_eq!(mounts.v2, Some("/sys/fs/cgroup/unified".into()));
    }

    #[test]
    fn a_backslash_that_escapes_nothing_stays() {
        assert_eq!(unescape("a\\134b\\x"), "a\\b\\x");
    }
}
