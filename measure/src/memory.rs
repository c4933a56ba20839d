//! Memory of groups of processes.

use std::collections::HashMap;
use std::fs;

/// Proportional set size of all descendants of `roots`, themselves included, bytes. Pages that several processes share are
/// divided among them (proc_pid_smaps(5)).
pub fn pss_of_trees(roots: &[i32]) -> u64 {
    trees(roots).into_iter().map(pss).sum()
}

/// All descendants of `roots`, themselves included.
pub fn trees(roots: &[i32]) -> Vec<i32> {
    let mut children: HashMap<i32, Vec<i32>> = HashMap::new();
    for pid in fs::read_dir("/proc").into_iter().flatten().flatten() {
        let Some(pid) = pid.file_name().to_str().and_then(|name| name.parse::<i32>().ok()) else { continue };
        if let Some(parent) = parent(pid) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let mut found: Vec<i32> = vec![];
    let mut next = roots.to_vec();
    while let Some(pid) = next.pop() {
        if !found.contains(&pid) {
            found.push(pid);
            next.extend(children.get(&pid).into_iter().flatten());
        }
    }
    found
}

/// proc_pid_stat(5): the second field after the name, which may hold anything, spaces and brackets too.
fn parent(pid: i32) -> Option<i32> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn pss(pid: i32) -> u64 {
    let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).unwrap_or_default();
    field(&rollup, "Pss:") * 1024
}

/// The host's `MemAvailable`, bytes.
pub fn available() -> u64 {
    field(&fs::read_to_string("/proc/meminfo").unwrap_or_default(), "MemAvailable:") * 1024
}

/// A number of KiB; 0 when it is not there.
fn field(text: &str, name: &str) -> u64 {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.and_then(|rest| rest.split_whitespace().next()?.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_tree_holds_its_children_and_their_memory() {
        let mut child = std::process::Command::new("sleep").arg("100").spawn().unwrap();
        let (me, its) = (std::process::id() as i32, child.id() as i32);
        assert!(trees(&[me]).contains(&its));
        assert_eq!(trees(&[its]), [its]);
        assert!(pss_of_trees(&[me]) > pss_of_trees(&[its]));
        assert!(available() > 1 << 20);
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
