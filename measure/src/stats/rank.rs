//! What the ranks of two samples say: whether they differ, by how much, and how surely.

use super::{quantile, sorted};
use crate::model::{Estimate, Magnitude};

/// Result of Mann and Whitney's test.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct MannWhitney {
    /// Number of pairs in which the first is larger; equal ones count half.
    pub u: f64,
    /// Two-sided p: chance of at least such a difference between two samples of one population. 1 when a sample is empty.
    pub p: f64,
}

/// Samples up to this size are tested exactly when no two values are equal (R's limit).
const EXACT_BELOW: usize = 50;

/// Mann and Whitney's test (1947), also called Wilcoxon's rank sum test: exact for small samples without ties, otherwise by
/// the normal approximation with corrections for ties and continuity.
pub fn mann_whitney(first: &[f64], second: &[f64]) -> MannWhitney {
    let (n, m) = (first.len(), second.len());
    if n == 0 || m == 0 {
        return MannWhitney { u: 0.0, p: 1.0 };
    }
    let (u, ties) = statistic(first, second);
    let p = if ties == 0.0 && n < EXACT_BELOW && m < EXACT_BELOW {
        exact_p(u as usize, n, m)
    } else {
        approximate_p(u, ties, n as f64, m as f64)
    };
    MannWhitney { u, p }
}

/// The smallest p that samples of these sizes can have: when all of one are larger than all of the other, which is one order of all that
/// are equally likely, in either direction. 1 when one is empty.
pub fn least_p(n: usize, m: usize) -> f64 {
    if n == 0 || m == 0 {
        return 1.0;
    }
    let orders = (1..=n.min(m)).fold(1.0, |orders, k| orders * (n.max(m) + k) as f64 / k as f64);
    (2.0 / orders).min(1.0)
}

/// U of the first sample, and the sum of t³ - t over groups of t equal values.
fn statistic(first: &[f64], second: &[f64]) -> (f64, f64) {
    let mut all: Vec<(f64, bool)> =
        first.iter().map(|v| (*v, true)).chain(second.iter().map(|v| (*v, false))).collect();
    all.sort_by(|a, b| a.0.total_cmp(&b.0));
    let (mut rank_sum, mut ties, mut begin) = (0.0, 0.0, 0);
    for group in all.chunk_by(|a, b| a.0 == b.0) {
        let size = group.len() as f64;
        let rank = begin as f64 + (size + 1.0) / 2.0;
        rank_sum += rank * group.iter().filter(|(_, is_first)| *is_first).count() as f64;
        ties += size.powi(3) - size;
        begin += group.len();
    }
    let n = first.len() as f64;
    (rank_sum - n * (n + 1.0) / 2.0, ties)
}

/// Number of ways to reach each U when all orders are equally likely, as part of all: the recurrence of Mann and Whitney.
fn distribution(n: usize, m: usize) -> Vec<f64> {
    // ways[j][u]: orders of i of the first and j of the second sample with statistic u, grown i by i; divided at the end.
    let mut ways = vec![vec![1.0_f64]; m + 1];
    for i in 1..=n {
        for j in 0..=m {
            let mut next = vec![0.0; i * j + 1];
            // The largest is of the first sample: it beats all j of the second.
            for (u, count) in ways[j].iter().enumerate() {
                next[u + j] += count;
            }
            // The largest is of the second sample.
            if j > 0 {
                for (u, count) in ways[j - 1].clone().iter().enumerate() {
                    next[u] += count;
                }
            }
            ways[j] = next;
        }
    }
    let ways = ways.pop().unwrap_or_default();
    let all: f64 = ways.iter().sum();
    ways.into_iter().map(|count| count / all).collect()
}

fn exact_p(u: usize, n: usize, m: usize) -> f64 {
    let chances = distribution(n, m);
    let lower: f64 = chances[..=u].iter().sum();
    let upper: f64 = chances[u..].iter().sum();
    (2.0 * lower.min(upper)).min(1.0)
}

fn approximate_p(u: f64, ties: f64, n: f64, m: f64) -> f64 {
    let all = n + m;
    let variance = n * m / 12.0 * (all + 1.0 - ties / (all * (all - 1.0)));
    if variance <= 0.0 {
        return 1.0;
    }
    let distance = ((u - n * m / 2.0).abs() - 0.5).max(0.0);
    erfc(distance / variance.sqrt() / std::f64::consts::SQRT_2)
}

/// Complementary error function for x ≥ 0: a continued fraction for large x, the series of erf for small ones
/// (Abramowitz and Stegun 7.1.6 and 7.1.14); relative error below 1e-12.
fn erfc(x: f64) -> f64 {
    let root_pi = std::f64::consts::PI.sqrt();
    if x < 2.5 {
        let (mut term, mut sum, mut k) = (x, x, 0.0);
        while term.abs() > 1e-17 * sum.abs() {
            k += 1.0;
            term *= 2.0 * x * x / (2.0 * k + 1.0);
            sum += term;
        }
        return 1.0 - 2.0 / root_pi * (-x * x).exp() * sum;
    }
    let mut fraction = x;
    for k in (1..=120).rev() {
        fraction = x + f64::from(k) / 2.0 / fraction;
    }
    (-x * x).exp() / root_pi / fraction
}

/// Cliff's delta (1993): the chance that one of `first` is larger than one of `second`, less the reverse; -1 to 1. 0 when a sample
/// is empty.
pub fn cliffs_delta(first: &[f64], second: &[f64]) -> f64 {
    if first.is_empty() || second.is_empty() {
        return 0.0;
    }
    let (u, _) = statistic(first, second);
    2.0 * u / (first.len() * second.len()) as f64 - 1.0
}

/// Cliff's delta in a word.
pub fn magnitude(delta: f64) -> Magnitude {
    match delta.abs() {
        size if size < 0.147 => Magnitude::Negligible,
        size if size < 0.33 => Magnitude::Small,
        size if size < 0.474 => Magnitude::Medium,
        _ => Magnitude::Large,
    }
}

/// Hodges and Lehmann's estimate (1963) of the shift between two samples, the median of all differences, with the 95 % interval that
/// inverts Mann and Whitney's test. Zeros when a sample is empty.
pub fn hodges_lehmann(first: &[f64], second: &[f64]) -> Estimate {
    let (n, m) = (first.len(), second.len());
    if n == 0 || m == 0 {
        return Estimate::default();
    }
    let differences: Vec<f64> = first.iter().flat_map(|a| second.iter().map(move |b| a - b)).collect();
    let differences = sorted(&differences);
    let outside = if n < EXACT_BELOW && m < EXACT_BELOW {
        // The smallest u that a lower tail of 2.5 % reaches, R's qwilcox(0.025, n, m).
        let mut tail = 0.0;
        distribution(n, m)
            .iter()
            .take_while(|chance| {
                tail += **chance;
                tail < 0.025
            })
            .count()
    } else {
        let (n, m) = (n as f64, m as f64);
        (n * m / 2.0 - 1.959_964 * (n * m * (n + m + 1.0) / 12.0).sqrt()).max(0.0).round() as usize
    };
    // With very few values even all differences are less than 95 %; the interval is then all of them.
    let outside = outside.max(1).min(differences.len());
    Estimate {
        value: quantile(&differences, 0.5),
        low: differences[outside - 1],
        high: differences[differences.len() - outside],
    }
}
