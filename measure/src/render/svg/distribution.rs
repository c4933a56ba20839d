//! Every start as a dot: what medians hide.

use super::canvas::{Canvas, Frame, Picture, Scale};
use super::subject_class;
use crate::model::{Report, SampleKind};
use crate::render::{facts, number};

const ROW: f64 = 64.0;
const TOP: f64 = 14.0;
/// Above this ratio of the longest to the shortest start the axis is logarithmic.
const LINEAR_SPAN: f64 = 8.0;

/// All measured starts of each subject, with median, its interval, and the 95th percentile.
pub fn draw(report: &Report, frame: Frame) -> Option<Picture> {
    let measured = || report.samples.iter().filter(|sample| sample.kind == SampleKind::Measured);
    let longest = measured().map(|sample| sample.total_ns).max()? as f64 / 1e6;
    let shortest = measured().map(|sample| sample.total_ns).min()? as f64 / 1e6;
    let logarithmic = shortest > 0.0 && longest / shortest > LINEAR_SPAN;
    let scale = if logarithmic {
        Scale::logarithmic(shortest, longest, (frame.left, frame.right))
    } else {
        Scale::linear(longest, (frame.left, frame.right))
    };
    let mut canvas = Canvas::new(frame);
    let subjects: Vec<_> = facts::measured(report).collect();
    let bottom = TOP + ROW * subjects.len() as f64 + 6.0;
    let kind = if scale.is_logarithmic() { ", logarithmic" } else { "" };
    canvas.horizontal_axis(
        &scale,
        (TOP, bottom),
        &format!("milliseconds from the command's start to readiness{kind}"),
    );
    let mut description = vec![
        "Thick line: median with its 95 % interval below; thin line: 95th percentile; ring: outlier."
            .to_owned(),
    ];
    for (row, subject) in subjects.iter().enumerate() {
        let middle = TOP + ROW * (row as f64 + 0.5);
        let name = facts::name(report, &subject.subject);
        canvas.name(middle + 4.0, name);
        let class = format!("dot {}", subject_class(facts::place(report, &subject.subject)));
        for sample in measured().filter(|sample| sample.subject == subject.subject) {
            let ms = sample.total_ns as f64 / 1e6;
            let tip = format!("start {}: {} ms", sample.order, number::significant(ms));
            let place = (scale.place(ms), middle + spread(sample.order, sample.instance));
            canvas.dot(place, 3.2, &class, &tip);
            if subject.total.outliers.contains(&sample.order) {
                canvas.ring(place, 5.5);
            }
        }
        let total = &subject.total;
        let at = |ns: f64| scale.place(ns / 1e6);
        canvas.line((at(total.median.value), middle - 22.0), (at(total.median.value), middle + 22.0), "mark");
        canvas.line((at(total.median.low), middle + 24.0), (at(total.median.high), middle + 24.0), "mark");
        canvas.line((at(total.p95.value), middle - 18.0), (at(total.p95.value), middle + 18.0), "axis");
        description.push(format!(
            "{name}: {} starts from {} to {} ms, median {} ms, 95th percentile {} ms, {} beyond Tukey's fences.",
            total.count,
            number::milliseconds(total.min as f64),
            number::milliseconds(total.max as f64),
            number::milliseconds(total.median.value),
            number::milliseconds(total.p95.value),
            total.outliers.len()
        ));
    }
    let title = format!("Every start of {}", report.question.image);
    Some(Picture::new("distribution", title, description.join(" "), bottom + 46.0, canvas))
}

/// Sideways place of a dot, the same each time the report is drawn: multiples of the golden ratio, which do not clump.
fn spread(order: usize, instance: usize) -> f64 {
    let part = ((order + 31 * instance) as f64 * 0.618_033_988_75).fract();
    (part - 0.5) * 34.0
}
