//! The report: everything that was measured, where, and how. One JSON object, which every renderer reads and `--replay` draws again.
//!
//! Raw facts ([`Report::samples`], [`Report::density`], [`Report::provenance`]) are never changed after the measurement.
//! [`Report::summary`] is derived from them and from the seed alone, so that it can be made again at any time.
//! All durations are nanoseconds of the host's CLOCK_MONOTONIC, all sizes are bytes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// Value of [`Report::schema`].
pub const SCHEMA: &str = "rkvm-compare";
/// Version of the report's form. A reader takes this one; a field that is added with a default does not change it.
pub const SCHEMA_VERSION: u32 = 1;

/// One measurement.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Always [`SCHEMA`]: says what this file is.
    pub schema: String,
    /// [`SCHEMA_VERSION`] of the program that wrote it.
    pub version: u32,
    /// Whether all planned runs were made.
    pub completion: Completion,
    /// When it began, RFC 3339.
    pub started: String,
    /// When it ended, RFC 3339.
    pub finished: String,
    /// What was asked for.
    pub question: Question,
    /// Where and with what it was measured.
    pub provenance: Provenance,
    /// What may distort the figures.
    pub findings: Vec<Finding>,
    /// What was compared, in the order of the tables; the first is what the others are related to.
    pub subjects: Vec<Subject>,
    /// What was asked for with `--with` or `--isolation` and could not take part.
    pub missing: Vec<Missing>,
    /// Every start, warm-ups too, in the order in which they were made.
    pub samples: Vec<Sample>,
    /// Starts that did not become ready.
    #[serde(default)]
    pub failures: Vec<Failure>,
    /// Memory and start time as instances grow; empty without `--density`.
    #[serde(default)]
    pub density: Vec<DensityPoint>,
    /// Derived from all of the above.
    pub summary: Summary,
}

/// Whether all planned runs were made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum Completion {
    /// All.
    Complete,
    /// Not all: the figures are of those that were made.
    Partial {
        /// Why: `interrupted`, or what failed.
        reason: String,
        /// Starts that were made, warm-ups included.
        done: usize,
        /// Starts that were planned.
        planned: usize,
    },
}

/// What was asked for: together with the image, all that is needed to ask again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Question {
    /// The image as the user named it.
    pub image: String,
    /// What ran in place of the image's command; empty: the image's own.
    pub command: Vec<String>,
    /// The readiness probe as the user wrote it, e.g. `http:80/`.
    pub ready: String,
    /// Measured starts of each subject. With `parallel` > 1, each of so many at once.
    pub runs: usize,
    /// Starts of each subject before them.
    pub warmup: usize,
    /// Seed of the order and of the bootstrap.
    pub seed: u64,
    /// Whether the page cache was dropped before each start.
    pub cache: CacheState,
    /// Instances that were started at once.
    pub parallel: usize,
    /// Largest number of instances of the density measurement; 0: not made.
    pub density: usize,
    /// Milliseconds after which a start that is not ready has failed.
    pub timeout_ms: u64,
    /// Flags that were passed on to `rkvm run`.
    pub run_flags: Vec<String>,
    /// The whole command line.
    pub command_line: Vec<String>,
}

/// State of the host's caches at each start.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum CacheState {
    /// As the start before left them.
    Warm,
    /// Page cache, dentries and inodes were dropped before each start (`/proc/sys/vm/drop_caches`, 3).
    Cold,
}

/// Where and with what it was measured. `None` and empty: could not be found out, which renderers say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Provenance {
    /// rkvm's version.
    pub rkvm_version: String,
    /// The commit it was built from, with `-dirty` when the tree had changes; `None` in a build from an archive.
    pub rkvm_commit: Option<String>,
    /// `debug` or `release`.
    pub rkvm_profile: String,
    /// Model name of the first CPU.
    pub cpu: String,
    /// Processors this process may use.
    pub cpus: usize,
    /// Bytes of memory.
    pub memory: u64,
    /// The host kernel's release and version.
    pub kernel: String,
    /// Of the host kernel's command line what matters to figures.
    pub kernel_command_line: String,
    /// File name below /sys/devices/system/cpu/vulnerabilities and its content.
    pub mitigations: BTreeMap<String, String>,
    /// What /dev/kvm offers: `vmx`, `svm`, `pvm`, `none`, ...
    pub kvm: String,
    /// What this host itself runs in, when it is a guest, e.g. `KVM`.
    pub hypervisor: Option<String>,
    /// `v1`, `v2` or `hybrid`.
    pub cgroup: String,
    /// Scaling governor of the CPUs; `None` where there is none (most guests).
    pub governor: Option<String>,
    /// SHA-256 of the guest kernel's file, hexadecimal; `None` when no microVM took part.
    pub guest_kernel_sha256: Option<String>,
    /// File name of the guest kernel.
    pub guest_kernel: Option<String>,
    /// Digest of the image's manifest.
    pub image_digest: String,
    /// Content id of the image's configuration.
    pub image_id: String,
    /// Bytes of the image's layers, unpacked; `None` when not known.
    pub image_size: Option<u64>,
    /// Version line of each peer, by its id.
    pub peer_versions: BTreeMap<String, String>,
    /// Anything else that shapes the figures, name and value.
    pub configuration: BTreeMap<String, String>,
    /// Load averages before the runs.
    pub load_before: [f64; 3],
    /// Load averages after the runs.
    pub load_after: [f64; 3],
}

/// How much a finding matters.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Severity {
    /// Must be known to read the figures; no reason to measure again.
    Note,
    /// Distorts the figures; `--strict` refuses to measure.
    Warning,
}

/// Something that may distort the figures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stable name, e.g. `debug-build`.
    pub id: String,
    /// How much it matters.
    pub severity: Severity,
    /// What was seen.
    pub what: String,
    /// How it shifts the figures: which side, which phase.
    pub effect: String,
    /// What to do about it.
    pub remedy: String,
}

/// What kind of thing was measured.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SubjectKind {
    /// `rkvm run --isolation=container`.
    Container,
    /// `rkvm run --isolation=vm`.
    Vm,
    /// Another program.
    Peer,
}

/// Something that was measured.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// Stable id, also what `--with` calls it: `container`, `vm`, `runc`, ...
    pub id: String,
    /// What kind it is.
    pub kind: SubjectKind,
    /// Name in tables.
    pub name: String,
    /// One of its command lines.
    pub command_line: Vec<String>,
    /// How its work differs from that of `rkvm run`, e.g. that a peer has no network; one sentence each.
    pub differences: Vec<String>,
}

/// Something that was asked for and could not take part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Missing {
    /// Its id.
    pub id: String,
    /// Why, and what to do.
    pub reason: String,
}

/// Whether a start counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum SampleKind {
    /// Made before the measurement, kept, not counted.
    Warmup,
    /// Counted.
    Measured,
}

/// One start.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Sample {
    /// [`Subject::id`].
    pub subject: String,
    /// Whether it counts.
    pub kind: SampleKind,
    /// Place in the order of all starts, from 0.
    pub order: usize,
    /// Round it belongs to, from 0: each subject starts once (or `parallel` times) a round.
    pub round: usize,
    /// Which of the instances that were started at once, from 0.
    #[serde(default)]
    pub instance: usize,
    /// Nanoseconds from the command's start to readiness, by the measuring process' clock.
    pub total_ns: u64,
    /// Its parts in order; see [`phase_meaning`]. A peer may have fewer, or none.
    pub phases: Vec<PhaseTime>,
    /// Milliseconds since the measurement began.
    pub at_ms: u64,
}

/// A part of a start.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PhaseTime {
    /// Name, one of [`PHASES`].
    pub phase: String,
    /// Its length.
    pub ns: u64,
}

impl Sample {
    /// Length of a phase; `None` when this start does not have it.
    pub fn phase_ns(&self, phase: &str) -> Option<u64> {
        let mut found = self.phases.iter().filter(|one| one.phase == phase).peekable();
        found.peek()?;
        Some(found.map(|one| one.ns).sum())
    }

    /// Sum of all phases; 0 without phases.
    pub fn phases_ns(&self) -> u64 {
        self.phases.iter().map(|one| one.ns).sum()
    }
}

/// A start that did not become ready.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// [`Subject::id`].
    pub subject: String,
    /// Place in the order of all starts.
    pub order: usize,
    /// What happened.
    pub message: String,
    /// Last phase that ended.
    pub reached: Option<String>,
    /// The last lines that it wrote.
    pub log: Vec<String>,
}

/// Memory and start time with so many instances running.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DensityPoint {
    /// [`Subject::id`].
    pub subject: String,
    /// Instances that run, this one included.
    pub instances: usize,
    /// Nanoseconds in which the last of them became ready.
    pub start_ns: u64,
    /// Proportional set size of all processes of all instances, monitors and VMMs included (`/proc/PID/smaps_rollup`).
    pub pss_bytes: u64,
    /// The host's `MemAvailable`: also counts what the kernel holds for them.
    pub available_bytes: u64,
}

/// The part before the command's own clock starts.
pub const PHASE_COMMAND: &str = "command";

/// Names of all phases in order.
pub const PHASES: [&str; 9] =
    [PHASE_COMMAND, "image", "rootfs", "network", "sandbox", "boot", "process", "exec", "ready"];

/// What a phase is, for readers who do not know the code: `(container, microVM)`.
pub fn phase_meaning(phase: &str) -> (&'static str, &'static str) {
    match phase {
        "command" => (
            "the command is started: the kernel executes the rkvm binary",
            "the command is started: the kernel executes the rkvm binary",
        ),
        "image" => (
            "flags are read and the image's name is resolved in the local store",
            "flags are read and the image's name is resolved in the local store",
        ),
        "rootfs" => (
            "the container is recorded, its monitor started, its layers joined by overlayfs",
            "the VM is recorded, its monitor started, the image's block file and write layer prepared",
        ),
        "network" => (
            "address and ports are reserved, a veth pair is joined to the bridge",
            "address and ports are reserved, a tap device is joined to the bridge",
        ),
        "sandbox" => (
            "namespaces and cgroup are made",
            "the VM is made: memory, processors, devices, kernel loaded, process jailed",
        ),
        "boot" => {
            ("absent: there is no kernel to boot", "from the guest kernel's first instruction to PID 1")
        }
        "process" => (
            "mounts, change of root, limits, seccomp filter",
            "the guest's init mounts, joins the layers, sets up the network and limits",
        ),
        "exec" => ("the program is executed", "the guest's init executes the program"),
        "ready" => (
            "the program works until the readiness probe succeeds",
            "the program works until the readiness probe succeeds",
        ),
        _ => ("", ""),
    }
}

/// What the samples say. Derived; see [`crate::summary::summarize`].
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Summary {
    /// One for each subject, in the same order.
    pub subjects: Vec<SubjectSummary>,
    /// Each subject but the first against the first; the first entry is VM against container when both took part.
    pub comparisons: Vec<Comparison>,
    /// The budgets that were asked for.
    #[serde(default)]
    pub budgets: Vec<BudgetResult>,
}

/// A value with its 95 % interval.
#[derive(Debug, Clone, Copy, PartialEq, Default, Serialize, Deserialize)]
pub struct Estimate {
    /// The estimate.
    pub value: f64,
    /// Lower end of the 95 % interval.
    pub low: f64,
    /// Upper end of the 95 % interval.
    pub high: f64,
}

/// Distribution of a subject's times, nanoseconds.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct Distribution {
    /// Number of samples.
    pub count: usize,
    /// Smallest.
    pub min: u64,
    /// Largest.
    pub max: u64,
    /// Arithmetic mean.
    pub mean: f64,
    /// Standard deviation of the sample (n - 1).
    pub deviation: f64,
    /// Median and its interval.
    pub median: Estimate,
    /// 95th percentile and its interval.
    pub p95: Estimate,
    /// 99th percentile and its interval; the interval says little below some hundred samples.
    pub p99: Estimate,
    /// [`Sample::order`] of those beyond Tukey's fences (1.5 interquartile ranges). They count like all others.
    pub outliers: Vec<usize>,
}

/// What one subject's samples say.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct SubjectSummary {
    /// [`Subject::id`].
    pub subject: String,
    /// From the command's start to readiness.
    pub total: Distribution,
    /// Each phase that any sample has, in order.
    pub phases: Vec<PhaseSummary>,
    /// Largest difference between a sample's phases and its whole, as part of the whole. `None` without phases.
    pub worst_gap: Option<f64>,
}

/// What one subject's samples say of one phase.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
pub struct PhaseSummary {
    /// Its name.
    pub phase: String,
    /// Its length: median and interval.
    pub duration: Estimate,
    /// Median moment of its beginning, from the command's start: for waterfalls.
    pub begin_ns: f64,
    /// Median moment of its end. The next phase begins where this one ends, the last ends at the median of the whole.
    pub end_ns: f64,
}

/// Size of an effect in words (thresholds of Romano and others 2006 for Cliff's delta: 0.147, 0.33, 0.474).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Magnitude {
    /// |delta| < 0.147.
    Negligible,
    /// |delta| < 0.33.
    Small,
    /// |delta| < 0.474.
    Medium,
    /// From there on.
    Large,
}

/// Two subjects, or the same subject in two reports.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Comparison {
    /// Id of the subject that is related (numerator).
    pub of: String,
    /// Id of the subject that it is related to (denominator).
    pub to: String,
    /// Phase that is compared; `None`: the whole.
    #[serde(default)]
    pub phase: Option<String>,
    /// Ratio of the medians and its interval.
    pub ratio: Estimate,
    /// Hodges and Lehmann's shift, nanoseconds: how much longer `of` takes, typically; and its interval.
    pub shift_ns: Estimate,
    /// Cliff's delta: chance that one of `of` is longer than one of `to`, less the reverse; -1 to 1.
    pub cliffs_delta: f64,
    /// The same in one word.
    pub magnitude: Magnitude,
    /// Two-sided p of Mann and Whitney's test.
    pub p_value: f64,
    /// All of it in one sentence.
    pub sentence: String,
}

/// A budget, e.g. `p95=200ms`, and whether it was kept.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BudgetResult {
    /// As the user wrote it.
    pub budget: String,
    /// Subject that was judged.
    pub subject: String,
    /// What may not be exceeded.
    pub limit_ns: u64,
    /// What was measured.
    pub actual_ns: u64,
    /// Whether it was kept.
    pub kept: bool,
}

/// Two reports against each other (`rkvm compare A.json B.json`).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Versus {
    /// File of the first report: the base.
    pub before: String,
    /// File of the second report.
    pub after: String,
    /// What differs in how and where the two were measured, a sentence each; a difference here may explain one below.
    pub differences: Vec<String>,
    /// Each subject of both reports: the whole first, then each phase. `of` is the second report's, `to` the first's.
    pub comparisons: Vec<Comparison>,
    /// Subjects that only one report has, a sentence each.
    pub unpaired: Vec<String>,
}
