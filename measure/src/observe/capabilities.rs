//! Which capabilities the kernel asked a workload for: its own trace event `cap_capable` (Linux 6.14 and later).

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};

/// How often the kernel asked for a capability.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Asked {
    /// It was there, over what belongs to the workload's own user namespace.
    pub granted: u64,
    /// It was not.
    pub refused: u64,
    /// It was asked for over what belongs to the host, and was not there.
    pub refused_by_host: u64,
}

/// A trace of this process' children.
#[derive(Debug)]
pub struct Trace {
    instance: PathBuf,
}

/// Begins the names of our trace instances.
const PREFIX: &str = "rkvm-advise-";

impl Trace {
    /// Begins to trace whatever the calling thread starts from now on.
    ///
    /// # Errors
    /// What keeps it from being traced, in words for the user.
    pub fn begin() -> std::result::Result<Self, String> {
        let roots = ["/sys/kernel/tracing", "/sys/kernel/debug/tracing"].map(Path::new);
        let root = roots.into_iter().find(|root| root.join("instances").is_dir());
        let root = root.ok_or("tracefs is not mounted (mount -t tracefs none /sys/kernel/tracing)")?;
        if !root.join("events/capability/cap_capable").is_dir() {
            return Err("this kernel has no trace event cap_capable (Linux 6.14 has)".to_owned());
        }
        forget_dead(root);
        let trace = Self { instance: root.join("instances").join(format!("{PREFIX}{}", std::process::id())) };
        trace.switch_on().and_then(|()| trace.mark()).map_err(|error| error.with_causes())?;
        Ok(trace)
    }

    fn switch_on(&self) -> Result<()> {
        fs::create_dir(&self.instance).map_err(|error| Error::file("create", &self.instance, error))?;
        for (file, text) in [
            ("trace_clock", "mono".to_owned()),
            ("buffer_size_kb", "4096".to_owned()),
            ("options/event-fork", "1".to_owned()),
            ("set_event_pid", nix::unistd::gettid().to_string()),
            ("events/capability/cap_capable/enable", "1".to_owned()),
        ] {
            let path = self.instance.join(file);
            fs::write(&path, text).map_err(|error| Error::file("write", path, error))?;
        }
        Ok(())
    }

    /// Makes the kernel ask this thread for CAP_CHOWN, so that the trace tells which user namespace is the host's.
    fn mark(&self) -> Result<()> {
        let path = std::env::temp_dir().join(format!("{PREFIX}{}", std::process::id()));
        let fail = |error| Error::file("change the owner of", &path, error);
        fs::File::create_new(&path).map_err(fail)?;
        let changed = std::os::unix::fs::chown(&path, Some(1), None).map_err(fail);
        let _ = fs::remove_file(&path);
        changed
    }

    /// Ends it: what was asked of `tasks` from `began_ns` (CLOCK_MONOTONIC) on, by the capability's number.
    ///
    /// # Errors
    /// What keeps it from being told, in words for the user.
    pub fn finish(
        self,
        tasks: &BTreeSet<u32>,
        began_ns: u64,
    ) -> std::result::Result<BTreeMap<u32, Asked>, String> {
        let path = self.instance.join("trace");
        let text = fs::read(&path).map_err(|error| Error::file("read", path, error).with_causes())?;
        let own = nix::unistd::gettid().as_raw() as u32;
        parse(&String::from_utf8_lossy(&text), own, tasks, began_ns)
    }
}

impl Drop for Trace {
    fn drop(&mut self) {
        let _ = fs::write(self.instance.join("events/enable"), "0");
        let _ = fs::remove_dir(&self.instance);
    }
}

/// Removes instances of processes that were killed.
fn forget_dead(root: &Path) {
    let entries = fs::read_dir(root.join("instances")).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let pid = name.to_str().and_then(|name| name.strip_prefix(PREFIX));
        if pid.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            let _ = fs::write(entry.path().join("events/enable"), "0");
            let _ = fs::remove_dir(entry.path());
        }
    }
}

/// One question of the kernel's.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Question<'a> {
    pid: u32,
    seconds: f64,
    cap: u32,
    is_granted: bool,
    /// The user namespace that what is asked about belongs to.
    namespace: &'a str,
}

/// Lines are `NAME-PID [CPU] FLAGS SECONDS: cap_capable: cred P, target_ns P, capable_ns P, cap N, ret N`.
fn question(line: &str) -> Option<Question<'_>> {
    let (head, event) = line.split_once(": cap_capable: ")?;
    let (task, rest) = head.split_once(" [")?;
    let field = |name: &str| event.split(", ").find_map(|field| field.trim().strip_prefix(name));
    Some(Question {
        pid: task.trim_end().rsplit('-').next()?.parse().ok()?,
        seconds: rest.split_whitespace().last()?.parse().ok()?,
        cap: field("cap ")?.parse().ok()?,
        is_granted: field("ret ")? == "0",
        namespace: field("target_ns ")?,
    })
}

fn parse(
    text: &str,
    own: u32,
    tasks: &BTreeSet<u32>,
    began_ns: u64,
) -> std::result::Result<BTreeMap<u32, Asked>, String> {
    let questions = || text.lines().filter_map(question);
    let host = questions().find(|one| one.pid == own).map(|one| one.namespace);
    let host = host.ok_or("the trace does not tell which user namespace is the host's")?;
    // The trace's clock has microseconds.
    let mine = || {
        questions().filter(|one| tasks.contains(&one.pid) && one.seconds * 1e9 + 1000.0 >= began_ns as f64)
    };
    if mine().next().is_some() && mine().all(|one| one.namespace == host) {
        return Err("it shares the host's user namespace, where what the kernel asks for its own work on its behalf (overlayfs) looks the same".to_owned());
    }
    let mut asked: BTreeMap<u32, Asked> = BTreeMap::new();
    for one in mine() {
        match (one.is_granted, one.namespace == host) {
            // The kernel itself, which works on overlayfs with the mounter's rights.
            (true, true) => {}
            (true, false) => asked.entry(one.cap).or_default().granted += 1,
            (false, false) => asked.entry(one.cap).or_default().refused += 1,
            (false, true) => asked.entry(one.cap).or_default().refused_by_host += 1,
        }
    }
    Ok(asked)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(task: &str, seconds: &str, namespace: &str, cap: u32, result: i32) -> String {
        format!(
            "{task} [001] ..... {seconds}: cap_capable: cred 01, target_ns {namespace}, capable_ns 00, cap {cap}, ret {result}\n"
        )
    }

    #[test]
    fn a_trace_is_counted_by_task_time_and_namespace() {
        let text = [
            "# tracer: nop\n#\n".to_owned(),
            line("rkvm-7", "9.000000", "aa", 0, 0),
            line("a b-c-42", "10.500000", "bb", 21, 0),
            line("nginx-42     ", "11.000001", "aa", 21, -1),
            line("nginx-42     ", "11.000001", "bb", 5, -1),
            line("nginx-42     ", "11.000002", "aa", 1, 0),
            line("nginx-42     ", "9.000001", "bb", 1, 0),
            line("other-43     ", "12.000001", "bb", 2, 0),
        ]
        .concat();
        let tasks = BTreeSet::from([42]);
        let asked = parse(&text, 7, &tasks, 10_000_000_000).unwrap();
        let wanted = [
            (5, Asked { refused: 1, ..Asked::default() }),
            (21, Asked { granted: 1, refused_by_host: 1, refused: 0 }),
        ];
        assert_eq!(asked, BTreeMap::from(wanted));
        assert!(parse(&text, 8, &tasks, 0).is_err());
        let shared = line("rkvm-7", "9.0", "aa", 0, 0) + &line("x-42", "11.0", "aa", 1, 0);
        assert!(parse(&shared, 7, &tasks, 10_000_000_000).is_err());
    }
}
