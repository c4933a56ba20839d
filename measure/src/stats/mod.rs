//! Statistics that make no assumption about how start times are distributed: they are skewed and have long tails.

mod bootstrap;
mod random;
mod rank;
#[cfg(test)]
mod tests;

pub use bootstrap::{Bootstrap, RESAMPLES, Rounds};
pub use random::Random;
pub use rank::{MannWhitney, cliffs_delta, hodges_lehmann, least_p, magnitude, mann_whitney};

/// Quantile `q` (0 to 1) of sorted values, interpolated linearly between neighbours (type 7 of Hyndman and Fan 1996, the default
/// of R and NumPy). 0 without values.
pub fn quantile(sorted: &[f64], q: f64) -> f64 {
    let Some(last) = sorted.len().checked_sub(1) else { return 0.0 };
    let position = q.clamp(0.0, 1.0) * last as f64;
    let below = position.floor() as usize;
    let above = (below + 1).min(last);
    sorted[below] + (position - below as f64) * (sorted[above] - sorted[below])
}

/// The values in ascending order.
pub fn sorted(values: &[f64]) -> Vec<f64> {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values
}

/// Median; 0 without values.
pub fn median(values: &[f64]) -> f64 {
    quantile(&sorted(values), 0.5)
}

/// Arithmetic mean; 0 without values.
pub fn mean(values: &[f64]) -> f64 {
    if values.is_empty() { 0.0 } else { values.iter().sum::<f64>() / values.len() as f64 }
}

/// Standard deviation of a sample (n - 1); 0 of fewer than two values.
pub fn deviation(values: &[f64]) -> f64 {
    if values.len() < 2 {
        return 0.0;
    }
    let mean = mean(values);
    let squares: f64 = values.iter().map(|value| (value - mean).powi(2)).sum();
    (squares / (values.len() - 1) as f64).sqrt()
}

/// Positions of the values beyond Tukey's fences: more than 1.5 interquartile ranges outside of the quartiles
/// (Tukey 1977). None of fewer than four values.
pub fn outliers(values: &[f64]) -> Vec<usize> {
    if values.len() < 4 {
        return vec![];
    }
    let sorted = sorted(values);
    let (lower, upper) = (quantile(&sorted, 0.25), quantile(&sorted, 0.75));
    let reach = 1.5 * (upper - lower);
    let fences = lower - reach..=upper + reach;
    (0..values.len()).filter(|&index| !fences.contains(&values[index])).collect()
}
