//! The page's tables: every fact of the pictures, in figures.

use std::fmt::Write as _;

use super::{interval_cell, ms_cell};
use crate::model::{Report, phase_meaning};
use crate::render::facts::{self, Fact};
use crate::render::number;
use crate::render::svg::escape;

/// Opens a table with these column heads; the first column names the rows.
fn open(out: &mut String, caption: &str, heads: &[&str]) {
    let _ = write!(
        out,
        "<h2>{caption}</h2>\n<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table><thead><tr>"
    );
    for (index, head) in heads.iter().enumerate() {
        let class = if index == 0 || head.ends_with("meaning") { "" } else { " class=\"n\"" };
        let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escape(head));
    }
    out.push_str("</tr></thead><tbody>\n");
}

fn close(out: &mut String) {
    out.push_str("</tbody></table></div>\n");
}

/// From the command to readiness.
pub fn whole(out: &mut String, report: &Report) {
    open(
        out,
        "The whole, milliseconds",
        &["", "median (95 % interval)", "p95", "p99", "min", "max", "ratio (95 % interval)", "outliers"],
    );
    for subject in &report.summary.subjects {
        let total = &subject.total;
        let ratio =
            report.summary.comparisons.iter().find(|one| one.of == subject.subject && one.phase.is_none());
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th>{}{}{}{}{}{}<td class=\"n\">{} of {}</td></tr>",
            escape(facts::name(report, &subject.subject)),
            interval_cell(number::interval_ms(&total.median)),
            ms_cell(total.p95.value),
            ms_cell(total.p99.value),
            ms_cell(total.min as f64),
            ms_cell(total.max as f64),
            interval_cell(ratio.map_or_else(|| "1".to_owned(), |one| number::interval_ratio(&one.ratio))),
            total.outliers.len(),
            total.count
        );
    }
    close(out);
    out.push_str("<p class=\"soft\">Outliers are reported and counted like all others. ");
    if let Some(text) = facts::thin(report) {
        let _ = write!(out, "<strong>{}</strong> ", escape(&text));
    }
    let worst = report.summary.subjects.iter().filter_map(|subject| subject.worst_gap).fold(None, larger);
    if let Some(gap) = worst {
        let _ = write!(out, "In every start the phases add up to the whole to within {:.2} %.", gap * 100.0);
    }
    out.push_str("</p>\n");
}

fn larger(so_far: Option<f64>, next: f64) -> Option<f64> {
    Some(so_far.map_or(next, |value| value.max(next)))
}

/// Each phase of each subject, and what it is.
pub fn phases(out: &mut String, report: &Report) {
    let used = facts::phases(report);
    if used.is_empty() {
        return;
    }
    let with: Vec<_> = report.summary.subjects.iter().filter(|subject| !subject.phases.is_empty()).collect();
    let mut heads = vec!["phase"];
    heads.extend(with.iter().map(|subject| facts::name(report, &subject.subject)));
    heads.push("meaning");
    open(out, "Phases, milliseconds: median (95 % interval)", &heads);
    for phase in used {
        let _ = write!(out, "<tr><th scope=\"row\">{phase}</th>");
        for subject in &with {
            match subject.phases.iter().find(|one| one.phase == phase) {
                Some(one) => out.push_str(&interval_cell(number::interval_ms(&one.duration))),
                None => out.push_str("<td class=\"n\">absent</td>"),
            }
        }
        let (container, vm) = phase_meaning(phase);
        let meaning =
            if container == vm { container.to_owned() } else { format!("Container: {container}. VM: {vm}.") };
        let _ = writeln!(out, "<td class=\"meaning\">{}</td></tr>", escape(&meaning));
    }
    close(out);
}

/// Every comparison in figures.
pub fn comparisons(out: &mut String, report: &Report) {
    if report.summary.comparisons.is_empty() {
        return;
    }
    let heads =
        ["of, to", "ratio (95 % interval)", "longer by, ms", "Cliff's delta", "effect", "p (Mann-Whitney)"];
    open(out, "Comparisons", &heads);
    for one in &report.summary.comparisons {
        let part = one.phase.as_ref().map(|phase| format!(": {phase}")).unwrap_or_default();
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}, {}{}</th>{}{}<td class=\"n\">{:.2}</td><td class=\"n\">{}</td><td class=\"n\">{}</td></tr>",
            escape(facts::name(report, &one.of)),
            escape(facts::name(report, &one.to)),
            escape(&part),
            interval_cell(number::interval_ratio(&one.ratio)),
            interval_cell(number::interval_ms(&one.shift_ns)),
            one.cliffs_delta,
            format!("{:?}", one.magnitude).to_lowercase(),
            escape(&number::probability(one.p_value))
        );
    }
    close(out);
}

/// Whether each budget was kept.
pub fn budgets(out: &mut String, report: &Report) {
    if report.summary.budgets.is_empty() {
        return;
    }
    open(out, "Budgets, milliseconds", &["budget", "subject", "limit", "measured", "kept"]);
    for one in &report.summary.budgets {
        let _ = writeln!(
            out,
            "<tr><th scope=\"row\">{}</th><td class=\"n\">{}</td>{}{}<td class=\"n\">{}</td></tr>",
            escape(&one.budget),
            escape(facts::name(report, &one.subject)),
            ms_cell(one.limit_ns as f64),
            ms_cell(one.actual_ns as f64),
            if one.kept { "yes" } else { "no" }
        );
    }
    close(out);
}

/// Names and values.
pub fn facts(out: &mut String, caption: &str, facts: &[Fact]) {
    let _ = write!(
        out,
        "<h2>{caption}</h2>\n<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table><tbody>\n"
    );
    for (name, value) in facts {
        let _ = writeln!(out, "<tr><th scope=\"row\">{name}</th><td class=\"v\">{}</td></tr>", escape(value));
    }
    close(out);
}
