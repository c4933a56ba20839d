//! Capabilities: Docker's default set, `--cap-add`, `--cap-drop`, `--privileged`.

use std::collections::{BTreeSet, HashSet};

use oci_spec::runtime::{Capability, LinuxCapabilities};
use rkvm_oci::capability::NAMES;

use crate::error::{Error, Result};
use crate::record::Security;

/// Docker's default set.
const DEFAULT: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Docker's default set.
pub fn default_capabilities() -> &'static [&'static str] {
    &DEFAULT
}

/// The full name of a capability given as `NET_ADMIN`, `cap_net_admin` or `ALL`.
///
/// # Errors
/// There is no such capability.
pub fn parse(text: &str) -> Result<String> {
    let upper = text.to_ascii_uppercase();
    if upper == "ALL" {
        return Ok(upper);
    }
    let name = if upper.starts_with("CAP_") { upper } else { format!("CAP_{upper}") };
    if NAMES.contains(&name.as_str()) {
        return Ok(name);
    }
    Err(Error::Invalid {
        what: "capability",
        value: text.to_owned(),
        reason: "no such capability; capabilities(7) lists them, e.g. NET_ADMIN, or ALL".to_owned(),
    })
}

/// The capabilities of a container, sorted by name. `own_user_namespace`: those that the host kept from us are ours inside.
pub fn names(security: &Security, own_user_namespace: bool) -> Vec<String> {
    let available = available(own_user_namespace);
    let all = || available.iter().copied();
    let mut set: BTreeSet<&str> = if security.privileged {
        all().collect()
    } else if security.cap_drop.iter().any(|name| name == "ALL") {
        BTreeSet::new()
    } else {
        DEFAULT.into_iter().collect()
    };
    // As Docker: what is added by name survives `--cap-drop ALL`, what is dropped by name is dropped from `--cap-add ALL`.
    if security.cap_add.iter().any(|name| name == "ALL") {
        set.extend(all());
    }
    set.extend(security.cap_add.iter().map(String::as_str).filter(|name| *name != "ALL"));
    for name in &security.cap_drop {
        if !security.cap_add.contains(name) {
            set.remove(name.as_str());
        }
    }
    set.into_iter().map(str::to_owned).collect()
}

fn available(own_user_namespace: bool) -> Vec<&'static str> {
    let bounding = std::fs::read_to_string("/proc/self/status").ok().and_then(|status| {
        let line = status.lines().find_map(|line| line.strip_prefix("CapBnd:"))?;
        u64::from_str_radix(line.trim(), 16).ok()
    });
    let known = std::fs::read_to_string("/proc/sys/kernel/cap_last_cap")
        .ok()
        .and_then(|last| last.trim().parse::<usize>().ok())
        .unwrap_or(NAMES.len() - 1);
    let mask = if own_user_namespace { u64::MAX } else { bounding.unwrap_or(u64::MAX) };
    NAMES
        .into_iter()
        .enumerate()
        .filter(|(number, _)| *number <= known && mask & (1 << number) != 0)
        .map(|(_, name)| name)
        .collect()
}

/// The sets for a process: everything for root, only the bounding set for another user (execve would clear the rest anyway).
pub fn sets(names: &[String], root: bool) -> LinuxCapabilities {
    let all: HashSet<Capability> =
        names.iter().filter_map(|name| name.strip_prefix("CAP_").unwrap_or(name).parse().ok()).collect();
    let own = if root { all.clone() } else { HashSet::new() };
    let mut sets = LinuxCapabilities::default();
    sets.set_bounding(Some(all));
    sets.set_effective(Some(own.clone()));
    sets.set_permitted(Some(own));
    sets.set_inheritable(Some(HashSet::new()));
    sets.set_ambient(Some(HashSet::new()));
    sets
}
