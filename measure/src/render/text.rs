//! A report for a terminal.

use std::fmt::Write;

use super::facts;
use crate::model::{
    CacheState, Completion, Estimate, Question, Report, Severity, SubjectSummary, Summary, Versus,
    phase_meaning,
};

/// Columns of a waterfall.
const WIDTH: usize = 50;

/// Draws a report.
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", headline(&report.question));
    if let Completion::Partial { reason, done, planned } = &report.completion {
        let _ = writeln!(out, "PARTIAL: {reason}; {done} of {planned} starts were made");
    }
    out.push('\n');
    whole(&mut out, report);
    phases(&mut out, report);
    waterfalls(&mut out, report);
    for comparison in &report.summary.comparisons {
        let _ = writeln!(out, "{}", comparison.sentence);
    }
    density(&mut out, report);
    budgets(&mut out, &report.summary);
    failures(&mut out, report);
    findings(&mut out, report);
    provenance(&mut out, report);
    out
}

fn headline(question: &Question) -> String {
    let mut command = question.image.clone();
    question.command.iter().for_each(|word| {
        command.push(' ');
        command.push_str(word);
    });
    let caches = match question.cache {
        CacheState::Warm => "warm caches",
        CacheState::Cold => "cold caches",
    };
    let parallel =
        if question.parallel > 1 { format!(", {} at once", question.parallel) } else { String::new() };
    format!(
        "{command}: from the command to `{}`, {} runs of each after {} warm-ups{parallel}, {caches}, seed {}",
        question.ready, question.runs, question.warmup, question.seed
    )
}

fn ms(ns: f64) -> String {
    format!("{:.2}", ns / 1e6)
}

fn range(estimate: &Estimate) -> String {
    format!("{}–{}", ms(estimate.low), ms(estimate.high))
}

/// Name of a subject.
fn name<'a>(report: &'a Report, id: &'a str) -> &'a str {
    report.subjects.iter().find(|subject| subject.id == id).map_or(id, |subject| &subject.name)
}

/// Rows of cells, each column as wide as its widest cell; the first is left-aligned, the others right-aligned.
fn table(out: &mut String, rows: &[Vec<String>]) {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    for row in rows {
        let mut line = String::new();
        for (column, cell) in row.iter().enumerate() {
            let pad = " ".repeat(widths[column] - cell.chars().count());
            match column {
                0 => line.push_str(&format!("{cell}{pad}")),
                _ => line.push_str(&format!("  {pad}{cell}")),
            }
        }
        let _ = writeln!(out, "{}", line.trim_end());
    }
}

fn whole(out: &mut String, report: &Report) {
    let head = ["milliseconds", "median", "95 % of median", "p95", "p99", "min", "max", "outliers"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for subject in report.summary.subjects.iter().filter(|subject| subject.total.count > 0) {
        let total = &subject.total;
        rows.push(vec![
            name(report, &subject.subject).to_owned(),
            ms(total.median.value),
            range(&total.median),
            ms(total.p95.value),
            ms(total.p99.value),
            ms(total.min as f64),
            ms(total.max as f64),
            format!("{} of {}", total.outliers.len(), total.count),
        ]);
    }
    table(out, &rows);
    if let Some(text) = facts::thin(report) {
        let _ = writeln!(out, "{text}");
    }
    for missing in &report.missing {
        let _ = writeln!(out, "{}: not measured: {}", missing.id, missing.reason);
    }
    out.push('\n');
}

fn with_phases(report: &Report) -> Vec<&SubjectSummary> {
    report.summary.subjects.iter().filter(|subject| !subject.phases.is_empty()).collect()
}

fn phases(out: &mut String, report: &Report) {
    let subjects = with_phases(report);
    let mut names: Vec<&str> = vec![];
    for phase in subjects.iter().flat_map(|subject| &subject.phases) {
        if !names.contains(&phase.phase.as_str()) {
            names.push(&phase.phase);
        }
    }
    if names.is_empty() {
        return;
    }
    names.sort_by_key(|name| {
        crate::model::PHASES.iter().position(|phase| phase == name).unwrap_or(usize::MAX)
    });
    let mut head = vec!["phase, median".to_owned()];
    for subject in &subjects {
        head.push(name(report, &subject.subject).to_owned());
        head.push("95 %".to_owned());
    }
    let mut rows = vec![head];
    for phase in names {
        let mut row = vec![phase.to_owned()];
        for subject in &subjects {
            match subject.phases.iter().find(|one| one.phase == phase) {
                Some(one) => row.extend([ms(one.duration.value), range(&one.duration)]),
                None => row.extend(["absent".to_owned(), String::new()]),
            }
        }
        rows.push(row);
    }
    let mut sums = vec!["whole less phases, worst".to_owned()];
    for subject in &subjects {
        sums.extend([format!("{:.2} %", subject.worst_gap.unwrap_or(0.0) * 100.0), String::new()]);
    }
    rows.push(sums);
    table(out, &rows);
    out.push('\n');
}

fn waterfalls(out: &mut String, report: &Report) {
    let subjects = with_phases(report);
    let longest = subjects.iter().filter_map(|subject| subject.phases.last()).map(|phase| phase.end_ns);
    let Some(longest) = longest.reduce(f64::max).filter(|ns| *ns > 0.0) else { return };
    for subject in subjects {
        let _ = writeln!(out, "{}", name(report, &subject.subject));
        for phase in &subject.phases {
            let column = |ns: f64| (ns / longest * WIDTH as f64).round() as usize;
            let (begin, end) = (column(phase.begin_ns), column(phase.end_ns));
            let bar = if end > begin { "█".repeat(end - begin) } else { "▏".to_owned() };
            let pad = " ".repeat(begin);
            let _ = writeln!(out, "  {:<8} {pad}{bar} {} ms", phase.phase, ms(phase.end_ns - phase.begin_ns));
        }
    }
    out.push('\n');
}

fn density(out: &mut String, report: &Report) {
    for subject in &report.subjects {
        let points: Vec<_> = report.density.iter().filter(|point| point.subject == subject.id).collect();
        if points.is_empty() {
            continue;
        }
        let _ = writeln!(out, "\n{} as instances grow", subject.name);
        let head = ["instances", "start ms", "PSS MiB", "a piece MiB", "MemAvailable MiB"];
        let mut rows = vec![head.map(str::to_owned).to_vec()];
        let mib = |bytes: f64| format!("{:.1}", bytes / 1048576.0);
        for point in points {
            rows.push(vec![
                point.instances.to_string(),
                ms(point.start_ns as f64),
                mib(point.pss_bytes as f64),
                mib(point.pss_bytes as f64 / point.instances as f64),
                mib(point.available_bytes as f64),
            ]);
        }
        table(out, &rows);
    }
}

fn budgets(out: &mut String, summary: &Summary) {
    for budget in &summary.budgets {
        let verdict = if budget.kept { "kept" } else { "EXCEEDED" };
        let _ = writeln!(
            out,
            "budget {} of {}: {verdict}, {} ms",
            budget.budget,
            budget.subject,
            ms(budget.actual_ns as f64)
        );
    }
}

fn failures(out: &mut String, report: &Report) {
    for failure in &report.failures {
        let reached = failure.reached.as_deref().unwrap_or("none");
        let _ = writeln!(
            out,
            "\nstart {} of {} failed: {} (last phase: {reached})",
            failure.order,
            name(report, &failure.subject),
            failure.message
        );
        failure.log.iter().for_each(|line| {
            let _ = writeln!(out, "  | {line}");
        });
    }
}

/// Draws findings, with what they do to the figures.
fn findings(out: &mut String, report: &Report) {
    if report.findings.is_empty() {
        let _ = writeln!(out, "\nNothing was found that distorts these figures.");
        return;
    }
    let _ = writeln!(out, "\nWhat distorts these figures");
    for finding in &report.findings {
        let _ = writeln!(out, "  {}", self::finding(finding));
    }
    for subject in report.subjects.iter().filter(|subject| !subject.differences.is_empty()) {
        let _ = writeln!(out, "  {} does other work: {}", subject.name, subject.differences.join("; "));
    }
}

/// One finding in one line.
pub fn finding(finding: &crate::model::Finding) -> String {
    let mark = match finding.severity {
        Severity::Warning => "WARNING",
        Severity::Note => "note",
    };
    format!("{mark} {}: {}: {}. Remedy: {}", finding.id, finding.what, finding.effect, finding.remedy)
}

fn provenance(out: &mut String, report: &Report) {
    let from = &report.provenance;
    let unknown = |text: &Option<String>| text.clone().unwrap_or_else(|| "unknown".to_owned());
    let _ = writeln!(out, "\nWhere they come from");
    let _ = writeln!(
        out,
        "  rkvm {} ({}, commit {}); {} x{}, {:.1} GiB; Linux {}",
        from.rkvm_version,
        from.rkvm_profile,
        unknown(&from.rkvm_commit),
        from.cpu,
        from.cpus,
        from.memory as f64 / f64::from(1 << 30),
        from.kernel
    );
    let _ = writeln!(
        out,
        "  KVM {}, cgroups {}, host {}, image {}, guest kernel {}",
        from.kvm,
        from.cgroup,
        from.hypervisor
            .as_ref()
            .map_or("no virtual machine".to_owned(), |name| format!("a virtual machine ({name})")),
        from.image_digest,
        from.guest_kernel_sha256.as_deref().map_or("none", |hash| hash.get(..12).unwrap_or(hash)),
    );
    for (peer, version) in &from.peer_versions {
        let _ = writeln!(out, "  {peer}: {version}");
    }
    let _ = writeln!(
        out,
        "  {} to {}: {}",
        report.started,
        report.finished,
        report.question.command_line.join(" ")
    );
}

/// Explains the phases of a report.
pub fn meanings(report: &Report) -> String {
    let mut out = String::new();
    let subjects = with_phases(report);
    for phase in crate::model::PHASES {
        if subjects.iter().any(|subject| subject.phases.iter().any(|one| one.phase == phase)) {
            let (container, vm) = phase_meaning(phase);
            let _ = if container == vm {
                writeln!(out, "{phase:<8} {container}")
            } else {
                writeln!(out, "{phase:<8} container: {container}; vm: {vm}")
            };
        }
    }
    out
}

/// Draws two reports against each other.
pub fn versus(versus: &Versus) -> String {
    let mut out = format!("{} against {}\n\n", versus.after, versus.before);
    let head = ["", "ratio", "95 %", "shift ms", "95 %", "p"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in &versus.comparisons {
        let what = match &one.phase {
            None => one.of.clone(),
            Some(phase) => format!("  {phase}"),
        };
        rows.push(vec![
            what,
            format!("{:.3}", one.ratio.value),
            format!("{:.3}–{:.3}", one.ratio.low, one.ratio.high),
            ms(one.shift_ns.value),
            range(&one.shift_ns),
            if one.p_value < 0.001 { "< 0.001".to_owned() } else { format!("{:.3}", one.p_value) },
        ]);
    }
    table(&mut out, &rows);
    out.push('\n');
    for one in versus.comparisons.iter().filter(|one| one.phase.is_none()) {
        let _ = writeln!(out, "{}", one.sentence);
    }
    for line in versus.unpaired.iter().chain(&versus.differences) {
        let _ = writeln!(out, "{line}");
    }
    out
}
