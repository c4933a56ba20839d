//! Pictures: scalable, with text alternatives, readable in light and dark.

mod canvas;
mod density;
mod distribution;
mod ratio;
mod style;
mod waterfall;

use std::fmt::Write as _;

pub use canvas::{Picture, escape};
pub use style::CSS;

use super::facts;
use crate::model::Report;

/// Height of the text above each picture of [`render`].
const HEADING: f64 = 40.0;

/// Every picture that the report has data for.
pub fn pictures(report: &Report) -> Vec<Picture> {
    [waterfall::draw(report), waterfall::draw_shares(report), distribution::draw(report), ratio::draw(report)]
        .into_iter()
        .flatten()
        .chain(density::draw(report))
        .collect()
}

/// One file with all pictures, one below the other, and the provenance as its metadata.
pub fn render(report: &Report) -> String {
    let mut body = String::new();
    let mut y = HEADING;
    if let Some(text) = facts::partial(report) {
        let _ = write!(body, "<text x=\"16\" y=\"24\" class=\"strong\">{}</text>", escape(&text));
        y += 24.0;
    }
    for picture in pictures(report) {
        body.push_str(&picture.part(y));
        y += picture.height + HEADING;
    }
    let mut about = String::new();
    for (name, value) in facts::question(report).into_iter().chain(facts::provenance(report)) {
        let _ = writeln!(about, "{name}: {value}");
    }
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" class=\"rkvm-chart\" viewBox=\"0 0 {w} {h:.0}\" width=\"{w}\" height=\"{h:.0}\">\
         <metadata>{about}</metadata><style>{CSS}</style><rect class=\"ground\" width=\"100%\" height=\"100%\"/>{body}</svg>\n",
        w = canvas::WIDTH,
        h = y - HEADING + 10.0,
        about = escape(&about),
    )
}

/// Class of the colour of the subject at `index`.
fn subject_class(index: usize) -> &'static str {
    const CLASSES: [&str; style::SUBJECT_COLOURS] = ["s0", "s1", "s2", "s3", "s4", "s5", "s6"];
    CLASSES[index % CLASSES.len()]
}
