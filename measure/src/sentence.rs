//! What a comparison says, in one sentence that claims no more than the samples show.

use crate::model::{Estimate, Magnitude};
use crate::stats;

/// Below this p a difference is called shown.
const SIGNIFICANT: f64 = 0.05;

/// From this |Cliff's delta| on the longer side is longer in at least 95 of 100 pairs: only then single starts hardly overlap. Romano's
/// word "large" begins at 0.474, where it is longer in 74 of them.
const APART: f64 = 0.9;

/// Starts of each with which a test can decide and an interval has settled.
const ENOUGH: usize = 10;

/// The figures of a comparison.
#[derive(Debug, Clone, Copy)]
pub struct Figures {
    /// Ratio of the medians.
    pub ratio: Estimate,
    /// Hodges and Lehmann's shift, nanoseconds.
    pub shift_ns: Estimate,
    /// Cliff's delta.
    pub delta: f64,
    /// Two-sided p of Mann and Whitney's test.
    pub p: f64,
    /// What the test compared: starts, or rounds of starts at once, of the first and of the second.
    pub counts: (usize, usize),
}

/// All of it in one sentence.
pub fn sentence(of: &str, to: &str, figures: &Figures) -> String {
    let Figures { ratio, shift_ns, delta, p, counts } = *figures;
    let chance = if p < 0.001 { "p < 0.001".to_owned() } else { format!("p = {p:.3}") };
    let takes = |here: &str| {
        let Estimate { value, low, high } = ratio;
        format!("{of} takes {value:.2} times as long as {to}{here} (95 %: {low:.2} to {high:.2})")
    };
    if p < SIGNIFICANT {
        let direction = if shift_ns.value >= 0.0 { "longer" } else { "shorter" };
        return format!(
            "{}, typically {:.1} ms {direction}; {} ({chance}).",
            takes(""),
            shift_ns.value.abs() / 1e6,
            effect(of, delta)
        );
    }
    let excludes_one = ratio.low > 1.0 || ratio.high < 1.0;
    let can_decide = stats::least_p(counts.0, counts.1) < SIGNIFICANT;
    let runs = if counts.0 == counts.1 {
        format!("{} runs of each", counts.0)
    } else {
        format!("{} and {} runs", counts.0, counts.1)
    };
    match (excludes_one, can_decide) {
        (true, false) => format!(
            "{}; with {runs} no test can tell this from chance ({chance}): take --runs {ENOUGH} or more.",
            takes(" in these starts")
        ),
        (true, true) => format!(
            "{}; the interval says that they differ and the test does not ({chance}): more runs are needed to tell.",
            takes(" in these starts")
        ),
        (false, can_decide) => {
            let nothing = format!(
                "No difference between {of} and {to} is shown ({chance}): the ratio of the medians is {:.3}, and anything from {:.3} to {:.3} fits the samples",
                ratio.value, ratio.low, ratio.high
            );
            if can_decide {
                nothing + "."
            } else {
                nothing + &format!("; with {runs} no test could show one: take --runs {ENOUGH} or more.")
            }
        }
    }
}

/// How much the two overlap, in words.
fn effect(of: &str, delta: f64) -> String {
    match stats::magnitude(delta) {
        Magnitude::Negligible => "a negligible effect: single starts overlap almost entirely".to_owned(),
        Magnitude::Small => "a small effect: single starts overlap much".to_owned(),
        Magnitude::Medium => "a medium effect: single starts overlap".to_owned(),
        Magnitude::Large if delta.abs() >= APART => "a large effect: single starts hardly overlap".to_owned(),
        Magnitude::Large => {
            let pairs = (50.0 * (1.0 + delta.abs())).floor();
            let longer = if delta > 0.0 { "longer" } else { "shorter" };
            format!(
                "a large effect, but single starts overlap: one of {of} is {longer} in {pairs:.0} of 100 pairs"
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::stats::{Bootstrap, Rounds};
    use crate::summary::{Named, compare};

    fn said(of: &[f64], to: &[f64]) -> String {
        let milliseconds =
            |values: &[f64]| Rounds::single(&values.iter().map(|value| value * 1e6).collect::<Vec<_>>());
        let named = |id| Named { id, name: id };
        compare(named("X"), named("Y"), &milliseconds(of), &milliseconds(to), &mut Bootstrap::new(1))
            .unwrap()
            .sentence
    }

    #[test]
    fn three_starts_of_each_say_what_was_seen_and_that_no_test_can_tell() {
        let text = said(&[386.0, 380.0, 400.0], &[100.0, 96.0, 101.0]);
        assert!(text.starts_with("X takes 3.86 times as long as Y in these starts (95 %: "), "{text}");
        assert!(text.contains("with 3 runs of each no test can tell this from chance (p = 0.100)"), "{text}");
        assert!(text.contains("take --runs 10 or more"), "{text}");
        let text = said(&[10.0, 12.0, 14.0], &[11.0, 13.0, 9.0]);
        assert!(text.starts_with("No difference between X and Y is shown"), "{text}");
        assert!(text.contains("with 3 runs of each no test could show one"), "{text}");
    }

    #[test]
    fn an_interval_and_a_test_that_disagree_are_both_told() {
        let figures = Figures {
            ratio: Estimate { value: 1.2, low: 1.01, high: 1.4 },
            shift_ns: Estimate { value: 2e6, low: -1e5, high: 4e6 },
            delta: 0.3,
            p: 0.07,
            counts: (20, 20),
        };
        let text = sentence("X", "Y", &figures);
        assert!(text.starts_with("X takes 1.20 times as long as Y in these starts"), "{text}");
        assert!(
            text.contains("the interval says that they differ and the test does not (p = 0.070)"),
            "{text}"
        );
    }

    #[test]
    fn equal_samples_show_no_difference() {
        let same: Vec<f64> = (0..20).map(|value| 100.0 + f64::from(value)).collect();
        let text = said(&same, &same);
        assert!(text.starts_with("No difference") && text.ends_with("fits the samples."), "{text}");
    }

    #[test]
    fn single_starts_hardly_overlap_only_when_that_is_true() {
        let low: Vec<f64> = (0..20).map(|value| 100.0 + f64::from(value)).collect();
        let apart: Vec<f64> = low.iter().map(|value| value + 19.5).collect();
        assert!(said(&apart, &low).contains("single starts hardly overlap"));
        // Cliff's delta 0.575: large by its name, and in a fifth of all pairs the other one is longer.
        let shifted: Vec<f64> = low.iter().map(|value| value + 7.5).collect();
        let text = said(&shifted, &low);
        assert!(text.contains("single starts overlap: one of X is longer in 80 of 100 pairs"), "{text}");
        let text = said(&low, &shifted);
        assert!(text.contains("one of X is shorter in 80 of 100 pairs"), "{text}");
    }
}
