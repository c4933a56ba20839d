//! Budgets: what a start may take, for use in CI.

use std::time::Duration;

use crate::error::{Error, Result};
use crate::model::{BudgetResult, Distribution, Report, SubjectKind};

/// Reads a duration, e.g. `200ms`, `1.5s`, `800us`.
///
/// # Errors
/// It has no unit, or is no number above 0.
pub fn duration(what: &'static str, text: &str) -> Result<Duration> {
    let split = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(split);
    let factor = match unit {
        "ns" => 1e-9,
        "us" | "µs" => 1e-6,
        "ms" => 1e-3,
        "s" => 1.0,
        "m" => 60.0,
        _ => return Err(Error::invalid(what, text, "give a number and a unit, e.g. 200ms or 1.5s")),
    };
    match number.parse::<f64>() {
        Ok(value) if value > 0.0 && value * factor < 1e9 => Ok(Duration::from_secs_f64(value * factor)),
        _ => Err(Error::invalid(what, text, "it must be above 0")),
    }
}

/// A value of a distribution that a budget limits.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Figure {
    Median,
    P95,
    P99,
    Mean,
    Max,
}

/// Ids of rkvm's own subjects, which a budget without a name limits.
const OWN: [&str; 2] = ["container", "vm"];

/// Checks that each budget limits all that it is about: one that limits nothing would be kept whatever happens.
///
/// # Errors
/// Names the first that is about a subject which was not measured, and why.
pub fn check(budgets: &[Budget], report: &Report) -> Result<()> {
    budgets.iter().try_for_each(|budget| match idle(budget, report) {
        Some(reason) => Err(Error::invalid("--budget", &budget.text, reason)),
        None => Ok(()),
    })
}

/// Why a budget does not limit what it is about.
fn idle(budget: &Budget, report: &Report) -> Option<String> {
    let judges = report.summary.budgets.iter().any(|result| result.budget == budget.text);
    let ids: Vec<&str> = report.subjects.iter().map(|subject| subject.id.as_str()).collect();
    let missing = |wanted: &dyn Fn(&str) -> bool| report.missing.iter().find(|missing| wanted(&missing.id));
    match budget.subject() {
        None => match missing(&|id| OWN.contains(&id)) {
            Some(missing) => Some(format!(
                "it limits container and vm, and {} was not measured: {}; leave it out with --isolation",
                missing.id, missing.reason
            )),
            None if judges => None,
            None => {
                Some(format!("it limits container and vm, and neither was measured, only {}", ids.join(", ")))
            }
        },
        Some(_) if judges => None,
        Some(name) => Some(match missing(&|id| id == name) {
            Some(missing) => format!("{name} was not measured: {}", missing.reason),
            None if ids.contains(&name) => format!("no start of {name} counted: measure again"),
            None => format!("{name} was not measured; there are {}", ids.join(", ")),
        }),
    }
}

/// A limit, e.g. `p95=200ms` or `vm:median=150ms`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Budget {
    text: String,
    subject: Option<String>,
    figure: Figure,
    limit: Duration,
}

impl std::str::FromStr for Budget {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wrong = || {
            Error::invalid(
                "--budget",
                text,
                "give [SUBJECT:]FIGURE=TIME, where FIGURE is median, p50, p95, p99, mean or max, e.g. p95=200ms or vm:median=150ms",
            )
        };
        let (left, limit) = text.split_once('=').ok_or_else(wrong)?;
        let (subject, figure) = match left.split_once(':') {
            Some((subject, figure)) => (Some(subject.to_owned()), figure),
            None => (None, left),
        };
        let figure = match figure {
            "median" | "p50" => Figure::Median,
            "p95" => Figure::P95,
            "p99" => Figure::P99,
            "mean" => Figure::Mean,
            "max" => Figure::Max,
            _ => return Err(wrong()),
        };
        Ok(Self { text: text.to_owned(), subject, figure, limit: duration("--budget", limit)? })
    }
}

impl Budget {
    /// The subject it names.
    pub fn subject(&self) -> Option<&str> {
        self.subject.as_deref()
    }

    /// Judges one subject; `None` when this budget does not concern it. Without a name it concerns both isolations, not peers.
    pub fn judge(&self, subject: &str, kind: SubjectKind, total: &Distribution) -> Option<BudgetResult> {
        let concerns = match &self.subject {
            Some(name) => name == subject,
            None => kind != SubjectKind::Peer,
        };
        if !concerns || total.count == 0 {
            return None;
        }
        let actual = match self.figure {
            Figure::Median => total.median.value,
            Figure::P95 => total.p95.value,
            Figure::P99 => total.p99.value,
            Figure::Mean => total.mean,
            Figure::Max => total.max as f64,
        };
        let limit_ns = u64::try_from(self.limit.as_nanos()).unwrap_or(u64::MAX);
        Some(BudgetResult {
            budget: self.text.clone(),
            subject: subject.to_owned(),
            limit_ns,
            actual_ns: actual as u64,
            kept: actual as u64 <= limit_ns,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Estimate;

    #[test]
    fn a_budget_is_kept_or_not() {
        let total = Distribution {
            count: 10,
            p95: Estimate { value: 150e6, low: 1.0, high: 2.0 },
            max: 190_000_000,
            ..Distribution::default()
        };
        let judge = |text: &str, kind| text.parse::<Budget>().unwrap().judge("vm", kind, &total);
        assert!(judge("p95=150ms", SubjectKind::Vm).unwrap().kept);
        assert!(!judge("p95=149.9ms", SubjectKind::Vm).unwrap().kept);
        assert!(!judge("vm:max=0.1s", SubjectKind::Vm).unwrap().kept);
        assert_eq!(judge("container:max=0.1s", SubjectKind::Vm), None);
        assert_eq!(judge("max=0.1s", SubjectKind::Peer), None);
    }

    #[test]
    fn nonsense_is_refused() {
        for text in ["p95", "p95=", "p95=200", "p90=1s", "p95=-1ms", "p95=0ms", "=1s"] {
            assert!(text.parse::<Budget>().is_err(), "{text}");
        }
    }
}
