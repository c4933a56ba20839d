//! Medians and how sure they are.

use rkvm_measure::stats::{self, Bootstrap};

/// Any fixed seed will do: the result is to be the same for the same figures.
const SEED: u64 = 1;

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    stats::median(values)
}

/// Ratio of the medians of two series, and its 95% interval by bootstrap; not a number without values.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> (f64, f64, f64) {
    let ratio = Bootstrap::new(SEED).ratio_of_medians(ours, theirs);
    ratio.map_or((f64::NAN, f64::NAN, f64::NAN), |ratio| (ratio.value, ratio.low, ratio.high))
}
