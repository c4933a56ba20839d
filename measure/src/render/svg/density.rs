//! Memory and start time as instances grow.

use super::canvas::{Anchor, Canvas, LEFT, Picture, RIGHT, Scale};
use super::subject_class;
use crate::model::{DensityPoint, Report};
use crate::render::number;

const TOP: f64 = 14.0;
const BOTTOM: f64 = 250.0;

/// One curve a subject.
struct Curve<'a> {
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    value: &'a dyn Fn(&DensityPoint) -> f64,
}

/// Memory over instances, and start time over instances; nothing when it was not measured.
pub fn draw(report: &Report) -> Vec<Picture> {
    let memory = |point: &DensityPoint| point.pss_bytes as f64 / f64::from(1 << 20);
    let start = |point: &DensityPoint| point.start_ns as f64 / 1e6;
    [
        Curve { id: "density-memory", title: "Memory of all instances (PSS)", unit: "MiB", value: &memory },
        Curve { id: "density-start", title: "Start of the last instance", unit: "ms", value: &start },
    ]
    .iter()
    .filter_map(|curve| draw_one(report, curve))
    .collect()
}

fn draw_one(report: &Report, curve: &Curve<'_>) -> Option<Picture> {
    let most = report.density.iter().map(|point| point.instances).max()?;
    let highest = report.density.iter().map(curve.value).fold(0.0, f64::max);
    let across = Scale::linear(most as f64, (LEFT, RIGHT));
    let up = Scale::linear(highest, (BOTTOM, TOP));
    let mut canvas = Canvas::default();
    for tick in up.ticks() {
        canvas.line((LEFT, up.place(tick)), (RIGHT, up.place(tick)), "grid");
        canvas.text((LEFT - 8.0, up.place(tick) + 4.0), Anchor::End, "soft", number::tick(tick));
    }
    canvas.horizontal_axis(&across, (BOTTOM, BOTTOM), "instances running");
    canvas.text((LEFT - 60.0, TOP), Anchor::End, "soft", curve.unit);
    let mut description = Vec::new();
    for (index, subject) in report.subjects.iter().enumerate() {
        let points: Vec<&DensityPoint> =
            report.density.iter().filter(|point| point.subject == subject.id).collect();
        let (Some(first), Some(last)) = (points.first(), points.last()) else { continue };
        let places: Vec<(f64, f64)> = points
            .iter()
            .map(|point| (across.place(point.instances as f64), up.place((curve.value)(point))))
            .collect();
        canvas.path(&places, &format!("line {}", subject_class(index)));
        for (place, point) in places.iter().zip(&points) {
            let tip =
                format!("{}: {} {}", point.instances, number::significant((curve.value)(point)), curve.unit);
            canvas.dot(*place, 3.2, subject_class(index), &tip);
        }
        if let Some((x, y)) = places.last() {
            canvas.text((x + 8.0, y + 4.0), Anchor::Start, "strong", &subject.name);
        }
        description.push(format!(
            "{}: {} {unit} with {}, {} {unit} with {} instances.",
            subject.name,
            number::significant((curve.value)(first)),
            first.instances,
            number::significant((curve.value)(last)),
            last.instances,
            unit = curve.unit
        ));
    }
    let title = curve.title.to_owned();
    Some(Picture::new(curve.id, title, description.join(" "), BOTTOM + 46.0, canvas))
}
