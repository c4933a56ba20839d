//! Memory and start time as instances grow.

use super::canvas::{Anchor, CHARACTER, Canvas, Frame, Picture, Scale, shorten};
use super::subject_class;
use crate::model::{DensityPoint, Report};
use crate::render::number;

const TOP: f64 = 14.0;
const BOTTOM: f64 = 250.0;
/// Distance of two names.
const LINE: f64 = 16.0;

/// One curve a subject.
struct Curve<'a> {
    id: &'static str,
    title: &'static str,
    unit: &'static str,
    value: &'a dyn Fn(&DensityPoint) -> f64,
}

/// Memory over instances, and start time over instances; nothing when it was not measured.
pub fn draw(report: &Report, frame: Frame) -> Vec<Picture> {
    let memory = |point: &DensityPoint| point.pss_bytes as f64 / f64::from(1 << 20);
    let start = |point: &DensityPoint| point.start_ns as f64 / 1e6;
    [
        Curve { id: "density-memory", title: "Memory of all instances (PSS)", unit: "MiB", value: &memory },
        Curve { id: "density-start", title: "Start of the last instance", unit: "ms", value: &start },
    ]
    .iter()
    .filter_map(|curve| draw_one(report, curve, frame))
    .collect()
}

fn draw_one(report: &Report, curve: &Curve<'_>, frame: Frame) -> Option<Picture> {
    let most = report.density.iter().map(|point| point.instances).max()?;
    let highest = report.density.iter().map(curve.value).fold(0.0, f64::max);
    let across = Scale::counts(most as f64, (frame.left, frame.end));
    let up = Scale::linear(highest, (BOTTOM, TOP));
    let mut canvas = Canvas::new(frame);
    for tick in up.ticks() {
        canvas.line((frame.left, up.place(tick)), (frame.end, up.place(tick)), "grid");
        canvas.text((frame.left - 8.0, up.place(tick) + 4.0), Anchor::End, "soft", number::tick(tick));
    }
    canvas.horizontal_axis(&across, (BOTTOM, BOTTOM), "instances running");
    canvas.text((frame.left - 60.0, TOP), Anchor::End, "soft", curve.unit);
    let mut description = Vec::new();
    let mut names = Vec::new();
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
        names.extend(places.last().map(|place| (*place, subject.name.as_str())));
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
    names.sort_by(|one, other| one.0.1.total_cmp(&other.0.1));
    let heights = apart(&names.iter().map(|((_, y), _)| *y).collect::<Vec<_>>(), BOTTOM);
    let room = ((frame.width - frame.end - 10.0) / CHARACTER * 1.1) as usize;
    for ((place, name), height) in names.into_iter().zip(heights) {
        if place.0 < frame.end {
            canvas.line((place.0 + 5.0, place.1), (frame.end + 6.0, height), "grid");
        }
        canvas.text((frame.end + 10.0, height + 4.0), Anchor::Start, "strong", shorten(name, room));
    }
    let title = curve.title.to_owned();
    Some(Picture::new(curve.id, title, description.join(" "), BOTTOM + 46.0, canvas))
}

/// The same heights in order, moved so that neighbours are a line apart and none is below `lowest`.
fn apart(heights: &[f64], lowest: f64) -> Vec<f64> {
    let mut moved = heights.to_vec();
    for index in 1..moved.len() {
        moved[index] = moved[index].max(moved[index - 1] + LINE);
    }
    let mut limit = lowest;
    for height in moved.iter_mut().rev() {
        *height = height.min(limit);
        limit = *height - LINE;
    }
    moved
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_curves_that_end_together_stand_apart() {
        assert_eq!(apart(&[10.0, 100.0], 250.0), [10.0, 100.0]);
        let crowded = apart(&[20.0, 240.0, 241.0, 242.0, 242.0], 250.0);
        assert!(crowded.windows(2).all(|pair| pair[1] - pair[0] >= LINE), "{crowded:?}");
        assert!(crowded[0] == 20.0 && crowded[4] <= 250.0, "{crowded:?}");
        assert!(apart(&[], 250.0).is_empty());
    }
}
