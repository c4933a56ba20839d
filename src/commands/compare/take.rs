//! Taking a measurement.

use std::collections::{BTreeMap, HashMap};
use std::fs;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use anyhow::{Context as _, Result, bail};
use nix::mount::{MntFlags, umount2};
use rkvm_engine::host::{CgroupMode, KvmKind};
use rkvm_engine::layers::RootView;
use rkvm_engine::volume::VolumeStore;
use rkvm_engine::{Paths, rootfs, spec};
use rkvm_image::{Digest, Image, Store};
use rkvm_measure::contestant::Contestant;
use rkvm_measure::drive::Drive;
use rkvm_measure::fairness::{self, CpuTime, Host};
use rkvm_measure::model::{
    Completion, Missing, Provenance, Report, SCHEMA, SCHEMA_VERSION, SubjectKind, Summary,
};
use rkvm_measure::peers::{self, Machine, Peers};
use rkvm_measure::process::helper;
use rkvm_measure::rkvm::{Rkvm, Setup, Way, Workload};
use rkvm_measure::session::Session;
use rkvm_measure::start::Conditions;
use rkvm_measure::{interrupt, plan, provenance, render, summary};
use rkvm_oci::backend::Kernel;
use rkvm_oci::runtime::rfc3339;

use super::progress::{self, Progress};
use super::{Order, session};
use crate::context::Context;
use crate::flags::pull::{self, PullPolicy};
use crate::flags::{Attachment, ContainerFlags};
use crate::pulling::Show;
use crate::output;

/// Measures; `None`: the user ended it before there was anything to report.
///
/// # Errors
/// A subject's first start fails, or nothing can be measured.
pub fn take(order: &Order, context: &Context) -> Result<Option<Report>> {
    let store = Store::open(&context.lib_dir);
    let image = pull::image(&store, &order.question.image, PullPolicy::Missing, Show::Stderr)?;
    // From here on there is something to remove.
    interrupt::watch();
    session::clean_up(context).context("a killed measurement left something that cannot be removed")?;
    let started = rfc3339(SystemTime::now());
    let host = Host::look(&kvm(), &CgroupMode::of_this_host().to_string());
    let session = Session::begin(&session::folder(context))?;
    let without_v2 = leaves_cgroup_v2(order);
    let preparing = progress::preparing("preparing what is compared");
    let (contestants, missing, versions) = contestants(order, context, &image, &session)?;
    drop(preparing);
    if interrupt::requested() {
        return Ok(nothing_measured());
    }
    let kinds = contestants.iter().map(|one| one.subject().kind);
    let findings = fairness::before(&host, &order.question, fairness::involves(kinds));
    let mut provenance = provenance::of_this_host(&host, env!("CARGO_PKG_VERSION"));
    provenance.peer_versions = versions;
    describe(&mut provenance, context, &image, &contestants)?;
    if without_v2 {
        let why = "unmounted for all subjects: crun refuses hybrid hosts".to_owned();
        provenance.configuration.insert("cgroup v2".to_owned(), why);
    }
    let mut report = Report {
        schema: SCHEMA.to_owned(),
        version: SCHEMA_VERSION,
        completion: Completion::Complete,
        started,
        finished: String::new(),
        question: order.question.clone(),
        provenance,
        findings,
        subjects: contestants.iter().map(|one| peers::described(one.as_ref(), &order.probe)).collect(),
        missing,
        samples: vec![],
        failures: vec![],
        density: vec![],
        summary: Summary::default(),
    };
    announce(order, &report)?;
    if let Some(missing) = report.missing.iter().find(|missing| order.limits(&missing.id)) {
        bail!("--budget names {:?}, which cannot be measured: {}", missing.id, missing.reason);
    }
    let turns =
        plan::plan(contestants.len(), order.question.runs, order.question.warmup, order.question.seed)?;
    let prefix = format!("rkvm-compare-{}", session.name());
    let drive = Drive {
        contestants: &contestants,
        turns: &turns,
        conditions: Conditions { probe: &order.probe, timeout: order.timeout, folder: session.folder() },
        prefix: &prefix,
        parallel: order.question.parallel,
        cache: order.question.cache,
        density: order.question.density,
    };
    let before = CpuTime::now();
    let planned = turns.len() * order.question.parallel + contestants.len() * order.question.density;
    let measured = drive.run(&mut Progress::new(planned));
    // Whatever a failed removal left.
    session::remove_all(context, |name| name == session.name())?;
    let measured = measured.context("nothing was measured (--isolation and --with choose what takes part)")?;
    if measured.samples.is_empty() {
        return Ok(nothing_measured());
    }
    report.completion = measured.completion();
    report.samples = measured.samples;
    report.failures = measured.failures;
    report.density = measured.density;
    for one in &measured.given_up {
        output::complain(format_args!("{}: not measured: {}", one.id, one.reason));
    }
    report.subjects.retain(|subject| {
        let has_samples = report.samples.iter().any(|sample| sample.subject == subject.id);
        has_samples || !measured.given_up.iter().any(|one| one.id == subject.id)
    });
    report.missing.extend(measured.given_up);
    report.finished = rfc3339(SystemTime::now());
    report.provenance.load_after = Host::read(Path::new("/"), "", "").load;
    let spent = CpuTime::now().since(&before);
    report.findings.extend(fairness::after(&report, &spent));
    report.summary = summary::summarize(&report, &order.budgets);
    Ok(Some(report))
}

fn nothing_measured() -> Option<Report> {
    output::complain(format_args!("rkvm: interrupted before anything was measured"));
    None
}

/// Says what is going to be measured, and refuses where `--strict` says so.
fn announce(order: &Order, report: &Report) -> Result<()> {
    output::complain(format_args!("seed {}", order.question.seed));
    for missing in &report.missing {
        output::complain(format_args!("{}: not measured: {}", missing.id, missing.reason));
    }
    for finding in &report.findings {
        output::complain(format_args!("{}", render::facts::advice(finding)));
    }
    if order.strict && fairness::has_warning(&report.findings) {
        bail!("--strict: the warnings above distort the figures; remedy them, or leave --strict out");
    }
    Ok(())
}

fn kvm() -> String {
    match crate::backend::machines().kvm.kind {
        KvmKind::Intel | KvmKind::Amd | KvmKind::Hardware => "hardware",
        KvmKind::Pvm => "pvm",
        KvmKind::None => "none",
    }
    .to_owned()
}

type Found = (Vec<Box<dyn Contestant>>, Vec<Missing>, BTreeMap<String, String>);

/// Everything that can take part, what cannot, and versions of peers.
fn contestants(order: &Order, context: &Context, image: &Image, session: &Session) -> Result<Found> {
    let mut found: Vec<Box<dyn Contestant>> = vec![];
    let mut missing = vec![];
    for &way in &order.ways {
        if let Some(reason) = session::unusable(way.isolation) {
            missing.push(Missing { id: way.id().to_owned(), reason });
            continue;
        }
        found.push(Box::new(rkvm_contestant(order, context, session, way)?));
    }
    let peers = peers(order, context, image, session)?;
    found.extend(peers.found);
    missing.extend(peers.missing);
    if found.is_empty() {
        let reasons: Vec<String> = missing.iter().map(|one| format!("{}: {}", one.id, one.reason)).collect();
        bail!("nothing can be measured: {}", reasons.join("; "));
    }
    Ok((found, missing, peers.versions))
}

/// Where a hybrid host has cgroup v2.
const UNIFIED: &str = "/sys/fs/cgroup/unified";

/// crun refuses hybrid hosts: then all subjects are measured without cgroup v2, in this process' mount namespace.
fn leaves_cgroup_v2(order: &Order) -> bool {
    CgroupMode::of_this_host() == CgroupMode::Hybrid && order.peers.iter().any(|peer| peer == "crun")
}

/// Other programs, with the configuration that `rkvm run` itself would use.
fn peers(order: &Order, context: &Context, image: &Image, session: &Session) -> Result<Peers> {
    if order.peers.is_empty() {
        return Ok(Peers::default());
    }
    // Their root filesystems end with this process.
    rootfs::private_mounts()?;
    if leaves_cgroup_v2(order) {
        umount2(UNIFIED, MntFlags::MNT_DETACH).context("cannot unmount cgroup v2 for crun")?;
    }
    let engine = context.engine();
    let mut words = vec!["peer", "--userns=host"];
    words.extend(order.question.run_flags.iter().map(String::as_str));
    words.push(&order.question.image);
    words.extend(order.question.command.iter().map(String::as_str));
    let record = ContainerFlags::parse_words(&words)?.record(&engine, image, Attachment::Detached, rkvm_engine::ids::random()?)?;
    let files = Paths::new(&engine.paths.run, session.folder()).container("template");
    let volumes = VolumeStore::new(&engine.paths.lib);
    let spec = spec::build(&spec::Inputs {
        record: &record,
        files: &files,
        network_files: false,
        uid_base: None,
        user_namespace: None,
        net_namespace: None,
        joined: &HashMap::new(),
        volume_path: &|name| volumes.path(name),
        init_program: &std::env::current_exe()?,
        kernel: Kernel::Host,
        root: &RootView::Layers(record.image.layers.clone()),
    })?;
    let workload = peers::Workload {
        layers: record.image.layers,
        spec: serde_json::to_value(spec)?,
        folder: session.folder().to_owned(),
        image: order.question.image.clone(),
        command: order.question.command.clone(),
        run_flags: order.question.run_flags.clone(),
        archive: saved(order, context, session)?,
        machine: machine(order, context, image)?,
    };
    Ok(peers::find(&order.peers, &workload, &order.probe)?)
}

/// The image as an archive, when a peer needs it.
fn saved(order: &Order, context: &Context, session: &Session) -> Result<Option<PathBuf>> {
    if !peers::needs_archive(&order.peers) {
        return Ok(None);
    }
    let archive = session.folder().join("image.tar");
    helper(session::rkvm(context)?.args(["save", "--output"]).arg(&archive).arg(&order.question.image))?;
    Ok(Some(archive))
}

/// What a virtual machine of another program boots.
fn machine(order: &Order, context: &Context, image: &Image) -> Result<Result<Machine, String>> {
    if !peers::needs_machine(&order.peers) {
        return Ok(Err(String::new()));
    }
    let Some(kernel) = session::guest_kernel() else {
        return Ok(Err("there is no guest kernel: `./x guest` builds it".to_owned()));
    };
    Ok(Ok(Machine { kernel, root: Store::open(&context.lib_dir).erofs(&image.id)? }))
}

fn rkvm_contestant(
    order: &Order,
    context: &Context,
    session: &Session,
    way: Way,
) -> Result<Rkvm> {
    Ok(Rkvm::new(Setup {
        way,
        program: std::env::current_exe()?,
        root: context.root.clone(),
        monitors: context.engine().paths.monitors(),
        workload: Workload {
            image: order.question.image.clone(),
            command: order.question.command.clone(),
            flags: order.question.run_flags.clone(),
        },
        session: session.name().to_owned(),
        lookup: session::lookup(context),
    }))
}

/// What only the engine knows of where figures come from.
fn describe(
    provenance: &mut Provenance,
    context: &Context,
    image: &Image,
    contestants: &[Box<dyn Contestant>],
) -> Result<()> {
    provenance.image_digest = image.manifest.to_string();
    provenance.image_id = image.id.to_string();
    provenance.image_size = Some(image.size);
    let filesystem = rkvm_engine::host::filesystem_of(&context.lib_dir);
    provenance.configuration.insert("file system of the image store".to_owned(), filesystem);
    if contestants.iter().any(|one| one.subject().kind == SubjectKind::Vm)
        && let Some(path) = session::guest_kernel()
    {
        let bytes = fs::read(&path).with_context(|| format!("cannot read {}", path.display()))?;
        provenance.guest_kernel_sha256 = Some(Digest::of(&bytes).hex().to_owned());
        provenance.guest_kernel = path.file_name().map(|name| name.to_string_lossy().into_owned());
    }
    Ok(())
}
