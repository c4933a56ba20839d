//! In which order subjects start.

use crate::error::{Error, Result};
use crate::model::SampleKind;
use crate::stats::Random;

/// One start, or `parallel` of them at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Turn {
    /// Position of the subject.
    pub subject: usize,
    /// Round, from 0: each subject has one turn a round.
    pub round: usize,
    /// Whether it counts.
    pub kind: SampleKind,
}

/// All turns: in each round every subject once, in an order drawn anew, so that what changes on the host with time meets
/// all subjects alike. Warm-ups come first.
///
/// # Errors
/// No runs, or more than a million starts.
pub fn plan(subjects: usize, runs: usize, warmup: usize, seed: u64) -> Result<Vec<Turn>> {
    if runs == 0 {
        return Err(Error::invalid("--runs", "0", "at least one run is needed to measure anything"));
    }
    if runs.saturating_add(warmup).saturating_mul(subjects) > 1_000_000 {
        return Err(Error::invalid("--runs", runs.to_string(), "more than a million starts are too many"));
    }
    let mut random = Random::new(seed);
    let mut order: Vec<usize> = (0..subjects).collect();
    let mut turns = Vec::with_capacity((runs + warmup) * subjects);
    for round in 0..warmup + runs {
        random.shuffle(&mut order);
        let kind = if round < warmup { SampleKind::Warmup } else { SampleKind::Measured };
        turns.extend(order.iter().map(|&subject| Turn { subject, round, kind }));
    }
    Ok(turns)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_subject_has_one_turn_a_round_and_the_order_varies() {
        let turns = plan(3, 20, 2, 1).unwrap();
        assert_eq!(turns.len(), 66);
        for round in turns.chunks(3) {
            let mut subjects: Vec<_> = round.iter().map(|turn| turn.subject).collect();
            subjects.sort_unstable();
            assert_eq!(subjects, [0, 1, 2]);
        }
        let first: Vec<_> = turns.chunks(3).map(|round| round[0].subject).collect();
        assert!((0..3).all(|subject| first.contains(&subject)), "{first:?}");
        assert_eq!(turns, plan(3, 20, 2, 1).unwrap());
        assert_ne!(turns, plan(3, 20, 2, 2).unwrap());
        assert!(turns[..6].iter().all(|turn| turn.kind == SampleKind::Warmup));
        assert!(turns[6..].iter().all(|turn| turn.kind == SampleKind::Measured));
    }

    #[test]
    fn no_runs_are_refused() {
        assert!(plan(2, 0, 3, 1).unwrap_err().to_string().contains("at least one run"));
        assert!(plan(2, usize::MAX, 3, 1).is_err());
    }
}
