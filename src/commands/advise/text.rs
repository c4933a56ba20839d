//! The advice: a table, and its reasons.

use std::fmt::Write;

use rkvm_engine::host::kernel_release;
use rkvm_measure::observe::Calls;
use rkvm_measure::probe::Probe;
use rkvm_oci::capability;

use super::Order;
use super::trial::{Process, Trial, Watched};

/// Calls through which programs without privileges have reached bugs of kernels again and again.
const EXPOSED: [&str; 22] = [
    "add_key", "bpf", "fsconfig", "fsmount", "fsopen", "io_uring_enter", "io_uring_setup", "kexec_load", "keyctl",
    "modify_ldt", "mount", "move_mount", "open_by_handle_at", "open_tree", "perf_event_open", "process_vm_readv",
    "process_vm_writev", "ptrace", "request_key", "setns", "unshare", "userfaultfd",
];

/// Everything that was seen, and what follows from it.
pub fn advice(order: &Order, watched: &Watched, container: &Trial, vm: &Trial) -> String {
    let mut out = String::new();
    table(&mut out, order, watched, container, vm);
    let mut section = |title: &str, reasons: Vec<String>| {
        if !reasons.is_empty() {
            let _ = writeln!(out, "\n{title}");
            reasons.iter().for_each(|reason| {
                let _ = writeln!(out, "  - {reason}");
            });
        }
    };
    section("What a container protects against", container_protects(watched, container));
    section("What a vm protects against", vm_protects(watched, vm));
    section("What it costs here", costs(container, vm));
    section("What would break", breaks(order, watched, container, vm));
    section("What was not observed", unobserved(order, watched, container, vm));
    out
}

fn table(out: &mut String, order: &Order, watched: &Watched, container: &Trial, vm: &Trial) {
    let observed = &watched.observed;
    let kinds = format!("{} kinds, {} calls", observed.calls.len(), observed.total());
    let seen = |text: String| if observed.began_ns.is_some() { text } else { "not observed".to_owned() };
    let list = |items: Vec<String>| if items.is_empty() { "none".to_owned() } else { items.join(", ") };
    let set = |set: &std::collections::BTreeSet<String>| list(set.iter().cloned().collect());
    let unseen = || "not observed in the guest".to_owned();
    let rows: Vec<[String; 3]> = vec![
        ["".into(), "container".into(), "vm".into()],
        ["outcome".into(), outcome(order, container), outcome(order, vm)],
        ["start".into(), start(container), start(vm)],
        ["memory, peak".into(), peak(container), peak(vm)],
        ["seen by the host as".into(), process(container), process(vm)],
        [
            "kernel it calls".into(),
            format!("the host's, Linux {}", kernel_release()),
            if vm.outcome.is_ok() { "its own, in the guest".into() } else { "not observed".into() },
        ],
        ["system calls".into(), seen(kinds), unseen()],
        [
            "refused calls".into(),
            seen(list(observed.refused().into_iter().map(str::to_owned).collect())),
            unseen(),
        ],
        ["capabilities".into(), capabilities(watched), unseen()],
        ["tried to open devices".into(), seen(set(&observed.devices)), unseen()],
        ["tried to mount".into(), seen(set(&observed.mounts)), unseen()],
        ["asked for namespaces".into(), seen(set(&observed.namespaces)), unseen()],
        ["asked for sockets".into(), seen(set(&observed.families)), unseen()],
        ["tried to bind".into(), seen(set(&observed.bound)), unseen()],
        ["tried to connect to".into(), seen(set(&observed.connected)), unseen()],
        ["programs executed".into(), seen(set(&observed.programs)), unseen()],
    ];
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max().unwrap_or(0);
    let (first, second) = (width(0), width(1).min(60));
    for [name, left, right] in rows {
        let mut lines = wrap(&left, 60).into_iter();
        let mut others = wrap(&right, 60).into_iter();
        let mut name = name;
        loop {
            let (left, right) = (lines.next(), others.next());
            if left.is_none() && right.is_none() {
                break;
            }
            let line = format!("{name:first$}  {:second$}  {}", left.unwrap_or_default(), right.unwrap_or_default());
            let _ = writeln!(out, "{}", line.trim_end());
            name.clear();
        }
    }
}

/// Breaks a text at spaces into lines of at most `width` characters, where it has spaces.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let mut lines = vec![String::new()];
    for word in text.split(' ') {
        let line = lines.last().map_or(0, |line| line.chars().count());
        if line > 0 && line + 1 + word.chars().count() > width {
            lines.push(String::new());
        }
        if let Some(line) = lines.last_mut() {
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(word);
        }
    }
    lines
}

fn outcome(order: &Order, trial: &Trial) -> String {
    match &trial.outcome {
        Ok(_) if matches!(order.probe, Probe::Exit) => "ended with exit code 0".to_owned(),
        Ok(_) => "became ready".to_owned(),
        // What it wrote stands below, where there is room for it.
        Err(message) => {
            let first = plain(message).lines().next().unwrap_or_default();
            let first = first.strip_suffix("; its last lines:").unwrap_or(first);
            format!("FAILED: {first}")
        }
    }
}

/// A failure without the isolation's name at its beginning, where that is said already.
fn plain(message: &str) -> &str {
    ["container: ", "vm: "].iter().find_map(|name| message.strip_prefix(name)).unwrap_or(message)
}

fn start(trial: &Trial) -> String {
    trial.outcome.as_ref().map_or("not observed".to_owned(), |ready| format!("{:.1} ms", ready.total_ns as f64 / 1e6))
}

fn mib(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

fn too_soon(trial: &Trial) -> String {
    if trial.outcome.is_ok() { "not observed: it ended too soon" } else { "not observed" }.to_owned()
}

fn peak(trial: &Trial) -> String {
    trial.memory.map_or_else(|| too_soon(trial), |bytes| format!("{} PSS", mib(bytes)))
}

fn process(trial: &Trial) -> String {
    let Some(Process { uid, threads, filtered, capabilities }) = &trial.process else {
        return too_soon(trial);
    };
    let plural = if *threads == 1 { "" } else { "s" };
    let count = capabilities.count_ones();
    format!("uid {uid}, {count} capabilities, {threads} thread{plural}, {filtered} filtered")
}

fn capability_name(number: u32) -> String {
    capability::NAMES.get(number as usize).map_or_else(|| format!("capability {number}"), |name| (*name).to_owned())
}

fn capabilities(watched: &Watched) -> String {
    let Ok(asked) = &watched.capabilities else { return "not observed".to_owned() };
    let used: Vec<String> =
        asked.iter().filter(|(_, asked)| asked.granted > 0).map(|(number, _)| capability_name(*number)).collect();
    if used.is_empty() { "none was used".to_owned() } else { format!("used: {}", used.join(", ")) }
}

fn container_protects(watched: &Watched, container: &Trial) -> Vec<String> {
    let mut reasons = vec![];
    let observed = &watched.observed;
    if let Some(process) = &container.process {
        reasons.push(match process.uid {
            0 => "Its first process is root on the host too: whoever leaves the container is root.".to_owned(),
            uid => format!("Its first process is user {uid} on the host: whoever leaves the container owns nothing there, unless a bug of the kernel makes him root."),
        });
    }
    if observed.began_ns.is_some() {
        reasons.push(format!(
            "Its {} kinds of system calls are answered by the host's kernel: a bug in one of them is a way to the host.",
            observed.calls.len()
        ));
        let exposed = observed.called(&EXPOSED);
        reasons.push(if exposed.is_empty() {
            "None of them is among those through which kernels have been broken again and again (io_uring, bpf, keyrings, user namespaces, ...).".to_owned()
        } else {
            format!("Among them are some through which kernels have been broken again and again: {}.", exposed.join(", "))
        });
        if observed.refused().is_empty() {
            reasons.push("The filter refused none of them: a filter of exactly these would not disturb it, and hold back all others.".to_owned());
        }
    }
    reasons
}

fn vm_protects(watched: &Watched, vm: &Trial) -> Vec<String> {
    let mut reasons = vec![];
    if vm.outcome.is_err() {
        return reasons;
    }
    if watched.observed.began_ns.is_some() {
        reasons.push(format!(
            "Its {} kinds of system calls end in the guest's kernel: a bug in one of them gives away the guest, not the host.",
            watched.observed.calls.len()
        ));
    }
    if let Some(process) = &vm.process {
        let capabilities = match process.capabilities.count_ones() {
            0 => "no capability".to_owned(),
            count => format!("{count} capabilities in its namespaces"),
        };
        reasons.push(format!(
            "What the host sees is the VMM: user {}, {capabilities}; {} of its {} threads have a filter on their system calls. To reach the host, a bug in the VMM or in KVM must follow one in the guest.",
            process.uid, process.filtered, process.threads
        ));
    }
    reasons
}

fn costs(container: &Trial, vm: &Trial) -> Vec<String> {
    let mut reasons = vec![];
    if let (Ok(first), Ok(second)) = (&container.outcome, &vm.outcome) {
        reasons.push(format!(
            "A start in a vm took {:.1} ms, in a container {:.1} ms: {:.1} times as long. One start each; `rkvm compare` has intervals.",
            second.total_ns as f64 / 1e6,
            first.total_ns as f64 / 1e6,
            second.total_ns as f64 / first.total_ns.max(1) as f64
        ));
    }
    if let (Some(first), Some(second)) = (container.memory, vm.memory) {
        reasons.push(format!(
            "Its memory in a vm was {}, in a container {}: the monitor is in both, the guest's kernel and the VMM in the first.",
            mib(second),
            mib(first)
        ));
    }
    reasons
}

fn breaks(order: &Order, watched: &Watched, container: &Trial, vm: &Trial) -> Vec<String> {
    let mut reasons = vec![];
    for (name, trial) in [("container", container), ("vm", vm)] {
        match &trial.outcome {
            Err(message) => reasons.push(format!("It does not work in a {name}: {}", plain(message).replace('\n', "\n    "))),
            Ok(_) => {
                let how = if matches!(order.probe, Probe::Exit) { "ended with exit code 0" } else { "became ready" };
                reasons.push(format!("It {how} in a {name}; whether it did all that it should is not seen."));
            }
        }
    }
    let observed = &watched.observed;
    for name in observed.refused() {
        let calls = observed.calls.get(name).copied().unwrap_or_default();
        reasons.push(format!(
            "container: the filter refused {}; whether the program needs that was not observed.",
            of_calls(calls, name)
        ));
    }
    for (number, asked) in watched.capabilities.iter().flatten() {
        let name = capability_name(*number);
        if asked.refused > 0 {
            reasons.push(format!(
                "container: the kernel asked for {name} {} and it was not there; the kernel also asks where it can do without.",
                times(asked.refused)
            ));
        }
        if asked.refused_by_host > 0 {
            reasons.push(format!(
                "container: the kernel asked for {name} over the host {}, which no container has; the kernel also asks where it can do without.",
                times(asked.refused_by_host)
            ));
        }
    }
    reasons
}

/// Which part of the calls of `name` was refused.
fn of_calls(calls: Calls, name: &str) -> String {
    match (calls.refused, calls.made) {
        (1, 1) => format!("the only call of {name}"),
        (refused, made) if refused == made => format!("all {made} calls of {name}"),
        (refused, made) => format!("{refused} of {made} calls of {name}"),
    }
}

fn times(count: u64) -> String {
    if count == 1 { "once".to_owned() } else { format!("{count} times") }
}

fn unobserved(order: &Order, watched: &Watched, container: &Trial, vm: &Trial) -> Vec<String> {
    let mut reasons = vec![];
    if let Err(message) = &watched.outcome {
        reasons.push(format!("The run whose calls were looked at failed, so they are not all: {}", plain(message).replace('\n', "\n    ")));
    } else if !matches!(order.probe, Probe::Exit) {
        reasons.push(format!("What it does later than {} s after it was ready, and under load.", order.watch.as_secs_f64()));
    }
    reasons.push("What its calls came to: each is seen before it is made. What it tried or asked for may have failed.".to_owned());
    reasons.push("Calls of write(2): the run is watched with a filter that cannot hold those back.".to_owned());
    if let Err(reason) = &watched.capabilities {
        reasons.push(format!("Which capabilities it used: {reason}."));
    }
    if vm.outcome.is_ok() {
        reasons.push("What it does inside of the guest: the host sees the VMM alone. The columns on calls, devices and network are those of the watched container.".to_owned());
    }
    for (name, trial) in [("container", container), ("vm", vm)] {
        if trial.memory.is_none() && trial.outcome.is_ok() {
            reasons.push(format!("Its memory in a {name}: it ended before it could be looked at."));
        }
    }
    reasons
}
