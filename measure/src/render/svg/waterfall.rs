//! Where the time of a start goes: one row a subject, its phases one after the other; on one scale of time, and each as a whole.
//!
//! Medians do not add up. On the scale of time a bar stands where its phase typically begins and ends, which need not be as far apart as
//! the phase's own median is long; what is written on it is that median, as in the tables. Shares are of the sum of those medians.

use super::canvas::{Anchor, CHARACTER, Canvas, Frame, Picture, Scale};
use super::style;
use crate::model::{Report, SubjectSummary};
use crate::render::{facts, number};

const ROW: f64 = 46.0;
const BAR: f64 = 24.0;
const TOP: f64 = 14.0;

/// Waterfall of the median phases.
pub fn draw(report: &Report, frame: Frame) -> Option<Picture> {
    let subjects: Vec<_> = facts::measured(report).collect();
    let longest =
        subjects.iter().map(|one| one.total.median.high.max(one.total.median.value)).fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let scale = Scale::linear(longest / 1e6, (frame.left, frame.right));
    let mut canvas = Canvas::new(frame);
    let bottom = TOP + ROW * subjects.len() as f64 + 6.0;
    canvas.horizontal_axis(&scale, (TOP, bottom), "milliseconds from the command's start (medians)");
    let mut description = vec![
        "A bar stands between the median moments of its phase's begin and end; named is its median length."
            .to_owned(),
    ];
    for (row, subject) in subjects.iter().enumerate() {
        let y = TOP + ROW * row as f64 + (ROW - BAR) / 2.0;
        let name = facts::name(report, &subject.subject);
        canvas.name(y + 17.0, name);
        description.push(draw_row(&mut canvas, &scale, subject, y, name));
    }
    let height = legend(&mut canvas, frame, &facts::phases(report), bottom + 56.0);
    Some(Picture::new(
        "waterfall",
        format!("Phases of a start of {}", report.question.image),
        description.join(" "),
        height,
        canvas,
    ))
}

/// Draws one subject's phases and says the same in words.
fn draw_row(canvas: &mut Canvas, scale: &Scale, subject: &SubjectSummary, y: f64, name: &str) -> String {
    let total = &subject.total.median;
    let mut words = Vec::new();
    if subject.phases.is_empty() {
        let left = scale.place(0.0);
        let width = scale.place(total.value / 1e6) - left;
        canvas.rect((left, y), (width, BAR), "p-whole", &format!("{name}: no phases known"));
    }
    for phase in &subject.phases {
        let (from, to) = (scale.place(phase.begin_ns / 1e6), scale.place(phase.end_ns / 1e6));
        let text = format!("{} {} ms", phase.phase, number::milliseconds(phase.duration.value));
        canvas.rect((from, y), (to - from, BAR), &format!("p-{}", phase.phase), &format!("{name}: {text}"));
        // A label that does not fit is left to the legend and the table.
        if fits(&phase.phase, to - from) {
            let class = style::text_on(&phase.phase);
            canvas.text(((from + to) / 2.0, y + 16.5), Anchor::Middle, class, &phase.phase);
        }
        words.push(text);
    }
    let middle = y + BAR + 6.0;
    canvas.line((scale.place(total.low / 1e6), middle), (scale.place(total.high / 1e6), middle), "mark");
    let end = scale.place(total.value.max(total.high) / 1e6) + 8.0;
    canvas.text((end, y + 17.0), Anchor::Start, "", format!("{} ms", number::milliseconds(total.value)));
    let parts = if words.is_empty() { "no phases known".to_owned() } else { words.join(", ") };
    format!("{name}: {} ms in all; {parts}.", number::interval_ms(total))
}

/// Whether a label stays within a bar.
fn fits(text: &str, width: f64) -> bool {
    width > CHARACTER * text.chars().count() as f64 + 8.0
}

/// Each start as a whole of its own: beside one that takes twenty times as long, the phases of a short one cannot be seen.
pub fn draw_shares(report: &Report, frame: Frame) -> Option<Picture> {
    let sum = |one: &SubjectSummary| one.phases.iter().map(|phase| phase.duration.value).sum::<f64>();
    let subjects: Vec<_> = facts::measured(report).filter(|one| sum(one) > 0.0).collect();
    if subjects.is_empty() {
        return None;
    }
    let scale = Scale::linear(100.0, (frame.left, frame.right));
    let mut canvas = Canvas::new(frame);
    let bottom = TOP + ROW * subjects.len() as f64 + 6.0;
    canvas.horizontal_axis(&scale, (TOP, bottom), "per cent of the sum of its phases' medians");
    let mut description = Vec::new();
    for (row, subject) in subjects.iter().enumerate() {
        let y = TOP + ROW * row as f64 + (ROW - BAR) / 2.0;
        let name = facts::name(report, &subject.subject);
        canvas.name(y + 17.0, name);
        let whole = sum(subject);
        let mut words = Vec::new();
        let mut to = 0.0;
        for phase in &subject.phases {
            let from = to;
            to += phase.duration.value / whole * 100.0;
            let (left, right) = (scale.place(from), scale.place(to));
            let text = format!("{} {:.0} %", phase.phase, to - from);
            canvas.rect(
                (left, y),
                (right - left, BAR),
                &format!("p-{}", phase.phase),
                &format!("{name}: {text}"),
            );
            if fits(&text, right - left) {
                let class = style::text_on(&phase.phase);
                canvas.text(((left + right) / 2.0, y + 16.5), Anchor::Middle, class, &text);
            }
            words.push(text);
        }
        let total = format!("{} ms", number::milliseconds(subject.total.median.value));
        canvas.text((scale.place(100.0) + 8.0, y + 17.0), Anchor::Start, "", &total);
        description.push(format!("{name}, {total}: {}.", words.join(", ")));
    }
    let height = legend(&mut canvas, frame, &facts::phases(report), bottom + 56.0);
    let title = format!("What each start of {} consists of", report.question.image);
    Some(Picture::new("shares", title, description.join(" "), height, canvas))
}

/// Swatch and name of each phase; gives the picture's height back.
fn legend(canvas: &mut Canvas, frame: Frame, phases: &[&str], top: f64) -> f64 {
    // A narrow picture has no room to leave free below the names of its rows.
    let left = if frame.suffix.is_empty() { frame.left } else { 16.0 };
    let (mut x, mut y) = (left, top);
    for phase in phases {
        let width = 36.0 + 8.5 * phase.len() as f64;
        if x + width > frame.right {
            x = left;
            y += 22.0;
        }
        canvas.rect((x, y - 11.0), (13.0, 13.0), &format!("p-{phase}"), "");
        canvas.text((x + 18.0, y), Anchor::Start, "", phase);
        x += width;
    }
    y + 14.0
}
