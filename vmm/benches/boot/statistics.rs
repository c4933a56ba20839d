//! Medians and how sure they are.

/// Resamples of the bootstrap.
const SAMPLES: usize = 4000;

/// The middle value.
pub fn median(values: &[f64]) -> f64 {
    let mut sorted = values.to_vec();
    sorted.sort_by(f64::total_cmp);
    match sorted.len() {
        0 => f64::NAN,
        length if length % 2 == 1 => sorted[length / 2],
        length => f64::midpoint(sorted[length / 2 - 1], sorted[length / 2]),
    }
}

/// Ratio of the medians of two interleaved series, and its 95% interval by bootstrap over pairs.
pub fn ratio(ours: &[f64], theirs: &[f64]) -> (f64, f64, f64) {
    let pairs = ours.len().min(theirs.len());
    // xorshift64: any fixed seed will do, the result is to be the same for the same figures.
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    let mut ratios: Vec<f64> = (0..SAMPLES)
        .map(|_| {
            let picks: Vec<usize> = (0..pairs).map(|_| (random() % pairs as u64) as usize).collect();
            let of = |series: &[f64]| median(&picks.iter().map(|index| series[*index]).collect::<Vec<_>>());
            of(ours) / of(theirs)
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| ratios[((SAMPLES - 1) as f64 * share) as usize];
    (median(ours) / median(theirs), at(0.025), at(0.975))
}
