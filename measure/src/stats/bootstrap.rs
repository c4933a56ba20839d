//! Intervals by resampling.

use super::{Random, quantile, sorted};
use crate::model::Estimate;

/// Resamples an interval is made from: its ends move by less than a tenth of its width from seed to seed.
pub const RESAMPLES: usize = 4000;

/// Draws resamples from one seed, so that a report drawn again has the same intervals.
#[derive(Debug)]
pub struct Bootstrap {
    random: Random,
}

impl Bootstrap {
    /// The resamples of this seed.
    pub fn new(seed: u64) -> Self {
        Self { random: Random::new(seed) }
    }

    /// Quantile `q` with its 95 % interval (percentile bootstrap, Efron 1979). Zeros without values.
    pub fn quantile(&mut self, values: &[f64], q: f64) -> Estimate {
        let ordered = sorted(values);
        let estimates = (0..RESAMPLES).map(|_| self.resampled_quantile(&ordered, q)).collect();
        interval(quantile(&ordered, q), estimates)
    }

    /// Ratio of the medians of two samples with its 95 % interval; both are resampled. `None` when the second one's median is 0
    /// or a sample is empty.
    pub fn ratio_of_medians(&mut self, of: &[f64], to: &[f64]) -> Option<Estimate> {
        let (of, to) = (sorted(of), sorted(to));
        let ratio = |of: f64, to: f64| if to > 0.0 { of / to } else { f64::INFINITY };
        let value = ratio(quantile(&of, 0.5), quantile(&to, 0.5));
        if of.is_empty() || to.is_empty() || !value.is_finite() {
            return None;
        }
        let estimates = (0..RESAMPLES)
            .map(|_| ratio(self.resampled_quantile(&of, 0.5), self.resampled_quantile(&to, 0.5)))
            .filter(|ratio| ratio.is_finite())
            .collect();
        Some(interval(value, estimates))
    }

    /// Quantile of one resample. The values are sorted, so drawing positions and sorting those as whole numbers is enough.
    fn resampled_quantile(&mut self, ordered: &[f64], q: f64) -> f64 {
        let mut counts = vec![0_u32; ordered.len()];
        for _ in 0..ordered.len() {
            counts[self.random.below(ordered.len())] += 1;
        }
        let Some(last) = ordered.len().checked_sub(1) else { return 0.0 };
        let position = q.clamp(0.0, 1.0) * last as f64;
        let below = position.floor() as usize;
        let (mut passed, mut low) = (0_usize, None);
        for (value, count) in ordered.iter().zip(counts) {
            passed += count as usize;
            if low.is_none() && passed > below {
                low = Some(*value);
            }
            if passed > (below + 1).min(last) {
                let low = low.unwrap_or(*value);
                return low + (position - below as f64) * (value - low);
            }
        }
        ordered[last]
    }
}

fn interval(value: f64, estimates: Vec<f64>) -> Estimate {
    let estimates = sorted(&estimates);
    Estimate { value, low: quantile(&estimates, 0.025), high: quantile(&estimates, 0.975) }
}
