//! What the samples say: derived from them and the seed alone.

use crate::budget::Budget;
use crate::model::{
    Comparison, Distribution, PHASES, PhaseSummary, Report, Sample, SampleKind, Subject, SubjectSummary,
    Summary,
};
use crate::sentence::{Figures, sentence};
use crate::stats::{self, Bootstrap, Rounds};

/// Sums up a report's samples.
pub fn summarize(report: &Report, budgets: &[Budget]) -> Summary {
    let mut bootstrap = Bootstrap::new(report.question.seed);
    let subjects: Vec<SubjectSummary> = report
        .subjects
        .iter()
        .map(|subject| summarize_subject(&subject.id, &measured(report, &subject.id), &mut bootstrap))
        .collect();
    let comparisons = match report.subjects.split_first() {
        Some((first, others)) => {
            others.iter().filter_map(|other| against(report, other, first, &mut bootstrap)).collect()
        }
        None => vec![],
    };
    let budgets = budgets
        .iter()
        .flat_map(|budget| {
            let judged = report.subjects.iter().zip(&subjects);
            judged.filter_map(|(subject, summary)| budget.judge(&subject.id, subject.kind, &summary.total))
        })
        .collect();
    Summary { subjects, comparisons, budgets }
}

/// The starts of a subject that count.
pub fn measured<'a>(report: &'a Report, subject: &str) -> Vec<&'a Sample> {
    let counts = |sample: &&Sample| sample.subject == subject && sample.kind == SampleKind::Measured;
    report.samples.iter().filter(counts).collect()
}

/// What `value` gives of each start, with its round.
pub fn rounds(samples: &[&Sample], value: impl Fn(&Sample) -> f64) -> Rounds {
    Rounds::of(&samples.iter().map(|sample| (value(sample), sample.round)).collect::<Vec<_>>())
}

fn total(sample: &Sample) -> f64 {
    sample.total_ns as f64
}

fn against(report: &Report, of: &Subject, to: &Subject, bootstrap: &mut Bootstrap) -> Option<Comparison> {
    let totals = |subject: &Subject| rounds(&measured(report, &subject.id), total);
    let (first, second) = (totals(of), totals(to));
    compare(
        Named { id: &of.id, name: &of.name },
        Named { id: &to.id, name: &to.name },
        &first,
        &second,
        bootstrap,
    )
}

/// One side of a comparison.
#[derive(Debug, Clone, Copy)]
pub struct Named<'a> {
    /// Its id.
    pub id: &'a str,
    /// What the sentence calls it.
    pub name: &'a str,
}

/// Compares two samples of times, nanoseconds; `None` when one is empty or only zeros. Of starts that were made at once the test and the
/// shift compare the medians of their rounds.
pub fn compare(
    of: Named<'_>,
    to: Named<'_>,
    first: &Rounds,
    second: &Rounds,
    bootstrap: &mut Bootstrap,
) -> Option<Comparison> {
    let ratio = bootstrap.ratio_of(first, second)?;
    let cliffs_delta = stats::cliffs_delta(&first.values(), &second.values());
    let (first, second) = (first.medians(), second.medians());
    let shift_ns = stats::hodges_lehmann(&first, &second);
    let p_value = stats::mann_whitney(&first, &second).p;
    let counts = (first.len(), second.len());
    let figures = Figures { ratio, shift_ns, delta: cliffs_delta, p: p_value, counts };
    Some(Comparison {
        of: of.id.to_owned(),
        to: to.id.to_owned(),
        phase: None,
        ratio,
        shift_ns,
        cliffs_delta,
        magnitude: stats::magnitude(cliffs_delta),
        p_value,
        sentence: sentence(of.name, to.name, &figures),
    })
}

/// The distribution of some starts.
fn distribution(samples: &[&Sample], bootstrap: &mut Bootstrap) -> Distribution {
    let all = rounds(samples, total);
    let values: Vec<f64> = samples.iter().map(|sample| total(sample)).collect();
    Distribution {
        count: samples.len(),
        min: samples.iter().map(|sample| sample.total_ns).min().unwrap_or(0),
        max: samples.iter().map(|sample| sample.total_ns).max().unwrap_or(0),
        mean: stats::mean(&values),
        deviation: stats::deviation(&values),
        median: bootstrap.quantile_of(&all, 0.5),
        p95: bootstrap.quantile_of(&all, 0.95),
        p99: bootstrap.quantile_of(&all, 0.99),
        outliers: stats::outliers(&values).into_iter().map(|index| samples[index].order).collect(),
    }
}

fn summarize_subject(id: &str, samples: &[&Sample], bootstrap: &mut Bootstrap) -> SubjectSummary {
    let with_phases: Vec<&Sample> =
        samples.iter().copied().filter(|sample| !sample.phases.is_empty()).collect();
    let gap = |sample: &Sample| {
        sample.phases_ns().abs_diff(sample.total_ns) as f64 / (sample.total_ns.max(1)) as f64
    };
    SubjectSummary {
        subject: id.to_owned(),
        total: distribution(samples, bootstrap),
        phases: phases(&with_phases, bootstrap),
        worst_gap: with_phases.iter().map(|sample| gap(sample)).reduce(f64::max),
    }
}

/// Every phase of these samples: those of rkvm in their order, then a peer's own in the order of their first start.
pub fn phase_names(samples: &[&Sample]) -> Vec<String> {
    let mut names: Vec<String> = vec![];
    let present = |name: &str| samples.iter().any(|sample| sample.phase_ns(name).is_some());
    names.extend(PHASES.into_iter().filter(|name| present(name)).map(str::to_owned));
    for phase in samples.iter().flat_map(|sample| &sample.phases) {
        if !names.contains(&phase.phase) {
            names.push(phase.phase.clone());
        }
    }
    names
}

fn phases(samples: &[&Sample], bootstrap: &mut Bootstrap) -> Vec<PhaseSummary> {
    let names = phase_names(samples);
    let mut begin_ns = 0.0;
    let mut ends = vec![0.0; samples.len()];
    let mut summaries = vec![];
    for phase in names {
        let length = |sample: &Sample| sample.phase_ns(&phase).unwrap_or(0) as f64;
        let lengths: Vec<f64> = samples.iter().map(|sample| length(sample)).collect();
        ends.iter_mut().zip(&lengths).for_each(|(end, length)| *end += length);
        let end_ns = stats::median(&ends);
        let duration = bootstrap.quantile_of(&rounds(samples, length), 0.5);
        summaries.push(PhaseSummary { phase, duration, begin_ns, end_ns });
        begin_ns = end_ns;
    }
    summaries
}
