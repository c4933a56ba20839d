//! A report for a terminal.

use std::fmt::Write;

use super::facts;
use crate::model::{
    CacheState, Completion, Estimate, Question, Report, SubjectSummary, Versus, phase_meaning,
};

/// Columns of a waterfall.
const WIDTH: usize = 50;

/// Columns of a line of text.
const COLUMNS: usize = 100;

/// Draws a report.
pub fn report(report: &Report) -> String {
    let mut out = String::new();
    let _ = writeln!(out, "{}", headline(&report.question));
    if let Completion::Partial { reason, done, planned } = &report.completion {
        let _ = writeln!(out, "PARTIAL: {reason}; {done} of {planned} starts were made");
    }
    out.push('\n');
    match facts::nothing(report) {
        Some(text) => {
            let _ = writeln!(out, "{text}");
        }
        None => whole(&mut out, report),
    }
    for comparison in &report.summary.comparisons {
        paragraph(&mut out, "", &comparison.sentence);
    }
    for missing in &report.missing {
        paragraph(&mut out, "", &format!("{}: not measured: {}", missing.id, missing.reason));
    }
    out.push('\n');
    phases(&mut out, report);
    waterfalls(&mut out, report);
    meanings(&mut out, report);
    density(&mut out, report);
    budgets(&mut out, report);
    failures(&mut out, report);
    findings(&mut out, report);
    provenance(&mut out, report);
    out
}

/// A text broken at spaces into lines that a terminal has room for; those after the first are indented a little more.
fn paragraph(out: &mut String, indent: &str, text: &str) {
    let mut line = indent.to_owned();
    for word in text.split(' ') {
        let is_first = line.trim().is_empty();
        if !is_first && line.chars().count() + 1 + word.chars().count() > COLUMNS {
            let _ = writeln!(out, "{}", line.trim_end());
            line = format!("{indent}  {word}");
        } else {
            line.push_str(if is_first { "" } else { " " });
            line.push_str(word);
        }
    }
    let _ = writeln!(out, "{}", line.trim_end());
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
        "{command}: from the command to `{}`, {} of each after {}{parallel}, {caches}, seed {}",
        question.ready,
        facts::counted(question.runs, "run"),
        facts::counted(question.warmup, "warm-up"),
        question.seed
    )
}

fn ms(ns: f64) -> String {
    format!("{:.2}", ns / 1e6)
}

fn range(estimate: &Estimate) -> String {
    format!("{} to {}", ms(estimate.low), ms(estimate.high))
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
    for subject in facts::measured(report) {
        let total = &subject.total;
        rows.push(vec![
            facts::name(report, &subject.subject).to_owned(),
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
}

fn with_phases(report: &Report) -> Vec<&SubjectSummary> {
    report.summary.subjects.iter().filter(|subject| !subject.phases.is_empty()).collect()
}

fn phases(out: &mut String, report: &Report) {
    let subjects = with_phases(report);
    let names = facts::phases(report);
    if names.is_empty() {
        return;
    }
    let mut head = vec!["phase, median".to_owned()];
    for subject in &subjects {
        head.push(facts::name(report, &subject.subject).to_owned());
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
        sums.extend([facts::gap(subject.worst_gap.unwrap_or(0.0)), String::new()]);
    }
    rows.push(sums);
    table(out, &rows);
    out.push('\n');
}

fn waterfalls(out: &mut String, report: &Report) {
    let subjects = with_phases(report);
    let longest = subjects.iter().filter_map(|subject| subject.phases.last()).map(|phase| phase.end_ns);
    let Some(longest) = longest.reduce(f64::max).filter(|ns| *ns > 0.0) else { return };
    // Medians do not add up, so a bar's length is not always that of its figure.
    let _ = writeln!(
        out,
        "Bars from the median moment a phase begins at to that of its end; figures: median lengths"
    );
    for subject in subjects {
        let _ = writeln!(out, "{}", facts::name(report, &subject.subject));
        for phase in &subject.phases {
            let column = |ns: f64| (ns / longest * WIDTH as f64).round() as usize;
            let (begin, end) = (column(phase.begin_ns), column(phase.end_ns));
            let bar = if end > begin { "█".repeat(end - begin) } else { "▏".to_owned() };
            let pad = " ".repeat(begin);
            let _ = writeln!(out, "  {:<8} {pad}{bar} {} ms", phase.phase, ms(phase.duration.value));
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

fn budgets(out: &mut String, report: &Report) {
    for budget in &report.summary.budgets {
        let name = facts::name(report, &budget.subject);
        let _ = writeln!(out, "budget {} of {name}: {}", budget.budget, facts::budget(budget));
    }
}

fn failures(out: &mut String, report: &Report) {
    for failure in &report.failures {
        let name = facts::name(report, &failure.subject);
        out.push('\n');
        paragraph(out, "", &format!("start {} of {name} failed: {}", failure.order, facts::failure(failure)));
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
        let mark = facts::severity(finding);
        paragraph(out, "  ", &format!("{mark} {}: {}", finding.id, facts::finding(finding)));
    }
    for subject in &report.subjects {
        if let Some(text) = facts::differences(&subject.differences) {
            paragraph(out, "  ", &format!("{} does other work: {text}", subject.name));
        }
    }
}

fn provenance(out: &mut String, report: &Report) {
    let _ = writeln!(out, "\nWhere they come from");
    // What else was asked stands in the first line and in the command line.
    let asked = facts::question(report).into_iter().filter(|(name, _)| *name == "Command line");
    for (name, value) in facts::provenance(report).into_iter().chain(asked) {
        if !value.is_empty() {
            paragraph(out, "  ", &format!("{name}: {value}"));
        }
    }
    for (name, value) in facts::wholes(report) {
        paragraph(out, "  ", &format!("{name}: {value}"));
    }
    paragraph(out, "  ", &facts::samples(report));
}

/// Explains the phases of a report.
fn meanings(out: &mut String, report: &Report) {
    for phase in facts::phases(report) {
        let (container, vm) = phase_meaning(phase);
        let text = if container == vm {
            format!("{phase}: {container}")
        } else {
            format!("{phase}: container: {container}; vm: {vm}")
        };
        paragraph(out, "  ", &text);
    }
}

/// Draws two reports against each other. What may explain a difference stands above it.
pub fn versus(versus: &Versus) -> String {
    let mut out = format!("{} against {}\n\n", versus.after, versus.before);
    for line in &versus.differences {
        paragraph(&mut out, "", &format!("WARNING: {line}"));
    }
    for line in &versus.unpaired {
        paragraph(&mut out, "", line);
    }
    if !(versus.differences.is_empty() && versus.unpaired.is_empty()) {
        out.push('\n');
    }
    let head = ["", "ratio", "95 % of ratio", "shift ms", "95 % of shift", "p"];
    let mut rows = vec![head.map(str::to_owned).to_vec()];
    for one in &versus.comparisons {
        let what = match &one.phase {
            None => one.of.clone(),
            Some(phase) => format!("  {phase}"),
        };
        rows.push(vec![
            what,
            format!("{:.3}", one.ratio.value),
            format!("{:.3} to {:.3}", one.ratio.low, one.ratio.high),
            ms(one.shift_ns.value),
            range(&one.shift_ns),
            super::number::probability(one.p_value),
        ]);
    }
    table(&mut out, &rows);
    out.push('\n');
    for one in versus.comparisons.iter().filter(|one| one.phase.is_none()) {
        paragraph(&mut out, "", &one.sentence);
    }
    out
}
