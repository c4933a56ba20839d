//! Two reports against each other.

use std::collections::BTreeMap;

use crate::error::{Error, Result};
use crate::model::{Completion, Report, Sample, Versus};
use crate::stats::Bootstrap;
use crate::summary::{Named, compare, measured, phase_names, rounds};

/// Compares the subjects that both reports have. `before` and `after` are what the sentences call them.
///
/// # Errors
/// One of them has no start that counts, or they have no subject in common: there is nothing to compare.
pub fn versus(before: (&str, &Report), after: (&str, &Report)) -> Result<Versus> {
    for (name, report) in [before, after] {
        if !report.subjects.iter().any(|subject| !measured(report, &subject.id).is_empty()) {
            let reason = "it has no start that counts: measure again, and let it come to an end";
            return Err(Error::invalid("report", name, reason));
        }
    }
    let mut bootstrap = Bootstrap::new(before.1.question.seed);
    let mut comparisons = vec![];
    let mut unpaired = vec![];
    for subject in &after.1.subjects {
        if !before.1.subjects.iter().any(|other| other.id == subject.id) {
            unpaired.push(format!("{} is only in {}", subject.id, after.0));
            continue;
        }
        let (old, new) = (measured(before.1, &subject.id), measured(after.1, &subject.id));
        let names = [format!("{} in {}", subject.name, after.0), format!("{} in {}", subject.name, before.0)];
        let mut add = |phase: Option<&str>| {
            let value = |sample: &Sample| match phase {
                None => sample.total_ns as f64,
                Some(phase) => sample.phase_ns(phase).unwrap_or(0) as f64,
            };
            let values = |samples: &[&Sample]| rounds(samples, value);
            let of = Named { id: &subject.id, name: &names[0] };
            let to = Named { id: &subject.id, name: &names[1] };
            let comparison = compare(of, to, &values(&new), &values(&old), &mut bootstrap);
            comparisons.extend(comparison.map(|mut one| {
                one.phase = phase.map(str::to_owned);
                one
            }));
        };
        add(None);
        let known = phase_names(&old);
        phase_names(&new).iter().filter(|phase| known.contains(phase)).for_each(|phase| add(Some(phase)));
    }
    for subject in &before.1.subjects {
        if !after.1.subjects.iter().any(|other| other.id == subject.id) {
            unpaired.push(format!("{} is only in {}", subject.id, before.0));
        }
    }
    if comparisons.is_empty() {
        let reason = format!("it has starts of no subject that {} has: {}", before.0, unpaired.join("; "));
        return Err(Error::invalid("report", after.0, reason));
    }
    Ok(Versus {
        before: before.0.to_owned(),
        after: after.0.to_owned(),
        differences: differences(before.1, after.1),
        comparisons,
        unpaired,
    })
}

fn differences(before: &Report, after: &Report) -> Vec<String> {
    let (a, b) = (&before.provenance, &after.provenance);
    let (p, q) = (&before.question, &after.question);
    let text = |value: &Option<String>| value.clone().unwrap_or_else(|| "unknown".to_owned());
    let completion = |report: &Report| match &report.completion {
        Completion::Complete => "complete".to_owned(),
        Completion::Partial { reason, done, planned } => format!("{done} of {planned} starts, {reason}"),
    };
    // The kernel's own share changes from boot to boot by some KiB.
    let memory = |bytes: u64| format!("{:.1} GiB", bytes as f64 / f64::from(1 << 30));
    let pairs = [
        ("what was measured", completion(before), completion(after)),
        ("rkvm's version", a.rkvm_version.clone(), b.rkvm_version.clone()),
        ("rkvm's commit", text(&a.rkvm_commit), text(&b.rkvm_commit)),
        ("the build", a.rkvm_profile.clone(), b.rkvm_profile.clone()),
        ("the CPU", a.cpu.clone(), b.cpu.clone()),
        ("the number of CPUs", a.cpus.to_string(), b.cpus.to_string()),
        ("the host kernel", a.kernel.clone(), b.kernel.clone()),
        ("the host kernel's parameters", a.kernel_command_line.clone(), b.kernel_command_line.clone()),
        ("the memory", memory(a.memory), memory(b.memory)),
        ("the hypervisor below the host", text(&a.hypervisor), text(&b.hypervisor)),
        ("the CPU governor", text(&a.governor), text(&b.governor)),
        ("KVM", a.kvm.clone(), b.kvm.clone()),
        ("the cgroup mode", a.cgroup.clone(), b.cgroup.clone()),
        ("the image", a.image_digest.clone(), b.image_digest.clone()),
        ("the command", p.command.join(" "), q.command.join(" ")),
        ("the probe", p.ready.clone(), q.ready.clone()),
        ("the caches", format!("{:?}", p.cache).to_lowercase(), format!("{:?}", q.cache).to_lowercase()),
        ("the number at once", p.parallel.to_string(), q.parallel.to_string()),
        ("flags", p.run_flags.join(" "), q.run_flags.join(" ")),
    ];
    // Of these only what is not the same is named; peers and guest kernels that one side did not need are no difference.
    let mut found = named("the mitigation", &a.mitigations, &b.mitigations);
    found.extend(named("the configuration:", &a.configuration, &b.configuration));
    for (peer, old) in &a.peer_versions {
        let other = b.peer_versions.get(peer).filter(|new| *new != old);
        found.extend(other.map(|new| differs(&format!("the version of {peer}"), old, new)));
    }
    if let (Some(old), Some(new)) = (&a.guest_kernel_sha256, &b.guest_kernel_sha256)
        && old != new
    {
        found.push(differs("the guest kernel", old, new));
    }
    let differing = pairs.into_iter().filter(|(_, old, new)| old != new);
    let said = differing.map(|(what, old, new)| differs(what, &old, &new));
    said.chain(found).collect()
}

fn differs(what: &str, old: &str, new: &str) -> String {
    format!("{what} differs: {old:?}, then {new:?}")
}

/// Values of two maps that are not the same, or that one does not have.
fn named(what: &str, old: &BTreeMap<String, String>, new: &BTreeMap<String, String>) -> Vec<String> {
    let names = old.keys().chain(new.keys().filter(|name| !old.contains_key(*name)));
    let value = |values: &BTreeMap<String, String>, name| {
        values.get(name).map_or("unknown", String::as_str).to_owned()
    };
    let pairs = names.map(|name| (name, value(old, name), value(new, name)));
    let differing = pairs.filter(|(_, old, new)| old != new);
    differing.map(|(name, old, new)| differs(&format!("{what} {name}"), &old, &new)).collect()
}
