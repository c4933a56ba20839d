//! What every output says beside the figures: what was asked, where it was measured, what may distort it.

use crate::model::{CacheState, Completion, Finding, Report, Severity, SubjectSummary};
use crate::summary;

/// A name and its value, as they stand in tables of provenance.
pub type Fact = (&'static str, String);

/// Says that the value could not be found out.
const UNKNOWN: &str = "not known";

/// What was asked for.
pub fn question(report: &Report) -> Vec<Fact> {
    let asked = &report.question;
    let command =
        if asked.command.is_empty() { "the image's own".to_owned() } else { asked.command.join(" ") };
    let cache = match asked.cache {
        CacheState::Warm => "warm",
        CacheState::Cold => "cold: dropped before each start",
    };
    let mut facts = vec![
        ("Image", asked.image.clone()),
        ("Command", command),
        ("Ready when", asked.ready.clone()),
        ("Runs", format!("{} each, after {}, in random order", asked.runs, counted(asked.warmup, "warm-up"))),
        ("Seed", asked.seed.to_string()),
        ("Caches", cache.to_owned()),
        ("Started at once", asked.parallel.to_string()),
        ("Flags", asked.run_flags.join(" ")),
        ("Command line", asked.command_line.join(" ")),
    ];
    facts.retain(|(name, value)| *name != "Flags" || !value.is_empty());
    facts
}

/// Where and with what it was measured.
pub fn provenance(report: &Report) -> Vec<Fact> {
    let from = &report.provenance;
    let or_unknown = |value: &Option<String>| value.clone().unwrap_or_else(|| UNKNOWN.to_owned());
    let loads = |values: [f64; 3]| values.map(|value| format!("{value:.2}")).join(" ");
    let mut facts = vec![
        ("Measured", format!("{} to {}", report.started, report.finished)),
        (
            "rkvm",
            format!("{} ({}), {} build", from.rkvm_version, or_unknown(&from.rkvm_commit), from.rkvm_profile),
        ),
        ("CPU", format!("{}, {} processors", from.cpu, from.cpus)),
        ("Memory", format!("{} MiB", from.memory >> 20)),
        ("Kernel", from.kernel.clone()),
        ("Kernel parameters", from.kernel_command_line.clone()),
        ("KVM", from.kvm.clone()),
        ("Hypervisor below this host", from.hypervisor.clone().unwrap_or_else(|| "none is known".to_owned())),
        ("Control groups", from.cgroup.clone()),
        ("CPU governor", or_unknown(&from.governor)),
        ("Guest kernel", or_unknown(&from.guest_kernel)),
        ("Guest kernel SHA-256", or_unknown(&from.guest_kernel_sha256)),
        ("Image digest", from.image_digest.clone()),
        ("Image id", from.image_id.clone()),
        ("Load before, after", format!("{} / {}", loads(from.load_before), loads(from.load_after))),
    ];
    let list = |pairs: Vec<String>| if pairs.is_empty() { UNKNOWN.to_owned() } else { pairs.join("; ") };
    let pairs = |map: &std::collections::BTreeMap<String, String>| {
        map.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>()
    };
    facts.push(("Mitigations", list(pairs(&from.mitigations))));
    if !from.peer_versions.is_empty() {
        facts.push(("Peers", list(pairs(&from.peer_versions))));
    }
    if !from.configuration.is_empty() {
        facts.push(("Configuration", list(pairs(&from.configuration))));
    }
    facts
}

/// `1 start`, `2 starts`.
pub fn counted(count: usize, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

/// A sentence's words without its full stop, for sentences that are put together.
fn open(text: &str) -> &str {
    text.trim_end_matches('.')
}

/// A finding with all that it has to say.
pub fn finding(finding: &Finding) -> String {
    format!("{}: {}. Remedy: {}", open(&finding.what), open(&finding.effect), open(&finding.remedy))
}

/// A finding in one short line.
pub fn brief(finding: &Finding) -> String {
    format!("{} {}: {}", severity(finding), finding.id, open(&finding.what))
}

/// What to do about a finding, in one short line: for those who can still do it.
pub fn advice(finding: &Finding) -> String {
    format!("{} {}: {}", severity(finding), finding.id, open(&finding.remedy))
}

/// A finding's weight in one word.
pub fn severity(finding: &Finding) -> &'static str {
    match finding.severity {
        Severity::Warning => "WARNING",
        Severity::Note => "note",
    }
}

/// How a subject's work differs, as one sentence without its end; `None`: it does not.
pub fn differences(differences: &[String]) -> Option<String> {
    let parts: Vec<&str> = differences.iter().map(|text| open(text)).collect();
    Some(parts.join("; ")).filter(|text| !text.is_empty())
}

/// What must be known beside figures and provenance, for outputs that have no better place for it.
pub fn remarks(report: &Report) -> Vec<(String, String)> {
    let mut lines = vec![];
    for finding in &report.findings {
        lines.push((format!("{} {}", severity(finding), finding.id), self::finding(finding)));
    }
    for missing in &report.missing {
        lines.push((format!("Not measured: {}", missing.id), missing.reason.clone()));
    }
    for subject in &report.subjects {
        let text = differences(&subject.differences);
        lines.extend(text.map(|text| (format!("{} does other work", subject.name), text)));
    }
    for failure in &report.failures {
        let name = format!("Start {} of {} failed", failure.order, name(report, &failure.subject));
        lines.push((name, self::failure(failure)));
    }
    for budget in &report.summary.budgets {
        let name = format!("Budget {} of {}", budget.budget, name(report, &budget.subject));
        lines.push((name, self::budget(budget)));
    }
    lines
}

/// What happened at a failed start, in one line.
pub fn failure(failure: &crate::model::Failure) -> String {
    let reached = failure.reached.as_deref().unwrap_or("none");
    format!("{}; last phase that ended: {reached}", open(&failure.message))
}

/// How a budget was kept.
pub fn budget(budget: &crate::model::BudgetResult) -> String {
    let verdict = if budget.kept { "kept" } else { "EXCEEDED" };
    let (actual, limit) = (budget.actual_ns as f64, budget.limit_ns as f64);
    let ms = super::number::milliseconds;
    format!("{verdict}, {} ms of {} ms", ms(actual), ms(limit))
}

/// One command line of each subject.
pub fn commands(report: &Report) -> Vec<(String, String)> {
    let subjects = report.subjects.iter().filter(|subject| !subject.command_line.is_empty());
    subjects.map(|subject| (format!("A start of {}", subject.name), subject.command_line.join(" "))).collect()
}

/// Each start that counts, in the order in which they were made: of each subject the wholes.
pub fn wholes(report: &Report) -> Vec<(String, String)> {
    let of = |id: &str| {
        let wholes = summary::measured(report, id).into_iter();
        wholes.map(|sample| format!("{:.3}", sample.total_ns as f64 / 1e6)).collect::<Vec<_>>()
    };
    let subjects = measured(report).map(|subject| subject.subject.as_str());
    subjects.map(|id| (format!("Samples of {}, ms", name(report, id)), of(id).join(" "))).collect()
}

/// Where the phases of each start are, for outputs that do not have them.
pub fn samples(report: &Report) -> String {
    format!(
        "Seed {}. The samples of all {}, with their phases, are in what --json, --csv and --html of `rkvm compare` write",
        report.question.seed,
        counted(report.samples.len(), "start")
    )
}

/// Subjects with starts that count: of the others there is no figure.
pub fn measured(report: &Report) -> impl Iterator<Item = &SubjectSummary> {
    report.summary.subjects.iter().filter(|subject| subject.total.count > 0)
}

/// Place of a subject among all, which decides its colour.
pub fn place(report: &Report, id: &str) -> usize {
    report.subjects.iter().position(|subject| subject.id == id).unwrap_or(0)
}

/// The first and the last point of each subject's density measurement.
pub fn density_ends(report: &Report) -> Vec<&crate::model::DensityPoint> {
    let ends = |id: &str| {
        let mut points = report.density.iter().filter(|point| point.subject == id);
        let first = points.next();
        [first, points.next_back()]
    };
    report.subjects.iter().flat_map(|subject| ends(&subject.id)).flatten().collect()
}

/// Says that there are no figures; `None`: there are.
pub fn nothing(report: &Report) -> Option<String> {
    let warmups = report.samples.len();
    measured(report).next().is_none().then(|| match warmups {
        0 => "Nothing was measured: no start was made.".to_owned(),
        _ => format!(
            "Nothing was measured: the {} made are warm-ups, which do not count.",
            counted(warmups, "start")
        ),
    })
}

/// How well phases add up to the whole, as part of it: what is less than is shown is said to be so.
pub fn gap(part: f64) -> String {
    match part {
        0.0 => "0 %".to_owned(),
        ..0.000_1 => "< 0.01 %".to_owned(),
        _ => format!("{:.2} %", part * 100.0),
    }
}

/// What a reader must know before any figure: `None` for a complete measurement.
pub fn partial(report: &Report) -> Option<String> {
    match &report.completion {
        Completion::Complete => None,
        Completion::Partial { reason, done, planned } => {
            Some(format!("Partial: {done} of {planned} starts were made ({reason})."))
        }
    }
}

/// Which percentiles the number of starts does not bear; `None`: it bears all.
pub fn thin(report: &Report) -> Option<String> {
    let counts = report.summary.subjects.iter().map(|subject| subject.total.count);
    let fewest = counts.filter(|count| *count > 0).min()?;
    // A start in n is beyond percentile 1 - 1/n: below that, the largest of the sample stands for it.
    let what = match fewest {
        ..20 => "p95 and p99 are",
        20..100 => "p99 is",
        _ => return None,
    };
    Some(format!("Not reliable: with {fewest} starts {what} little else than the largest of them."))
}

/// Name of a subject in tables.
pub fn name<'a>(report: &'a Report, id: &'a str) -> &'a str {
    report.subjects.iter().find(|subject| subject.id == id).map_or(id, |subject| &subject.name)
}

/// Names of all phases that any subject has, in order.
pub fn phases(report: &Report) -> Vec<&str> {
    let has = |phase: &str| {
        report.summary.subjects.iter().any(|subject| subject.phases.iter().any(|one| one.phase == phase))
    };
    crate::model::PHASES.into_iter().filter(|phase| has(phase)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_that_few_starts_do_not_bear_are_named() {
        let with = |counts: &[usize]| {
            let mut report: Report = serde_json::from_value(serde_json::json!({
                "schema": crate::model::SCHEMA, "version": crate::model::SCHEMA_VERSION,
                "completion": {"state": "complete"}, "started": "", "finished": "",
                "question": {"image": "", "command": [], "ready": "exit", "runs": 1, "warmup": 0, "seed": 1,
                    "cache": "warm", "parallel": 1, "density": 0, "timeout_ms": 1, "run_flags": [], "command_line": []},
                "provenance": serde_json::to_value(crate::model::Provenance::default()).unwrap(),
                "findings": [], "subjects": [], "missing": [], "samples": [],
                "summary": {"subjects": [], "comparisons": []},
            }))
            .unwrap();
            report.summary.subjects = counts
                .iter()
                .map(|count| {
                    let mut subject = crate::model::SubjectSummary::default();
                    subject.total.count = *count;
                    subject
                })
                .collect();
            thin(&report)
        };
        assert_eq!(with(&[]), None);
        assert_eq!(with(&[100, 250]), None);
        assert!(with(&[100, 99]).unwrap().contains("with 99 starts p99 is"));
        assert!(with(&[0, 19]).unwrap().contains("with 19 starts p95 and p99 are"));
    }
}
