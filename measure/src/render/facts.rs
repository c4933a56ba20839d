//! What every output says beside the figures: what was asked, where it was measured, what may distort it.

use crate::model::{CacheState, Completion, Report};

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
        ("Runs", format!("{} each, after {} warm-ups, in random order", asked.runs, asked.warmup)),
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
        ("This host is a guest of", or_unknown(&from.hypervisor)),
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
