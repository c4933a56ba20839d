//! Tables for documentation: Markdown with tables (GitHub's, pandoc's).

use std::fmt::Write as _;

use super::{facts, number};
use crate::model::{Estimate, PHASES, Report, Severity};

/// The whole, the phases, memory, what follows from them, what distorts them, and where they come from.
pub fn render(report: &Report) -> String {
    let mut out = String::new();
    for text in [facts::partial(report), facts::nothing(report)].into_iter().flatten() {
        let _ = writeln!(out, "**{}**\n", escape(&text));
    }
    whole(&mut out, report);
    phases(&mut out, report);
    density(&mut out, report);
    for comparison in report.summary.comparisons.iter().filter(|one| one.phase.is_none()) {
        let _ = writeln!(out, "- {}", escape(&comparison.sentence));
    }
    for subject in &report.subjects {
        if let Some(text) = facts::differences(&subject.differences) {
            let _ = writeln!(out, "- {} does other work: {}.", escape(&subject.name), escape(&text));
        }
    }
    for missing in &report.missing {
        let _ = writeln!(out, "- Not measured: {}: {}", escape(&missing.id), escape(&missing.reason));
    }
    for budget in &report.summary.budgets {
        let name = escape(facts::name(report, &budget.subject));
        let _ = writeln!(out, "- Budget {} of {name}: {}.", escape(&budget.budget), facts::budget(budget));
    }
    for failure in &report.failures {
        let name = escape(facts::name(report, &failure.subject));
        let text = escape(&facts::failure(failure));
        let _ = writeln!(out, "- **Start {} of {name} failed**: {text}.", failure.order);
        failure.log.iter().for_each(|line| {
            let _ = writeln!(out, "  - it wrote: {}", escape(line));
        });
    }
    findings(&mut out, report);
    let _ = writeln!(out, "\n<details><summary>Where these figures come from</summary>\n");
    row(&mut out, &["what".into(), "value".into()]);
    row(&mut out, &["---".into(), "---".into()]);
    for (name, value) in facts::question(report).into_iter().chain(facts::provenance(report)) {
        row(&mut out, &[escape(name), escape(&value)]);
    }
    for (name, value) in facts::commands(report).into_iter().chain(facts::wholes(report)) {
        row(&mut out, &[escape(&name), escape(&value)]);
    }
    let _ = writeln!(out, "\n{}.\n\n</details>", facts::samples(report));
    out
}

fn row(out: &mut String, cells: &[String]) {
    let _ = writeln!(out, "| {} |", cells.join(" | "));
}

fn head(out: &mut String, cells: &[&str]) {
    row(out, &cells.iter().map(|cell| (*cell).to_owned()).collect::<Vec<_>>());
    let rule = |index: usize| if index == 0 { "---" } else { "---:" };
    row(out, &(0..cells.len()).map(|index| rule(index).to_owned()).collect::<Vec<_>>());
}

fn interval(estimate: &Estimate, show: fn(f64) -> String) -> String {
    format!("{} ({} to {})", show(estimate.value), show(estimate.low), show(estimate.high))
}

fn whole(out: &mut String, report: &Report) {
    if facts::measured(report).next().is_none() {
        return;
    }
    head(out, &["start, ms", "median (95 %)", "p95", "p99", "largest", "outliers", "ratio (95 %)"]);
    for subject in facts::measured(report) {
        let total = &subject.total;
        let comparison =
            report.summary.comparisons.iter().find(|one| one.of == subject.subject && one.phase.is_none());
        row(
            out,
            &[
                escape(facts::name(report, &subject.subject)),
                interval(&total.median, number::milliseconds),
                number::milliseconds(total.p95.value),
                number::milliseconds(total.p99.value),
                number::milliseconds(total.max as f64),
                format!("{} of {}", total.outliers.len(), total.count),
                comparison.map_or_else(|| "1".to_owned(), |one| interval(&one.ratio, number::significant)),
            ],
        );
    }
    if let Some(text) = facts::thin(report) {
        let _ = writeln!(out, "\n{text}");
    }
    out.push('\n');
}

fn phases(out: &mut String, report: &Report) {
    let used = facts::phases(report);
    if used.is_empty() {
        return;
    }
    let subjects: Vec<_> =
        report.summary.subjects.iter().filter(|subject| !subject.phases.is_empty()).collect();
    let names: Vec<String> = subjects.iter().map(|one| escape(facts::name(report, &one.subject))).collect();
    head(out, &["phase, ms"].into_iter().chain(names.iter().map(String::as_str)).collect::<Vec<_>>());
    for phase in PHASES.into_iter().filter(|phase| used.contains(phase)) {
        let cells = subjects.iter().map(|subject| {
            let found = subject.phases.iter().find(|one| one.phase == phase);
            found.map_or_else(|| "absent".to_owned(), |one| interval(&one.duration, number::milliseconds))
        });
        row(out, &[phase.to_owned()].into_iter().chain(cells).collect::<Vec<_>>());
    }
    out.push('\n');
}

/// The first and the last point of each subject: what lies between is in the picture.
fn density(out: &mut String, report: &Report) {
    if report.density.is_empty() {
        return;
    }
    head(out, &["instances", "subject", "memory (PSS), MiB", "a piece, MiB", "start of the last, ms"]);
    for point in facts::density_ends(report) {
        row(
            out,
            &[
                point.instances.to_string(),
                escape(facts::name(report, &point.subject)),
                number::mebibytes(point.pss_bytes),
                number::mebibytes(point.pss_bytes / point.instances.max(1) as u64),
                number::milliseconds(point.start_ns as f64),
            ],
        );
    }
    out.push('\n');
}

fn findings(out: &mut String, report: &Report) {
    if report.findings.is_empty() {
        return;
    }
    let _ = writeln!(out, "\nWhat distorts these figures, and what this machine cannot know:\n");
    for finding in &report.findings {
        let mark = match finding.severity {
            Severity::Warning => "**warning**",
            Severity::Note => "note",
        };
        let _ = writeln!(out, "- {mark}: {}.", escape(&facts::finding(finding)));
    }
}

/// Text that no renderer of Markdown takes for markup.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' | '`' | '*' | '_' | '[' | ']' | '|' | '#' | '<' | '>' => {
                out.push('\\');
                out.push(c);
            }
            '\n' | '\r' => out.push(' '),
            _ => out.push(c),
        }
    }
    out
}
