//! Where the time of a start goes: one row a subject, its phases one after the other; on one scale of time, and each as a whole.

use super::canvas::{Anchor, Canvas, LEFT, Picture, RIGHT, Scale};
use super::style;
use crate::model::{Report, SubjectSummary};
use crate::render::{facts, number};

const ROW: f64 = 46.0;
const BAR: f64 = 24.0;
const TOP: f64 = 14.0;

/// Waterfall of the median phases.
pub fn draw(report: &Report) -> Option<Picture> {
    let subjects = &report.summary.subjects;
    let longest =
        subjects.iter().map(|one| one.total.median.high.max(one.total.median.value)).fold(0.0, f64::max);
    if longest <= 0.0 {
        return None;
    }
    let scale = Scale::linear(longest / 1e6, (LEFT, RIGHT));
    let mut canvas = Canvas::default();
    let bottom = TOP + ROW * subjects.len() as f64;
    canvas.horizontal_axis(&scale, (TOP, bottom), "milliseconds from the command's start (medians)");
    let mut description = Vec::new();
    for (row, subject) in subjects.iter().enumerate() {
        let y = TOP + ROW * row as f64 + (ROW - BAR) / 2.0;
        let name = facts::name(report, &subject.subject);
        canvas.text((LEFT - 10.0, y + 17.0), Anchor::End, "strong", name);
        description.push(draw_row(&mut canvas, &scale, subject, y, name));
    }
    let height = legend(&mut canvas, &facts::phases(report), bottom + 56.0);
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
        let width = scale.place(total.value / 1e6) - LEFT;
        canvas.rect((LEFT, y), (width, BAR), "p-whole", &format!("{name}: no phases known"));
    }
    for phase in &subject.phases {
        let (from, to) = (scale.place(phase.begin_ns / 1e6), scale.place(phase.end_ns / 1e6));
        let text = format!("{} {} ms", phase.phase, number::milliseconds(phase.duration.value));
        canvas.rect((from, y), (to - from, BAR), &format!("p-{}", phase.phase), &format!("{name}: {text}"));
        // About seven units a character: a label that does not fit is left to the legend and the table.
        if to - from > 7.0 * phase.phase.len() as f64 + 8.0 {
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

/// Each start as a whole of its own: beside one that takes twenty times as long, the phases of a short one cannot be seen.
pub fn draw_shares(report: &Report) -> Option<Picture> {
    let subjects = report.summary.subjects.iter();
    let subjects: Vec<_> = subjects.filter(|one| one.phases.iter().any(|phase| phase.end_ns > 0.0)).collect();
    if subjects.is_empty() {
        return None;
    }
    let scale = Scale::linear(100.0, (LEFT, RIGHT));
    let mut canvas = Canvas::default();
    let bottom = TOP + ROW * subjects.len() as f64;
    canvas.horizontal_axis(&scale, (TOP, bottom), "per cent of its own start (medians)");
    let mut description = Vec::new();
    for (row, subject) in subjects.iter().enumerate() {
        let y = TOP + ROW * row as f64 + (ROW - BAR) / 2.0;
        let name = facts::name(report, &subject.subject);
        canvas.text((LEFT - 10.0, y + 17.0), Anchor::End, "strong", name);
        let whole = subject.phases.iter().map(|phase| phase.end_ns).fold(0.0, f64::max);
        let mut words = Vec::new();
        for phase in &subject.phases {
            let (from, to) = (phase.begin_ns / whole * 100.0, phase.end_ns / whole * 100.0);
            let (left, right) = (scale.place(from), scale.place(to));
            let text = format!("{} {:.0} %", phase.phase, to - from);
            canvas.rect(
                (left, y),
                (right - left, BAR),
                &format!("p-{}", phase.phase),
                &format!("{name}: {text}"),
            );
            if right - left > 7.0 * text.len() as f64 + 8.0 {
                let class = style::text_on(&phase.phase);
                canvas.text(((left + right) / 2.0, y + 16.5), Anchor::Middle, class, &text);
            }
            words.push(text);
        }
        let total = format!("{} ms", number::milliseconds(subject.total.median.value));
        canvas.text((scale.place(100.0) + 8.0, y + 17.0), Anchor::Start, "", &total);
        description.push(format!("{name}, {total}: {}.", words.join(", ")));
    }
    let height = legend(&mut canvas, &facts::phases(report), bottom + 56.0);
    let title = format!("What each start of {} consists of", report.question.image);
    Some(Picture::new("shares", title, description.join(" "), height, canvas))
}

/// Swatch and name of each phase; gives the picture's height back.
fn legend(canvas: &mut Canvas, phases: &[&str], top: f64) -> f64 {
    let (mut x, mut y) = (LEFT, top);
    for phase in phases {
        let width = 36.0 + 8.5 * phase.len() as f64;
        if x + width > RIGHT {
            x = LEFT;
            y += 22.0;
        }
        canvas.rect((x, y - 11.0), (13.0, 13.0), &format!("p-{phase}"), "");
        canvas.text((x + 18.0, y), Anchor::Start, "", phase);
        x += width;
    }
    y + 14.0
}
