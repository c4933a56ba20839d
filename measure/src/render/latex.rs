//! Tables for papers: `booktabs`, nothing else.

use std::fmt::Write as _;

use super::{facts, number};
use crate::model::{Comparison, PHASES, Report};

/// A table of the whole and one of the phases; provenance as comments above them.
pub fn render(report: &Report) -> String {
    let mut out = String::from("% Needs \\usepackage{booktabs}.\n");
    for (name, value) in facts::question(report).into_iter().chain(facts::provenance(report)) {
        let _ = writeln!(out, "% {name}: {}", value.replace(['\r', '\n'], " "));
    }
    for finding in &report.findings {
        let _ = writeln!(out, "% {}: {} {}", finding.id, finding.what, finding.effect);
    }
    whole(&mut out, report);
    phases(&mut out, report);
    out
}

fn whole(out: &mut String, report: &Report) {
    let image = escape(&report.question.image);
    let runs = report.question.runs;
    let remarks = [facts::partial(report), facts::thin(report)].into_iter().flatten();
    let remarks: String = remarks.map(|text| format!(" {}", escape(&text))).collect();
    begin(
        out,
        &format!(
            "Start of \\texttt{{{image}}} until \\texttt{{{}}}, milliseconds: median with 95\\,\\% bootstrap interval, \
             percentiles, {runs} runs each.{remarks}",
            escape(&report.question.ready),
        ),
        "tab:rkvm-start",
        "lrrrr",
    );
    let _ = writeln!(out, "    & median & p95 & p99 & ratio \\\\\n    \\midrule");
    for subject in &report.summary.subjects {
        let ratio = whole_comparison(report, &subject.subject)
            .map_or_else(|| "1".to_owned(), |comparison| interval(&comparison.ratio, number::significant));
        let _ = writeln!(
            out,
            "    {} & {} & {} & {} & {ratio} \\\\",
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
