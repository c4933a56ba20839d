//! One page that needs nothing else: no script, no font, no link.

mod tables;

use std::fmt::Write as _;

use super::facts;
use super::svg::{self, escape};
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
    tables::density(&mut out, report);
    tables::budgets(&mut out, report);
    reservations(&mut out, report);
    failures(&mut out, report);
    tables::facts(&mut out, "What was asked", &facts::question(report));
    tables::facts(&mut out, "Where it was measured", &facts::provenance(report));
    tables::facts(&mut out, "Command lines", &facts::commands(report));
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
    for text in [facts::partial(report), facts::nothing(report)].into_iter().flatten() {
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
    let narrow = svg::pictures(report, svg::NARROW);
    for (picture, narrow) in svg::pictures(report, svg::WIDE).iter().zip(narrow) {
        let _ = writeln!(
            out,
            "<figure><h2>{}</h2><div class=\"wide\" tabindex=\"0\" role=\"region\" aria-label=\"{}\">{}{}</div>\
             <figcaption>{}</figcaption></figure>",
            escape(&picture.title),
            escape(&picture.title),
            picture.inline(),
            narrow.inline(),
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
                "<li class=\"{class}\"><strong>{word}: {}</strong>: {}. <span class=\"soft\">Remedy: {}.</span></li>",
                escape(finding.what.trim_end_matches('.')),
                escape(finding.effect.trim_end_matches('.')),
                escape(finding.remedy.trim_end_matches('.'))
            );
        }
        out.push_str("</ul>\n");
    }
    for subject in &report.subjects {
        if let Some(text) = facts::differences(&subject.differences) {
            let name = escape(&subject.name);
            let _ = writeln!(out, "<p><strong>{name}</strong> does other work: {}.</p>", escape(&text));
        }
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
            "<p><strong>{}</strong>, start {}: {}.</p>",
            escape(facts::name(report, &failure.subject)),
            failure.order,
            escape(&facts::failure(failure))
        );
        if !failure.log.is_empty() {
            let _ = writeln!(out, "<pre>{}</pre>", escape(&failure.log.join("\n")));
        }
    }
}
