//! What distorts figures: found before the runs, listed in the report.

use crate::model::{CacheState, Finding, Question, Report, Severity, SubjectKind};
use crate::render::facts::counted;
use crate::stats;
use crate::summary::measured;

mod host;
#[cfg(test)]
mod tests;

pub use host::{CpuTime, Host, mitigations};

/// Runs below which intervals are wide and rare delays are not seen.
const FEW_RUNS: usize = 30;
/// Runs below which a 99th percentile is little more than the largest sample.
const FEW_FOR_P99: usize = 100;
/// Part of all processors' time that others may use.
const OTHER_LOAD: f64 = 0.05;

/// Whether a microVM takes part: some findings only concern it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Involves {
    /// Containers and other programs only.
    ContainersOnly,
    /// A microVM too.
    Vm,
}

/// Judges the host and the plan.
pub fn before(host: &Host, question: &Question, involves: Involves) -> Vec<Finding> {
    let mut found = vec![];
    let mut add = |finding: Option<Finding>| found.extend(finding);
    add(host.debug_build.then(|| {
        warning(
            "debug-build",
            "this rkvm is a debug build",
            "its own part of every phase is several times longer; ratios are wrong, and most of all those to other programs",
            "build with `cargo build --release`",
        )
    }));
    add((host.busy > OTHER_LOAD).then(|| {
        warning(
            "other-load",
            format!(
                "other programs used {:.0} % of the processors before the runs (load average {:.2})",
                host.busy * 100.0,
                host.load[0]
            ),
            "all phases vary more and are longer; a VM's more, since it has more threads to run",
            "end what else runs, and measure again",
        )
    }));
    add(host.governor.as_deref().filter(|governor| *governor != "performance").map(|governor| {
        warning(
            "governor",
            format!("the CPU frequency governor is {governor}"),
            "short phases run at a low frequency; whichever isolation computes longer is favoured",
            "cpupower frequency-set -g performance",
        )
    }));
    add(host.hypervisor.as_ref().map(|name| {
        warning(
            "nested",
            format!("this host is itself a virtual machine ({name})"),
            "traps and page faults cost more than on hardware, for a VM inside it most of all; neighbours may take processor time",
            "measure on hardware, or read the ratio as that of nested virtualization",
        )
    }));
    if involves == Involves::Vm {
        add((host.kvm == "pvm").then(|| {
            warning(
                "pvm",
                "/dev/kvm is PVM: virtual machines run without hardware support",
                if host.cpuid_faults && host.hypervisor.is_some() {
                    "the phases boot and process of a VM take many times what they take on VT-x or SVM: PVM switches this \
                     processor's CPUID faulting at every trap of the guest, and each switch traps into the hypervisor below"
                } else {
                    "the phases boot and process of a VM take several times what they take on VT-x or SVM"
                },
                "measure on a host with hardware virtualization to speak of VMs in general",
            )
        }));
    }
    add((host.cgroup != "v2").then(|| {
        warning(
            "cgroup-v1",
            format!("cgroups are {}", host.cgroup),
            "a folder in each of up to a dozen hierarchies in place of one: the phase sandbox of a container is longer than on v2",
            "boot with systemd.unified_cgroup_hierarchy=1",
        )
    }));
    add(serial(host));
    add(guest_console(question, involves));
    add(host.swap_used.then(|| {
        warning(
            "swap",
            "swap is in use",
            "pages may have to be read back from disk in any phase",
            "swapoff -a",
        )
    }));
    add((host.swap_on && !host.swap_used).then(|| {
        note(
            "swap",
            "swap is on, and not in use",
            "under memory pressure (--density, --parallel) pages may go to disk",
            "swapoff -a",
        )
    }));
    add((host.thp == "always").then(|| {
        note(
            "huge-pages",
            "transparent huge pages are always on",
            "a VM's memory is faulted in by 2 MiB: its start is faster and its memory larger than with small pages",
            "echo madvise >/sys/kernel/mm/transparent_hugepage/enabled",
        )
    }));
    add(host.reports_free_pages.then(|| {
        note(
            "free-page-reporting",
            "this host gives memory that has been free for seconds back to the hypervisor below",
            "the first use of such memory costs many times as much, for a VM most of all, whose memory comes 2 MiB at a time: starts \
             after a pause, or that need more memory than the ones before (--density, --parallel), are longer than those in quick succession",
            "keep the warm-ups, and do not read a single start; or run the host without free page reporting",
        )
    }));
    add((host.mitigations > 0).then(|| {
        note(
            "mitigations",
            format!("{} mitigations of CPU vulnerabilities are active", host.mitigations),
            "system calls and VM exits are longer; production hosts have them too",
            "leave them on, and name the CPU beside the figures",
        )
    }));
    add(caches(question));
    add((question.runs * question.parallel < FEW_RUNS).then(|| {
        warning(
            "few-runs",
            format!("few runs: {} of each", question.runs * question.parallel),
            "intervals are wide, and what happens in one of twenty starts may not be seen at all",
            format!("--runs {FEW_RUNS} or more"),
        )
    }));
    add((FEW_RUNS..FEW_FOR_P99).contains(&(question.runs * question.parallel)).then(|| {
        note(
            "few-runs-p99",
            format!("{} runs of each are too few for a 99th percentile", question.runs * question.parallel),
            "p99 is little more than the largest sample",
            format!("--runs {FEW_FOR_P99} or more, to speak of p99"),
        )
    }));
    found
}

fn serial(host: &Host) -> Option<Finding> {
    host.serial_console.as_ref().map(|console| {
        warning(
            "serial-console",
            format!("the host's kernel writes messages of every level to the serial console {console}"),
            "each link that joins the bridge prints lines at the speed of the wire: the phase network is longer by milliseconds",
            "dmesg -n 4",
        )
    })
}

fn guest_console(question: &Question, involves: Involves) -> Option<Finding> {
    let on =
        question.run_flags.iter().any(|flag| flag.contains("console=") && !flag.contains("console=null"));
    (on && involves == Involves::Vm).then(|| {
        warning(
            "guest-console",
            "the guest kernel has a console",
            "every line that it prints traps to the host: the phase boot is longer by milliseconds to seconds",
            "leave console= out of io.rkvm.vm.cmdline",
        )
    })
}

fn caches(question: &Question) -> Option<Finding> {
    match (question.cache, question.warmup) {
        (CacheState::Cold, _) => Some(note(
            "cold-caches",
            "the page cache is dropped before each start",
            "all that is read from disk is part of the figures: the first start after a boot, not the usual one",
            "leave --cold out for the usual start",
        )),
        (CacheState::Warm, 0) => Some(warning(
            "no-warm-up",
            "there is no warm-up",
            "the first starts read from disk what later ones find in memory",
            "--warmup 3",
        )),
        (CacheState::Warm, _) => None,
    }
}

/// Largest difference between a start's phases and its whole.
const GAP: f64 = 0.02;
/// Part of the processors' time that a hypervisor may withhold.
const STEAL: f64 = 0.01;
/// p below which the two halves of a series are called different.
const DRIFT: f64 = 0.001;

/// Judges what was measured. `spent` is the processors' time during the runs.
pub fn after(report: &Report, spent: &CpuTime) -> Vec<Finding> {
    let mut found = vec![];
    let stolen = spent.steal_part();
    if stolen > STEAL {
        found.push(warning(
            "steal",
            format!(
                "the hypervisor withheld {:.1} % of the processors' time during the runs",
                stolen * 100.0
            ),
            "all phases vary more, with long outliers",
            "measure on a host of your own",
        ));
    }
    if !report.failures.is_empty() {
        found.push(warning(
            "failed-starts",
            format!(
                "{} did not become ready; the report has the last lines",
                counted(report.failures.len(), "start")
            ),
            "the figures are those of the starts that succeeded",
            "find out why before you trust them",
        ));
    }
    for subject in &report.subjects {
        let samples = measured(report, &subject.id);
        let gap = |sample: &&crate::model::Sample| {
            sample.phases_ns().abs_diff(sample.total_ns) as f64 > GAP * sample.total_ns as f64
        };
        let gaps =
            samples.iter().filter(|sample| !sample.phases.is_empty()).filter(|sample| gap(sample)).count();
        if gaps > 0 {
            found.push(warning(
                "phases-gap",
                format!(
                    "in {} of {} the phases do not add up to the whole within 2 %",
                    counted(gaps, "start"),
                    subject.name
                ),
                "single phases of these starts are wrong, the whole is right",
                "report it: the marks of a start are out of order",
            ));
        }
        let values: Vec<f64> = samples.iter().map(|sample| sample.total_ns as f64).collect();
        let (early, late) = values.split_at(values.len() / 2);
        if stats::mann_whitney(early, late).p < DRIFT {
            found.push(warning(
                "drift",
                format!("starts of {} became {} during the runs", subject.name, if stats::median(late) > stats::median(early) { "slower" } else { "faster" }),
                "the median stands for no moment of the measurement; the random order protects the ratio, not the absolute figures",
                "more warm-ups, or find what changes: heat, memory, leftovers",
            ));
        }
    }
    found
}

/// Whether any finding is one that `--strict` refuses.
pub fn has_warning(findings: &[Finding]) -> bool {
    findings.iter().any(|finding| finding.severity == Severity::Warning)
}

/// Whether a microVM is among the subjects.
pub fn involves(kinds: impl Iterator<Item = SubjectKind>) -> Involves {
    if kinds.into_iter().any(|kind| kind == SubjectKind::Vm) {
        Involves::Vm
    } else {
        Involves::ContainersOnly
    }
}

fn finding(
    severity: Severity,
    id: &str,
    what: impl Into<String>,
    effect: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    Finding { id: id.to_owned(), severity, what: what.into(), effect: effect.into(), remedy: remedy.into() }
}

fn warning(
    id: &str,
    what: impl Into<String>,
    effect: impl Into<String>,
    remedy: impl Into<String>,
) -> Finding {
    finding(Severity::Warning, id, what, effect, remedy)
}

fn note(id: &str, what: impl Into<String>, effect: impl Into<String>, remedy: impl Into<String>) -> Finding {
    finding(Severity::Note, id, what, effect, remedy)
}
