//! Tables for papers: `booktabs`, nothing else. What a paper says in its own words stands above them as comments.

use std::fmt::Write as _;

use super::{facts, number};
use crate::model::{Comparison, PHASES, Report, Severity};

/// A table of the whole, one of the phases, one of memory; provenance and what must be known beside them as comments.
pub fn render(report: &Report) -> String {
    let mut out = String::from("% Needs \\usepackage{booktabs}.\n");
    for (name, value) in facts::question(report).into_iter().chain(facts::provenance(report)) {
        let _ = writeln!(out, "% {name}: {}", value.replace(['\r', '\n'], " "));
    }
    let lines = [facts::remarks(report), facts::commands(report), facts::wholes(report)];
    for (name, value) in lines.into_iter().flatten() {
        let flat = |text: &str| text.replace(['\r', '\n'], " ");
        let _ = writeln!(out, "% {}: {}", flat(&name), flat(&value));
    }
    let _ = writeln!(out, "% {}", facts::samples(report));
    whole(&mut out, report);
    phases(&mut out, report);
    density(&mut out, report);
    out
}

fn whole(out: &mut String, report: &Report) {
    let image = escape(&report.question.image);
    let runs = report.question.runs;
    let remarks = [facts::partial(report), facts::nothing(report), facts::thin(report)].into_iter().flatten();
    let remarks: String = remarks.map(|text| format!(" {}", escape(&text))).collect();
    let warnings = report.findings.iter().filter(|one| one.severity == Severity::Warning);
    let warnings: Vec<String> = warnings.map(|one| escape(&one.id)).collect();
    let aside = if warnings.is_empty() {
        String::new()
    } else {
        format!(" Distorted by: {} (see the comments in the source).", warnings.join(", "))
    };
    begin(
        out,
        &format!(
            "Start of \\texttt{{{image}}} until \\texttt{{{}}}, milliseconds: median with 95\\,\\% bootstrap interval, \
             percentiles, {runs} runs each; ratio of medians to the first, $p$ of Mann and Whitney's test.{remarks}{aside}",
            escape(&report.question.ready),
        ),
        "tab:rkvm-start",
        "lrrrrr",
    );
    let _ = writeln!(out, "    & median & p95 & p99 & ratio & $p$ \\\\\n    \\midrule");
    for subject in facts::measured(report) {
        let comparison = whole_comparison(report, &subject.subject);
        let ratio =
            comparison.map_or_else(|| "1".to_owned(), |one| interval(&one.ratio, number::significant));
        let p = comparison.map_or_else(|| "--".to_owned(), |one| probability(one.p_value));
        let _ = writeln!(
            out,
            "    {} & {} & {} & {} & {ratio} & {p} \\\\",
            escape(facts::name(report, &subject.subject)),
            interval(&subject.total.median, number::milliseconds),
            number::milliseconds(subject.total.p95.value),
            number::milliseconds(subject.total.p99.value),
        );
    }
    end(out);
}

fn phases(out: &mut String, report: &Report) {
    let used = facts::phases(report);
    if used.is_empty() {
        return;
    }
    let subjects: Vec<_> =
        report.summary.subjects.iter().filter(|subject| !subject.phases.is_empty()).collect();
    out.push('\n');
    begin(
        out,
        "Phases of the start, milliseconds: median with 95\\,\\% bootstrap interval.",
        "tab:rkvm-phases",
        &format!("l{}", "r".repeat(subjects.len())),
    );
    let names: Vec<_> = subjects.iter().map(|one| escape(facts::name(report, &one.subject))).collect();
    let _ = writeln!(out, "    phase & {} \\\\\n    \\midrule", names.join(" & "));
    for phase in PHASES.into_iter().filter(|phase| used.contains(phase)) {
        let cells: Vec<_> = subjects
            .iter()
            .map(|subject| {
                subject
                    .phases
                    .iter()
                    .find(|one| one.phase == phase)
                    .map_or_else(|| "--".to_owned(), |one| interval(&one.duration, number::milliseconds))
            })
            .collect();
        let _ = writeln!(out, "    {phase} & {} \\\\", cells.join(" & "));
    }
    end(out);
}

/// A bound is mathematics for TeX.
fn probability(p: f64) -> String {
    let text = number::probability(p);
    if text.contains('<') { format!("${text}$") } else { text }
}

/// Memory and start time with one and with most instances.
fn density(out: &mut String, report: &Report) {
    if report.density.is_empty() {
        return;
    }
    out.push('\n');
    let caption = "Instances running, memory of all of them (proportional set size, MiB), and start of the last (milliseconds).";
    begin(out, caption, "tab:rkvm-density", "lrrr");
    let _ = writeln!(out, "    & instances & memory & start \\\\\n    \\midrule");
    for point in facts::density_ends(report) {
        let _ = writeln!(
            out,
            "    {} & {} & {} & {} \\\\",
            escape(facts::name(report, &point.subject)),
            point.instances,
            number::mebibytes(point.pss_bytes),
            number::milliseconds(point.start_ns as f64)
        );
    }
    end(out);
}

/// The comparison of the whole of `subject` with the first one.
fn whole_comparison<'a>(report: &'a Report, subject: &str) -> Option<&'a Comparison> {
    report.summary.comparisons.iter().find(|one| one.of == subject && one.phase.is_none())
}

fn interval(estimate: &crate::model::Estimate, show: fn(f64) -> String) -> String {
    format!("{} [{}, {}]", show(estimate.value), show(estimate.low), show(estimate.high))
}

fn begin(out: &mut String, caption: &str, label: &str, columns: &str) {
    let _ = writeln!(out, "\\begin{{table}}\n  \\centering\n  \\caption{{{caption}}}\n  \\label{{{label}}}");
    let _ = writeln!(out, "  \\begin{{tabular}}{{{columns}}}\n    \\toprule");
}

fn end(out: &mut String) {
    out.push_str("    \\bottomrule\n  \\end{tabular}\n\\end{table}\n");
}

/// Text with TeX's special characters made harmless.
fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\\' => out.push_str("\\textbackslash{}"),
            '~' => out.push_str("\\textasciitilde{}"),
            '^' => out.push_str("\\textasciicircum{}"),
            '#' | '$' | '%' | '&' | '_' | '{' | '}' => {
                out.push('\\');
                out.push(c);
            }
            _ => out.push(c),
        }
    }
    out
}
