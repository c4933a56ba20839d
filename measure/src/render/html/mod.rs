//! One page that needs nothing else: no script, no font, no link.

mod tables;

use std::fmt::Write as _;

use super::svg::{self, escape};
use super::{facts, number};
use crate::model::{Report, Severity};

const STYLE: &str = include_str!("page.css");

/// The page. The whole report is in it as JSON, in the element `report`.
///
/// # Errors
/// The report cannot be written as JSON (a figure is not a number).
pub fn render(report: &Report) -> serde_json::Result<String> {
    let mut out = String::new();
    let title = format!("Start of {}", escape(&report.question.image));
    let _ = write!(
        out,
        "<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n\
         <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\n<title>{title}</title>\n\
         <style>\n{STYLE}{}</style>\n</head>\n<body>\n<main>\n<h1>{title}</h1>\n",
        svg::CSS
    );
    head(&mut out, report);
    tables::whole(&mut out, report);
    pictures(&mut out, report);
    tables::phases(&mut out, report);
    tables::comparisons(&mut out, report);
    tables::budgets(&mut out, report);
    reservations(&mut out, report);
    failures(&mut out, report);
    tables::facts(&mut out, "What was asked", &facts::question(report));
    tables::facts(&mut out, "Where it was measured", &facts::provenance(report));
    // In JSON `<` stands only in strings. Written as an escape it can neither end the element nor begin a comment in it,
    // which an image's name could otherwise do.
    let json = serde_json::to_string(report)?.replace('<', "\\u003c");
    let _ = write!(
        out,
        "<p class=\"soft\">The raw samples are in this page, as JSON in the element <code>report</code>; \
         <code>rkvm compare --json</code> writes the same.</p>\n\
         <script type=\"application/json\" id=\"report\">{json}</script>\n</main>\n</body>\n</html>\n"
    );
    Ok(out)
}

fn head(out: &mut String, report: &Report) {
    let _ = writeln!(
        out,
        "<p class=\"soft\">ready when <code>{}</code> &middot; {} runs each &middot; {} &middot; rkvm {}</p>",
        escape(&report.question.ready),
        report.question.runs,
        escape(&whole_seconds(&report.started)),
        escape(&report.provenance.rkvm_version)
    );
    if let Some(text) = facts::partial(report) {
        let _ = writeln!(out, "<p class=\"banner\" role=\"alert\">{}</p>", escape(&text));
    }
    if let Some(first) = report.summary.comparisons.iter().find(|one| one.phase.is_none()) {
        let _ = writeln!(out, "<p class=\"lead\">{}</p>", escape(&first.sentence));
    }
    let warnings = report.findings.iter().filter(|one| one.severity == Severity::Warning).count();
    if warnings > 0 {
        let _ = writeln!(
            out,
            "<p>{warnings} {} these figures: <a href=\"#reservations\">see below</a>.</p>",
            if warnings == 1 { "circumstance distorts" } else { "circumstances distort" }
        );
    }
}

/// A moment without its fraction of a second.
fn whole_seconds(moment: &str) -> String {
    moment.split_once('.').map_or_else(|| moment.to_owned(), |(seconds, _)| format!("{seconds}Z"))
}

fn pictures(out: &mut String, report: &Report) {
    for picture in svg::pictures(report) {
        let _ = writeln!(
            out,
            "<figure><h2>{}</h2><div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">{}</div>\
             <figcaption>{}</figcaption></figure>",
            escape(&picture.title),
            escape(&picture.title),
            picture.inline(),
            escape(&picture.description)
        );
    }
}

fn reservations(out: &mut String, report: &Report) {
    let _ = writeln!(out, "<h2 id=\"reservations\">What may distort these figures</h2>");
    if report.findings.is_empty() {
        out.push_str("<p>Nothing was found.</p>\n");
    } else {
        out.push_str("<ul>\n");
        for finding in &report.findings {
            let (class, word) = match finding.severity {
                Severity::Warning => ("warning", "Warning"),
                Severity::Note => ("note", "Note"),
            };
            let _ = writeln!(
                out,
                "<li class=\"{class}\"><strong>{word}: {}.</strong> {} <span class=\"soft\">{}</span></li>",
                escape(finding.what.trim_end_matches('.')),
                escape(&finding.effect),
                escape(&finding.remedy)
            );
        }
        out.push_str("</ul>\n");
    }
    let differing = report.subjects.iter().filter(|subject| !subject.differences.is_empty());
    for subject in differing {
        let _ = writeln!(
            out,
            "<p><strong>{}</strong> does other work: {}</p>",
            escape(&subject.name),
            escape(&subject.differences.join(" "))
        );
    }
    for missing in &report.missing {
        let _ = writeln!(
            out,
            "<p><strong>{}</strong> was asked for and did not take part: {}</p>",
            escape(&missing.id),
            escape(&missing.reason)
        );
    }
}

fn failures(out: &mut String, report: &Report) {
    if report.failures.is_empty() {
        return;
    }
    out.push_str("<h2>Starts that failed</h2>\n");
    for failure in &report.failures {
        let _ = writeln!(
            out,
            "<p><strong>{}</strong>, start {}: {} Last phase reached: {}.</p>",
            escape(facts::name(report, &failure.subject)),
            failure.order,
            escape(&failure.message),
            escape(failure.reached.as_deref().unwrap_or("none"))
        );
        if !failure.log.is_empty() {
            let _ = writeln!(out, "<pre>{}</pre>", escape(&failure.log.join("\n")));
        }
    }
}

/// A cell with a median and its interval.
fn interval_cell(value: String) -> String {
    match value.split_once(' ') {
        Some((median, interval)) => {
            format!("<td class=\"n\">{median} <span class=\"soft\">{interval}</span></td>")
        }
        None => format!("<td class=\"n\">{value}</td>"),
    }
}

/// A cell with a number of milliseconds.
fn ms_cell(ns: f64) -> String {
    format!("<td class=\"n\">{}</td>", number::milliseconds(ns))
}
