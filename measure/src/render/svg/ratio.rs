//! Ratios to the first subject, with their intervals.

use super::canvas::{Anchor, Canvas, Frame, Picture, Scale};
use super::subject_class;
use crate::model::{Comparison, Report};
use crate::render::{facts, number};

const ROW: f64 = 40.0;
const TOP: f64 = 14.0;

/// The ratios of the whole.
pub fn draw(report: &Report, frame: Frame) -> Option<Picture> {
    let rows: Vec<&Comparison> =
        report.summary.comparisons.iter().filter(|one| one.phase.is_none()).collect();
    let base = facts::name(report, &rows.first()?.to).to_owned();
    let low = rows.iter().map(|one| one.ratio.low).fold(1.0, f64::min);
    let high = rows.iter().map(|one| one.ratio.high).fold(1.0, f64::max);
    let scale = Scale::logarithmic(low, high, (frame.left, frame.right));
    let bottom = TOP + ROW * rows.len() as f64;
    let mut canvas = Canvas::new(frame);
    let axis = format!("times the start of {base} (ratio of medians, logarithmic)");
    canvas.horizontal_axis(&scale, (TOP, bottom), &axis);
    canvas.line((scale.place(1.0), TOP), (scale.place(1.0), bottom), "mark");
    let mut description = Vec::new();
    for (row, one) in rows.iter().enumerate() {
        let y = TOP + ROW * (row as f64 + 0.5);
        let index = facts::place(report, &one.of);
        canvas.name(y + 4.0, facts::name(report, &one.of));
        canvas.line((scale.place(one.ratio.low), y), (scale.place(one.ratio.high), y), "mark");
        let text = number::interval_ratio(&one.ratio);
        canvas.dot((scale.place(one.ratio.value), y), 5.0, subject_class(index), &text);
        canvas.text(
            (scale.place(one.ratio.high) + 10.0, y + 4.0),
            Anchor::Start,
            "",
            number::significant(one.ratio.value),
        );
        description.push(format!("{}: {text} times {base}.", facts::name(report, &one.of)));
    }
    let title = format!("How many times {base}");
    Some(Picture::new("ratio", title, description.join(" "), bottom + 46.0, canvas))
}
