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
        self.quantile_of(&Rounds::single(values), q)
    }

    /// As [`Bootstrap::quantile`], of values that were measured in rounds: whole rounds are resampled.
    pub fn quantile_of(&mut self, rounds: &Rounds, q: f64) -> Estimate {
        let estimates = (0..RESAMPLES).map(|_| self.resampled_quantile(rounds, q)).collect();
        interval(rounds.quantile(q), estimates)
    }

    /// Ratio of the medians of two samples with its 95 % interval; both are resampled. `None` when the second one's median is 0
    /// or a sample is empty.
    pub fn ratio_of_medians(&mut self, of: &[f64], to: &[f64]) -> Option<Estimate> {
        self.ratio_of(&Rounds::single(of), &Rounds::single(to))
    }

    /// As [`Bootstrap::ratio_of_medians`], of values that were measured in rounds: whole rounds are resampled.
    pub fn ratio_of(&mut self, of: &Rounds, to: &Rounds) -> Option<Estimate> {
        let ratio = |of: f64, to: f64| if to > 0.0 { of / to } else { f64::INFINITY };
        let value = ratio(of.quantile(0.5), to.quantile(0.5));
        if of.ordered.is_empty() || to.ordered.is_empty() || !value.is_finite() {
            return None;
        }
        let estimates = (0..RESAMPLES)
            .map(|_| ratio(self.resampled_quantile(of, 0.5), self.resampled_quantile(to, 0.5)))
            .filter(|ratio| ratio.is_finite())
            .collect();
        Some(interval(value, estimates))
    }

    /// Quantile of one resample. The values are sorted, so counting how often each was drawn is enough.
    fn resampled_quantile(&mut self, rounds: &Rounds, q: f64) -> f64 {
        let mut counts = vec![0_u32; rounds.count];
        for _ in 0..rounds.count {
            counts[self.random.below(rounds.count)] += 1;
        }
        // Rounds of different sizes, because starts failed, make resamples of different sizes.
        let drawn = |&(value, round): &(f64, usize)| (value, counts[round] as usize);
        let all: usize = rounds.ordered.iter().map(|one| drawn(one).1).sum();
        let Some(last) = all.checked_sub(1) else { return 0.0 };
        let position = q.clamp(0.0, 1.0) * last as f64;
        let below = position.floor() as usize;
        let (mut passed, mut low) = (0_usize, None);
        for (value, count) in rounds.ordered.iter().map(drawn) {
            passed += count;
            if low.is_none() && passed > below {
                low = Some(value);
            }
            if passed > (below + 1).min(last) {
                let low = low.unwrap_or(value);
                return low + (position - below as f64) * (value - low);
            }
        }
        rounds.ordered.last().map_or(0.0, |(value, _)| *value)
    }
}

/// Values and the round that each was measured in. Those of one round met the same moment of the host and slowed each other: they are no
/// more independent than their rounds are.
#[derive(Debug, Clone, PartialEq)]
pub struct Rounds {
    /// Ascending by value; rounds are numbered from 0.
    ordered: Vec<(f64, usize)>,
    count: usize,
}

impl Rounds {
    /// Each value is a round of its own.
    pub fn single(values: &[f64]) -> Self {
        let ordered: Vec<_> = sorted(values).into_iter().zip(0..).collect();
        Self { count: ordered.len(), ordered }
    }

    /// Values with the numbers of their rounds, which may be any.
    pub fn of(values: &[(f64, usize)]) -> Self {
        let mut numbers: Vec<usize> = values.iter().map(|(_, round)| *round).collect();
        numbers.sort_unstable();
        numbers.dedup();
        if numbers.len() == values.len() {
            // So that a seed's intervals are those of values without rounds.
            return Self::single(&values.iter().map(|(value, _)| *value).collect::<Vec<_>>());
        }
        let place = |round: &usize| numbers.binary_search(round).unwrap_or(0);
        let mut ordered: Vec<_> = values.iter().map(|(value, round)| (*value, place(round))).collect();
        ordered.sort_by(|a, b| a.0.total_cmp(&b.0));
        Self { ordered, count: numbers.len() }
    }

    /// All values, ascending.
    pub fn values(&self) -> Vec<f64> {
        self.ordered.iter().map(|(value, _)| *value).collect()
    }

    /// The median of each round: independent of each other, for tests that ask for that.
    pub fn medians(&self) -> Vec<f64> {
        let mut rounds = vec![vec![]; self.count];
        self.ordered.iter().for_each(|(value, round)| rounds[*round].push(*value));
        rounds.iter().map(|values| quantile(values, 0.5)).collect()
    }

    fn quantile(&self, q: f64) -> f64 {
        quantile(&self.values(), q)
    }
}

fn interval(value: f64, estimates: Vec<f64>) -> Estimate {
    let estimates = sorted(&estimates);
    Estimate { value, low: quantile(&estimates, 0.025), high: quantile(&estimates, 0.975) }
}
