//! A picture being drawn: elements, axes, text alternatives.

use std::fmt::{Display, Write as _};

use crate::render::number;

/// Where things are across a picture, in its own units.
#[derive(Debug, Clone, Copy)]
pub struct Frame {
    /// Width of the picture.
    pub width: f64,
    /// Where names of rows end and the plot begins.
    pub left: f64,
    /// Where the plot ends; behind it is room for labels.
    pub right: f64,
    /// Where plots end behind which stand names.
    pub end: f64,
    /// Appended to ids, which are unique in a page that has the picture in both frames.
    pub suffix: &'static str,
}

/// For files and for windows of usual width.
pub const WIDE: Frame = Frame { width: 860.0, left: 170.0, right: 770.0, end: 705.0, suffix: "" };
/// For telephones: scaled down to one, the wide picture's text could not be read.
pub const NARROW: Frame = Frame { width: 450.0, left: 124.0, right: 376.0, end: 320.0, suffix: "-narrow" };

/// Units that a character takes in the widest usual font; estimates must not be too small.
pub const CHARACTER: f64 = 8.5;
/// Characters of a title that fit above a picture.
const TITLE: usize = 96;

/// A text of at most `most` characters: the middle of a longer one, which says least in names of images, is left out.
pub fn shorten(text: &str, most: usize) -> String {
    let count = text.chars().count();
    if count <= most {
        return text.to_owned();
    }
    let kept = most.saturating_sub(1);
    let first: String = text.chars().take(kept - kept / 2).collect();
    let last: String = text.chars().skip(count - kept / 2).collect();
    format!("{first}…{last}")
}

/// Elements in the order in which they are painted.
#[derive(Debug)]
pub struct Canvas {
    body: String,
    frame: Frame,
}

/// Where a text stands relative to its point.
#[derive(Debug, Clone, Copy)]
pub enum Anchor {
    /// Begins there.
    Start,
    /// Its middle is there.
    Middle,
    /// Ends there.
    End,
}

impl Canvas {
    /// An empty one.
    pub fn new(frame: Frame) -> Self {
        Self { body: String::new(), frame }
    }

    /// The name of a row, left of the plot.
    pub fn name(&mut self, y: f64, name: &str) {
        let left = self.frame.left - 10.0;
        self.text((left, y), Anchor::End, "strong", shorten(name, (left / CHARACTER * 1.1) as usize));
    }

    /// A circle around a dot.
    pub fn ring(&mut self, (x, y): (f64, f64), radius: f64) {
        let _ = write!(self.body, "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" class=\"ring\"/>");
    }

    /// A rectangle with a tooltip; `classes` decide its look.
    pub fn rect(&mut self, (x, y): (f64, f64), (width, height): (f64, f64), classes: &str, tip: &str) {
        let _ = write!(
            self.body,
            "<rect x=\"{x:.1}\" y=\"{y:.1}\" width=\"{:.2}\" height=\"{height:.1}\" class=\"{classes}\">{}</rect>",
            width.max(0.5),
            title(tip)
        );
    }

    /// A straight line.
    pub fn line(&mut self, (x1, y1): (f64, f64), (x2, y2): (f64, f64), classes: &str) {
        let _ = write!(
            self.body,
            "<line x1=\"{x1:.1}\" y1=\"{y1:.1}\" x2=\"{x2:.1}\" y2=\"{y2:.1}\" class=\"{classes}\"/>"
        );
    }

    /// A dot with a tooltip.
    pub fn dot(&mut self, (x, y): (f64, f64), radius: f64, classes: &str, tip: &str) {
        let _ = write!(
            self.body,
            "<circle cx=\"{x:.1}\" cy=\"{y:.1}\" r=\"{radius}\" stroke=\"none\" style=\"stroke:none\" class=\"{classes}\">{}</circle>",
            title(tip)
        );
    }

    /// A line through `points`.
    pub fn path(&mut self, points: &[(f64, f64)], classes: &str) {
        let points: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(
            self.body,
            "<polyline points=\"{}\" style=\"fill:none\" class=\"{classes}\"/>",
            points.join(" ")
        );
    }

    /// A text on the base line `y`.
    pub fn text(&mut self, (x, y): (f64, f64), anchor: Anchor, classes: &str, text: impl Display) {
        let anchor = match anchor {
            Anchor::Start => "start",
            Anchor::Middle => "middle",
            Anchor::End => "end",
        };
        let _ = write!(
            self.body,
            "<text x=\"{x:.1}\" y=\"{y:.1}\" text-anchor=\"{anchor}\" class=\"{classes}\">{}</text>",
            escape(&text.to_string())
        );
    }

    /// Grid lines and values of a horizontal axis below a plot that begins at `top`, and the axis' title.
    pub fn horizontal_axis(&mut self, scale: &Scale, (top, bottom): (f64, f64), label: &str) {
        let mut free = f64::MIN;
        for tick in scale.ticks() {
            let (x, text) = (scale.place(tick), number::tick(tick));
            let half = CHARACTER * text.len() as f64 / 2.0;
            self.line((x, top), (x, bottom), "grid");
            // A value for which there is no room is left to its neighbours.
            if x - half > free {
                self.text((x, bottom + 17.0), Anchor::Middle, "soft", text);
                free = x + half;
            }
        }
        self.line((scale.from, bottom), (scale.to, bottom), "axis");
        let middle = (scale.from + scale.to) / 2.0;
        let half = CHARACTER * label.chars().count() as f64 / 2.0;
        let fits = middle - half > 0.0 && middle + half < self.frame.width;
        let middle = if fits { middle } else { self.frame.width / 2.0 };
        self.text((middle, bottom + 36.0), Anchor::Middle, "soft", label);
    }
}

/// A finished picture.
#[derive(Debug, Clone)]
pub struct Picture {
    /// Unique in its page.
    pub id: &'static str,
    /// What it shows.
    pub title: String,
    /// The same facts in words, for those who do not see it.
    pub description: String,
    /// Height in its own units.
    pub height: f64,
    body: String,
    frame: Frame,
}

impl Picture {
    /// The picture drawn on `canvas`.
    pub fn new(id: &'static str, title: String, description: String, height: f64, canvas: Canvas) -> Self {
        Self { id, title, description, height, body: canvas.body, frame: canvas.frame }
    }

    /// As an element of an HTML page, whose style sheet has [`super::CSS`].
    pub fn inline(&self) -> String {
        format!(
            "<svg class=\"rkvm-chart{narrow}\" viewBox=\"0 0 {w} {h}\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\">\
             <title id=\"{id}-t\">{t}</title><desc id=\"{id}-d\">{d}</desc>{body}</svg>",
            narrow = self.frame.suffix.replace('-', " "),
            w = self.frame.width,
            h = self.height,
            id = format_args!("{}{}", self.id, self.frame.suffix),
            t = escape(&self.title),
            d = escape(&self.description),
            body = self.body
        )
    }

    /// As a part of a larger picture, moved down by `y`, with its title above it.
    pub fn part(&self, y: f64) -> String {
        format!(
            "<g transform=\"translate(0 {y:.1})\" role=\"img\" aria-labelledby=\"{id}-t {id}-d\"><title id=\"{id}-t\">{t}</title>\
             <desc id=\"{id}-d\">{d}</desc><text x=\"16\" y=\"-8\" class=\"strong\">{heading}</text>{body}</g>",
            id = self.id,
            t = escape(&self.title),
            d = escape(&self.description),
            heading = escape(&shorten(&self.title, TITLE)),
            body = self.body
        )
    }
}

/// Maps values to places on an axis.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Kind {
    Linear,
    /// Of whole numbers.
    Counts,
    Logarithmic,
}

impl Scale {
    /// From 0 to a little above `high`, between the places `from` and `to`.
    pub fn linear(high: f64, (from, to): (f64, f64)) -> Self {
        Self { low: 0.0, high: high.max(f64::MIN_POSITIVE) * 1.02, from, to, kind: Kind::Linear }
    }

    /// As [`Self::linear`], labelled with whole numbers alone.
    pub fn counts(high: f64, places: (f64, f64)) -> Self {
        Self { kind: Kind::Counts, ..Self::linear(high, places) }
    }

    /// Equal distances for equal ratios, from a little below `low` to a little above `high`; both are positive.
    pub fn logarithmic(low: f64, high: f64, (from, to): (f64, f64)) -> Self {
        let low = low.max(1e-9);
        Self { low: low * 0.9, high: high.max(low) * 1.1, from, to, kind: Kind::Logarithmic }
    }

    /// Whether equal distances are equal ratios.
    pub fn is_logarithmic(&self) -> bool {
        self.kind == Kind::Logarithmic
    }

    /// Where `value` is.
    pub fn place(&self, value: f64) -> f64 {
        let part = match self.kind {
            Kind::Linear | Kind::Counts => (value - self.low) / (self.high - self.low),
            Kind::Logarithmic => {
                (value.max(self.low).ln() - self.low.ln()) / (self.high.ln() - self.low.ln())
            }
        };
        self.from + part * (self.to - self.from)
    }

    /// Round values for its labels.
    pub fn ticks(&self) -> Vec<f64> {
        match self.kind {
            Kind::Linear | Kind::Counts => {
                let least = if self.kind == Kind::Counts { 1.0 } else { 0.0 };
                let step = round_step(self.high / 8.0).max(least);
                let count = (self.high / step).floor() as usize;
                (0..=count).map(|index| index as f64 * step).collect()
            }
            Kind::Logarithmic => {
                let decades = (self.high / self.low).log10();
                let steps: &[f64] = if decades > 2.5 {
                    &[1.0]
                } else if decades > 0.7 {
                    &[1.0, 2.0, 5.0]
                } else {
                    &[1.0, 1.2, 1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.0, 8.0]
                };
                let first = self.low.log10().floor() as i32;
                let last = self.high.log10().ceil() as i32;
                (first..=last)
                    .flat_map(|power| steps.iter().map(move |step| step * 10_f64.powi(power)))
                    .filter(|value| (self.low..=self.high).contains(value))
                    .collect()
            }
        }
    }
}

/// The least of 1, 2 and 5 times a power of ten that is not below `least`.
fn round_step(least: f64) -> f64 {
    let power = 10_f64.powf(least.log10().floor());
    [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .map(|step| step * power)
        .find(|step| *step >= least)
        .unwrap_or(power * 10.0)
}

fn title(tip: &str) -> String {
    if tip.is_empty() { String::new() } else { format!("<title>{}</title>", escape(tip)) }
}

/// Text for XML and HTML, in elements and in quoted attributes.
pub fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            // XML 1.0 has no other control characters, not even escaped.
            c if c.is_control() && !matches!(c, '\t' | '\n' | '\r') => out.push('\u{fffd}'),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn there_is_no_half_instance() {
        assert_eq!(Scale::counts(3.0, (0.0, 100.0)).ticks(), [0.0, 1.0, 2.0, 3.0]);
        assert_eq!(Scale::counts(50.0, (0.0, 100.0)).ticks().len(), 6);
    }

    #[test]
    fn of_a_long_name_both_ends_are_kept() {
        assert_eq!(shorten("nginx", 5), "nginx");
        assert_eq!(shorten("registry.example/nginx:1.25", 11), "regis…:1.25");
        assert_eq!(shorten("abc", 1), "…");
    }
}
