//! The leak check: processes, mounts, links, cgroups, packet filter rules and files that carry a sandbox's marks.
//!
//! Only what carries the marks is counted, so that tests can run in parallel and beside a working engine.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::processes::processes;
use crate::sandbox::PREFIX;

/// What tells a sandbox's things from others.
#[derive(Debug, Clone)]
pub(crate) struct Marks {
    /// Name of its folder.
    pub(crate) tag: String,
    /// Ids of its engine containers.
    pub(crate) ids: BTreeSet<String>,
    /// Name of its bridge and of its table.
    pub(crate) network: String,
    /// Its engine root.
    pub(crate) root: PathBuf,
    /// Its OCI state store.
    pub(crate) oci_root: PathBuf,
}

impl Marks {
    fn in_text(&self, text: &str) -> bool {
        // `rkvmt-1-1` must not claim what is `rkvmt-1-10`'s.
        let tagged = text.match_indices(&self.tag).any(|(start, tag)| {
            !text[start + tag.len()..].starts_with(|next: char| next.is_ascii_hexdigit())
        });
        tagged || text.contains(&self.network) || self.ids.iter().any(|id| text.contains(id.as_str()))
    }

    /// Folders that hold the cgroups of the sandbox's bundles: the tests' own, so their removal is no leak check's
    /// business.
    pub(crate) fn cgroup_parents(&self) -> Vec<PathBuf> {
        let mut found = vec![];
        for top in hierarchies() {
            walk_folders(&top, &mut |path| {
                if path.ends_with(&self.tag) {
                    found.push(path.to_owned());
                }
            });
        }
        found
    }
}

/// What was found.
#[derive(Debug, Clone, Default)]
pub struct Leaks {
    /// Processes.
    pub pids: Vec<i32>,
    /// Mount points in this mount namespace.
    pub mounts: Vec<PathBuf>,
    /// Network links in this network namespace.
    pub links: Vec<String>,
    /// Cgroup folders.
    pub cgroups: Vec<PathBuf>,
    /// nftables tables (`family name`).
    pub tables: Vec<String>,
    /// Everything, one line each, for people.
    lines: Vec<String>,
}

impl Leaks {
    /// Whether nothing was found.
    pub fn is_empty(&self) -> bool {
        self.lines.is_empty()
    }

    /// Each leftover in words.
    pub fn lines(&self) -> &[String] {
        &self.lines
    }

    pub(crate) fn find(marks: &Marks) -> Self {
        let mut leaks = Self::default();
        leaks.find_processes_and_their_mounts(marks);
        leaks.find_mounts(marks);
        leaks.find_links(marks);
        leaks.find_cgroups(marks);
        leaks.find_rules(marks);
        leaks.find_files(marks);
        leaks
    }

    fn find_processes_and_their_mounts(&mut self, marks: &Marks) {
        let own = std::process::id() as i32;
        let own_mounts = namespace(own, "mnt");
        let mut foreign: BTreeMap<u64, String> = BTreeMap::new();
        for pid in processes().filter(|pid| *pid != own) {
            let file = |name: &str| {
                let bytes = fs::read(format!("/proc/{pid}/{name}")).unwrap_or_default();
                String::from_utf8_lossy(&bytes).replace('\0', " ")
            };
            let link = |name: &str| {
                fs::read_link(format!("/proc/{pid}/{name}"))
                    .map(|path| path.display().to_string())
                    .unwrap_or_default()
            };
            let mounts = namespace(pid, "mnt");
            let mountinfo =
                if mounts.is_some() && mounts != own_mounts { file("mountinfo") } else { String::new() };
            let named =
                [file("cmdline"), file("environ"), file("cgroup"), link("cwd"), link("exe"), link("root")];
            let is_ours = named.iter().any(|text| marks.in_text(text));
            let is_anothers = !is_ours && named.iter().any(|text| text.contains(PREFIX));
            let holds_mount = mountinfo.lines().find(|line| marks.in_text(line));
            if is_ours {
                self.pids.push(pid);
                let state = file("stat");
                let state = state.rsplit(") ").next().and_then(|rest| rest.chars().next()).unwrap_or('?');
                self.lines.push(format!("process {pid} ({state}): {}", named[0].trim()));
            } else if let (Some(line), Some(inode), false) = (holds_mount, mounts, is_anothers) {
                // Another sandbox's fresh mount namespace is a copy of the host's, ours in it included: not counted.
                foreign.entry(inode).or_insert_with(|| {
                    format!("mount in the namespace of process {pid} ({}): {line}", file("comm").trim())
                });
            }
        }
        self.lines.extend(foreign.into_values());
    }

    fn find_mounts(&mut self, marks: &Marks) {
        let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        for line in mountinfo.lines().filter(|line| marks.in_text(line)) {
            let point = line.split(' ').nth(4).unwrap_or_default().replace("\\040", " ");
            self.lines.push(format!("mount on {point}: {line}"));
            self.mounts.push(point.into());
        }
    }

    fn find_links(&mut self, marks: &Marks) {
        let output = Command::new("ip").args(["-d", "-o", "link", "show"]).output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        for line in text.lines().filter(|line| marks.in_text(line)) {
            let name = line.split(": ").nth(1).unwrap_or_default();
            let name = name.split('@').next().unwrap_or_default();
            self.links.push(name.to_owned());
            // The bridge outlives containers, like its table: it belongs to the engine's root.
            if name != marks.network {
                self.lines.push(format!("link {name}"));
            }
        }
    }

    fn find_cgroups(&mut self, marks: &Marks) {
        for top in hierarchies() {
            let mut found = vec![];
            walk_folders(&top, &mut |path| {
                let inside = path.strip_prefix(&top).unwrap_or(path).display().to_string();
                // The sandbox's parent cgroup is the test's own; what is in it is the runtime's.
                if !path.ends_with(&marks.tag) && marks.in_text(&inside) {
                    found.push(path.to_owned());
                }
            });
            self.lines.extend(found.iter().map(|path| format!("cgroup {}", path.display())));
            self.cgroups.extend(found);
        }
    }

    fn find_rules(&mut self, marks: &Marks) {
        let output = Command::new("nft").args(["list", "ruleset"]).output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        let mut table = "";
        for line in text.lines() {
            if let Some(name) = line.strip_prefix("table ") {
                table = name.trim_end_matches(" {");
            }
            let own_table = table.ends_with(&marks.network);
            // What is in the root's own table from its beginning names no port; what a container adds does.
            let is_leftover = if own_table {
                line.contains("elements =") || line.contains("dnat to")
            } else {
                marks.in_text(line)
            };
            if is_leftover {
                self.lines.push(format!("rule in table {table}: {}", line.trim()));
            }
            if (is_leftover || own_table) && !self.tables.iter().any(|known| known == table) {
                self.tables.push(table.to_owned());
            }
        }
    }

    fn find_files(&mut self, marks: &Marks) {
        // Images, volumes and the network's subnet outlive containers on purpose; empty folders hold nothing.
        let kept = ["lib/images", "lib/volumes", "lib/net/network.json"].map(|path| marks.root.join(path));
        let mut files = vec![];
        for top in [&marks.root, &marks.oci_root] {
            walk_files(top, &kept, &mut files);
        }
        for folder in [
            "/tmp",
            "/run",
            "/dev/shm",
            "/var/lib/rkvm",
            "/run/rkvm",
            "/run/netns",
            "/var/lib/rkvm/containers",
        ] {
            let entries = fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
            let is_ours = |path: &PathBuf| {
                let name = path.file_name().unwrap_or_default().to_string_lossy();
                name != marks.tag.as_str() && marks.in_text(&name)
            };
            files.extend(entries.filter(is_ours));
        }
        self.lines.extend(files.iter().map(|path| format!("file {}", path.display())));
    }
}

impl fmt::Display for Leaks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.lines.iter().try_for_each(|line| writeln!(f, "  {line}"))
    }
}

/// Inode of a process's namespace.
fn namespace(pid: i32, kind: &str) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|data| data.ino())
}

/// Top folder of every mounted cgroup hierarchy.
fn hierarchies() -> Vec<PathBuf> {
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
    let is_cgroup = |line: &&str| line.contains(" - cgroup ") || line.contains(" - cgroup2 ");
    let point = |line: &str| line.split(' ').nth(4).map(PathBuf::from);
    mountinfo.lines().filter(is_cgroup).filter_map(point).collect()
}

/// Calls `visit` for every folder below `top`, parents first.
fn walk_folders(top: &Path, visit: &mut impl FnMut(&Path)) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            visit(&entry.path());
            walk_folders(&entry.path(), visit);
        }
    }
}

/// Collects everything below `top` that is not a folder, except in `kept`.
fn walk_files(top: &Path, kept: &[PathBuf], files: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(top).into_iter().flatten().flatten() {
        let path = entry.path();
        if kept.contains(&path) {
            continue;
        }
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            walk_files(&path, kept, files);
        } else {
            files.push(path);
        }
    }
}
