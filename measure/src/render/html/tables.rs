//! The page's tables: every fact of the pictures, in figures.

use std::fmt::Write as _;

use crate::model::{Report, phase_meaning};
use crate::render::svg::escape;
use crate::render::{facts, number};

/// A table with heads of columns; the first column names the rows.
struct Table<'a> {
    out: &'a mut String,
    heads: Vec<&'a str>,
}

impl<'a> Table<'a> {
    fn open(out: &'a mut String, caption: &str, heads: Vec<&'a str>) -> Self {
        begin(out, caption);
        out.push_str("<thead><tr>");
        for (index, head) in heads.iter().enumerate() {
            let class = if index == 0 || *head == MEANING { "" } else { " class=\"n\"" };
            let _ = write!(out, "<th scope=\"col\"{class}>{}</th>", escape(head));
        }
        out.push_str("</tr></thead><tbody>\n");
        Self { out, heads }
    }

    /// Each cell has its column's head, which the page shows where there is no room for columns.
    fn row(&mut self, name: &str, cells: impl IntoIterator<Item = String>) {
        let _ = write!(self.out, "<tr><th scope=\"row\">{}</th>", escape(name));
        for (head, cell) in self.heads.iter().skip(1).zip(cells) {
            let class = if *head == MEANING { "meaning" } else { "n" };
            let cell = match cell.split_once(" (") {
                Some((median, interval)) if class == "n" => {
                    format!("{} <span class=\"soft\">({}</span>", escape(median), escape(interval))
                }
                _ => escape(&cell),
            };
            let _ = write!(self.out, "<td class=\"{class}\" data-head=\"{}\">{cell}</td>", escape(head));
        }
        self.out.push_str("</tr>\n");
    }

    fn close(self) {
        self.out.push_str("</tbody></table></div>\n");
    }
}

/// Head of the column that has sentences.
const MEANING: &str = "meaning";

fn begin(out: &mut String, caption: &str) {
    let _ = write!(
        out,
        "<h2>{caption}</h2>\n<div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{caption}\"><table>"
    );
}

/// From the command to readiness.
pub fn whole(out: &mut String, report: &Report) {
    if facts::measured(report).next().is_none() {
        return;
    }
    let heads =
        ["", "median (95 % interval)", "p95", "p99", "min", "max", "ratio (95 % interval)", "outliers"];
    let mut table = Table::open(out, "The whole, milliseconds", heads.to_vec());
    for subject in facts::measured(report) {
        let total = &subject.total;
        let ratio =
            report.summary.comparisons.iter().find(|one| one.of == subject.subject && one.phase.is_none());
        let cells = [
            number::interval_ms(&total.median),
            number::milliseconds(total.p95.value),
            number::milliseconds(total.p99.value),
            number::milliseconds(total.min as f64),
            number::milliseconds(total.max as f64),
            ratio.map_or_else(|| "1".to_owned(), |one| number::interval_ratio(&one.ratio)),
            format!("{} of {}", total.outliers.len(), total.count),
        ];
        table.row(facts::name(report, &subject.subject), cells);
    }
    table.close();
    out.push_str("<p class=\"soft\">Outliers are reported and counted like all others. ");
    if let Some(text) = facts::thin(report) {
        let _ = write!(out, "<strong>{}</strong> ", escape(&text));
    }
    let worst = facts::measured(report).filter_map(|subject| subject.worst_gap).fold(None, larger);
    match worst {
        None => {}
        Some(0.0) => out.push_str("In every start the phases add up to the whole."),
        Some(gap) => {
            let most = facts::gap(gap);
            let most = escape(most.trim_start_matches("< "));
            let _ = write!(out, "In no start do the phases and the whole differ by more than {most} of it.");
        }
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
    heads.push(MEANING);
    let mut table = Table::open(out, "Phases, milliseconds: median (95 % interval)", heads);
    for phase in used {
        let found = with.iter().map(|subject| subject.phases.iter().find(|one| one.phase == phase));
        let figures = found
            .map(|one| one.map_or_else(|| "absent".to_owned(), |one| number::interval_ms(&one.duration)));
        let (container, vm) = phase_meaning(phase);
        let meaning =
            if container == vm { container.to_owned() } else { format!("Container: {container}. VM: {vm}.") };
        table.row(phase, figures.chain([meaning]));
    }
    table.close();
}

/// Every comparison in figures.
pub fn comparisons(out: &mut String, report: &Report) {
    if report.summary.comparisons.is_empty() {
        return;
    }
    let heads = ["", "ratio (95 % interval)", "longer by, ms", "Cliff's delta", "effect", "p (Mann-Whitney)"];
    let mut table = Table::open(out, "Comparisons", heads.to_vec());
    for one in &report.summary.comparisons {
        let part = one.phase.as_ref().map(|phase| format!(": {phase}")).unwrap_or_default();
        let (of, to) = (facts::name(report, &one.of), facts::name(report, &one.to));
        let cells = [
            number::interval_ratio(&one.ratio),
            number::interval_ms(&one.shift_ns),
            format!("{:.2}", one.cliffs_delta),
            format!("{:?}", one.magnitude).to_lowercase(),
            number::probability(one.p_value),
        ];
        table.row(&format!("{of} against {to}{part}"), cells);
    }
    table.close();
}

/// Memory and start time as instances grow.
pub fn density(out: &mut String, report: &Report) {
    if report.density.is_empty() {
        return;
    }
    let heads =
        ["", "memory (PSS), MiB", "a piece, MiB", "start of the last, ms", "MemAvailable of the host, MiB"];
    let mut table = Table::open(out, "As instances grow", heads.to_vec());
    for subject in &report.subjects {
        for point in report.density.iter().filter(|point| point.subject == subject.id) {
            let cells = [
                number::mebibytes(point.pss_bytes),
                number::mebibytes(point.pss_bytes / point.instances.max(1) as u64),
                number::milliseconds(point.start_ns as f64),
                number::mebibytes(point.available_bytes),
            ];
            table.row(&format!("{}, {}", subject.name, facts::counted(point.instances, "instance")), cells);
        }
    }
    table.close();
}

/// Whether each budget was kept.
pub fn budgets(out: &mut String, report: &Report) {
    if report.summary.budgets.is_empty() {
        return;
    }
    let heads = ["budget", "subject", "limit", "measured", "kept"];
    let mut table = Table::open(out, "Budgets, milliseconds", heads.to_vec());
    for one in &report.summary.budgets {
        let cells = [
            facts::name(report, &one.subject).to_owned(),
            number::milliseconds(one.limit_ns as f64),
            number::milliseconds(one.actual_ns as f64),
            if one.kept { "yes" } else { "no" }.to_owned(),
        ];
        table.row(&one.budget, cells);
    }
    table.close();
}

/// Names and values.
pub fn facts<N: AsRef<str>>(out: &mut String, caption: &str, facts: &[(N, String)]) {
    begin(out, caption);
    out.push_str("<tbody>\n");
    for (name, value) in facts {
        let name = escape(name.as_ref());
        let _ = writeln!(out, "<tr><th scope=\"row\">{name}</th><td class=\"v\">{}</td></tr>", escape(value));
    }
    out.push_str("</tbody></table></div>\n");
}
