//! Two reports against each other.

use crate::error::{Error, Result};
use crate::model::{Completion, Report, Sample, Versus};
use crate::stats::Bootstrap;
use crate::summary::{Named, compare, measured, phase_names};

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
            let values = |samples: &[&Sample]| -> Vec<f64> {
                let value = |sample: &&Sample| match phase {
                    None => sample.total_ns as f64,
                    Some(phase) => sample.phase_ns(phase).unwrap_or(0) as f64,
                };
                samples.iter().map(value).collect()
            };
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
    let map = |values: &std::collections::BTreeMap<String, String>| {
        values.iter().map(|(name, value)| format!("{name}: {value}")).collect::<Vec<_>>().join("; ")
    };
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
        ("the configuration", map(&a.configuration), map(&b.configuration)),
        ("the peers' versions", map(&a.peer_versions), map(&b.peer_versions)),
        ("KVM", a.kvm.clone(), b.kvm.clone()),
        ("the cgroup mode", a.cgroup.clone(), b.cgroup.clone()),
        ("the guest kernel", text(&a.guest_kernel_sha256), text(&b.guest_kernel_sha256)),
        ("the image", a.image_digest.clone(), b.image_digest.clone()),
        ("the command", p.command.join(" "), q.command.join(" ")),
        ("the probe", p.ready.clone(), q.ready.clone()),
        ("the caches", format!("{:?}", p.cache).to_lowercase(), format!("{:?}", q.cache).to_lowercase()),
        ("the number at once", p.parallel.to_string(), q.parallel.to_string()),
        ("flags", p.run_flags.join(" "), q.run_flags.join(" ")),
    ];
    let mut found = vec![];
    // Of two dozen only those are named that are not the same.
    for name in
        a.mitigations.keys().chain(b.mitigations.keys().filter(|name| !a.mitigations.contains_key(*name)))
    {
        let state = |values: &std::collections::BTreeMap<String, String>| {
            values.get(name).cloned().unwrap_or_else(|| "unknown".to_owned())
        };
        let (old, new) = (state(&a.mitigations), state(&b.mitigations));
        if old != new {
            found.push(format!("the mitigation {name} differs: {old:?}, then {new:?}"));
        }
    }
    let differing = pairs.into_iter().filter(|(_, old, new)| old != new);
    let said = differing.map(|(what, old, new)| format!("{what} differs: {old:?}, then {new:?}"));
    said.chain(found).collect()
}
