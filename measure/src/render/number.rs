//! Figures as people read them: milliseconds with three significant digits, sizes in binary units.

use crate::model::Estimate;

/// Nanoseconds as milliseconds with three significant digits, without a unit.
pub fn milliseconds(ns: f64) -> String {
    significant(ns / 1e6)
}

/// A value with three significant digits and no exponent.
pub fn significant(value: f64) -> String {
    if !value.is_finite() {
        return "-".to_owned();
    }
    let size = value.abs();
    let decimals = match size {
        _ if size == 0.0 || size >= 99.95 => 0,
        _ if size >= 9.995 => 1,
        _ if size >= 0.9995 => 2,
        _ => 3,
    };
    format!("{value:.decimals$}")
}

/// An estimate in milliseconds with its interval: `12.3 (12.1 to 12.6)`.
pub fn interval_ms(estimate: &Estimate) -> String {
    format!(
        "{} ({} to {})",
        milliseconds(estimate.value),
        milliseconds(estimate.low),
        milliseconds(estimate.high)
    )
}

/// A ratio with its interval: `4.20 (4.05 to 4.41)`.
pub fn interval_ratio(estimate: &Estimate) -> String {
    format!(
        "{} ({} to {})",
        significant(estimate.value),
        significant(estimate.low),
        significant(estimate.high)
    )
}

/// Probability of a test: small ones as a bound, for they are approximations.
pub fn probability(p: f64) -> String {
    if p < 0.001 { "< 0.001".to_owned() } else { format!("{p:.3}") }
}

/// Bytes in MiB with three significant digits, without a unit.
pub fn mebibytes(bytes: u64) -> String {
    significant(bytes as f64 / f64::from(1 << 20))
}

/// A round value, as it stands at an axis: no digits that say nothing.
pub fn tick(value: f64) -> String {
    let text = format!("{value:.6}");
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
