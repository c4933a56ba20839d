//! Pictures: scalable, with text alternatives, readable in light and dark.

mod canvas;
mod density;
mod distribution;
mod ratio;
mod style;
mod waterfall;

use std::fmt::Write as _;

pub use canvas::{Frame, NARROW, Picture, WIDE, escape, shorten};
pub use style::CSS;

use super::facts;
use crate::model::Report;

/// Height of the text above each picture of [`render`].
const HEADING: f64 = 40.0;
/// Characters of a line below the pictures.
const LINE: usize = 110;

/// Every picture that the report has data for.
pub fn pictures(report: &Report, frame: Frame) -> Vec<Picture> {
    [
        waterfall::draw(report, frame),
        waterfall::draw_shares(report, frame),
        distribution::draw(report, frame),
        ratio::draw(report, frame),
    ]
    .into_iter()
    .flatten()
    .chain(density::draw(report, frame))
    .collect()
}

/// One file with all pictures, one below the other; below them what distorts them, and everything else that a reader must know as metadata.
pub fn render(report: &Report) -> String {
    let mut body = String::new();
    let mut y = HEADING;
    for text in [facts::partial(report), facts::nothing(report)].into_iter().flatten() {
        line(&mut body, y - 16.0, "strong", &text);
        y += 24.0;
    }
    for picture in pictures(report, WIDE) {
        body.push_str(&picture.part(y));
        y += picture.height + HEADING;
    }
    y -= HEADING / 2.0;
    for text in footer(report) {
        line(&mut body, y, "soft", &text);
        y += 18.0;
    }
    let mut about = String::new();
    for (name, value) in facts::question(report).into_iter().chain(facts::provenance(report)) {
        let _ = writeln!(about, "{name}: {value}");
    }
    for (name, value) in facts::remarks(report).into_iter().chain(facts::wholes(report)) {
        let _ = writeln!(about, "{name}: {value}");
    }
    let _ = writeln!(about, "Samples: {}", facts::samples(report));
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"rkvm-chart\" viewBox=\"0 0 {w} {h:.0}\" width=\"{w}\" height=\"{h:.0}\">\
         <metadata>{about}</metadata><style>{CSS}</style><rect class=\"ground\" width=\"100%\" height=\"100%\"/>{body}</svg>\n",
        w = WIDE.width,
        h = y,
        about = escape(&about),
    )
}

fn line(body: &mut String, y: f64, class: &str, text: &str) {
    let text = escape(&shorten(text, LINE));
    let _ = write!(body, "<text x=\"16\" y=\"{y:.0}\" class=\"{class}\">{text}</text>");
}

/// What stands below the pictures, for those who see nothing else of the report.
fn footer(report: &Report) -> Vec<String> {
    let mut lines: Vec<String> = report.findings.iter().map(facts::brief).collect();
    lines.extend(report.missing.iter().map(|one| format!("Not measured: {}: {}", one.id, one.reason)));
    match report.failures.len() {
        0 => {}
        count => lines.push(format!("{} failed", facts::counted(count, "start"))),
    }
    lines.push(facts::samples(report));
    lines
}

/// Class of the colour of the subject at `index`.
fn subject_class(index: usize) -> &'static str {
    const CLASSES: [&str; style::SUBJECT_COLOURS] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6"];
    CLASSES[index % CLASSES.len()]
}
