//! The host's processes, as /proc shows them.

use std::fs;

/// Ids of all processes.
///
/// # Panics
/// There is no /proc.
pub fn processes() -> impl Iterator<Item = i32> {
    fs::read_dir("/proc")
        .expect("/proc")
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

/// Arguments of process `pid`, each with a NUL behind it; empty when it has ended.
pub fn arguments(pid: i32) -> String {
    String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default()).into_owned()
}

/// Ids of the children of process `parent`.
pub fn children(parent: i32) -> Vec<i32> {
    let parent_of = |pid: i32| -> Option<i32> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
    };
    processes().filter(|pid| parent_of(*pid) == Some(parent)).collect()
}
