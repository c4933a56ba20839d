//! The runtime's side of `create`.

use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use rkvm_oci::timeline::Phase;
use rkvm_oci::{CreateRequest, Error, Result, Rootfs, hooks};

use crate::Binary;
use crate::init::gate::Gate;
use crate::init::{self, Context, devices, root};
use crate::mounts::sources;
use crate::process::{Plan, Role};
use crate::sync::{Channel, Go, Report};
use crate::validate;
use rkvm_cgroup::{Born, Cgroup};
use rkvm_linux::idmap;
use rkvm_linux::mounts::options::Plan as MountPlan;
use rkvm_linux::namespaces::Namespaces;
use rkvm_linux::seccomp::{Filter, Listener};
use rkvm_linux::sys::exe;
use rkvm_linux::sys::memory;
use rkvm_linux::sys::spawn::{self, Parent, Side};
use rkvm_linux::wait::end_of;

/// A container's init process, as `create` leaves it.
#[derive(Debug)]
pub struct Created {
    /// Its id on the host.
    pub pid: i32,
    /// Its pidfd.
    pub process: OwnedFd,
    /// Its cgroup.
    pub cgroup: Option<Cgroup>,
    /// `CLONE_NEW*` flags of the namespaces that it does not share with the runtime.
    pub namespaces: i32,
    /// The conversation with it: the process ends with it unless [`recorded`] is called.
    pub channel: Channel,
}

/// Whether this process may do what only root of the host can.
pub fn is_privileged() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Makes the sandbox and the init process.
///
/// # Errors
/// Anything that keeps it from being made; then nothing of it is left behind.
pub fn create(request: CreateRequest<'_>, binary: Binary) -> Result<Created> {
    let CreateRequest {
        id,
        bundle,
        rootfs: form,
        link,
        state_dir,
        stdio,
        preserve_fds,
        no_pivot,
        keyring,
        timeline,
        ..
    } = request;
    if let Rootfs::Image { image, .. } = form {
        return Err(Error::unsupported(
            format!("the root filesystem {}", image.display()),
            "a container takes a folder that is mounted on the host",
        ));
    }
    if link.is_some() {
        return Err(Error::unsupported(
            "a tap device as the network link",
            "a container takes a network namespace that is connected already",
        ));
    }
    let spec = &bundle.spec;
    let namespaces = Namespaces::open(spec)?;
    validate::check(spec, &namespaces)?;
    let process = spec
        .process()
        .as_ref()
        .ok_or_else(|| Error::invalid_spec("process", "missing, and a container needs one to start"))?;
    validate::check_init_process(process)?;
    let in_user_namespace = namespaces.has(libc::CLONE_NEWUSER);
    let mut plan = Plan::new(process, spec, Role::Init, in_user_namespace)?;
    if namespaces.new & libc::CLONE_NEWUSER != 0 && !is_privileged() && maps_one_group(spec) {
        plan.deny_groups()?;
    }
    let rootfs = bundle.rootfs()?;
    let mounts = sources::open(spec, &bundle.path, &namespaces, binary)?;
    // What only the host's root can reach is opened here; a rootless runtime leaves it to the process, which has the
    // privileges in its user namespace.
    let root = match is_privileged() && namespaces.has(libc::CLONE_NEWNS) {
        true => Some(root::open(&rootfs)?),
        false => None,
    };
    let linux = spec.linux().as_ref();
    let filter = match linux.and_then(|linux| linux.seccomp().as_ref()) {
        Some(profile) => Some(Filter::compile(profile, seccomp_cache().as_deref())?),
        None => None,
    };
    let mut context = Context {
        id,
        spec,
        rootfs: &rootfs,
        namespaces: &namespaces,
        process: plan,
        mounts,
        root,
        devices: devices::plan(linux.and_then(|linux| linux.devices().as_deref()).unwrap_or_default())?,
        filter,
        stdio,
        preserve_fds,
        no_pivot,
        keyring,
        gate: Gate::make(state_dir)?,
        entrance: None,
        mapped: false,
        binary,
        state: serde_json::json!({
            "ociVersion": spec.version(),
            "id": id,
            "status": "creating",
            "pid": 0,
            "bundle": bundle.path,
        }),
    };
    if let Some(annotations) = spec.annotations().as_ref().filter(|all| !all.is_empty()) {
        context.state["annotations"] = serde_json::json!(annotations);
    }
    let plan = context.process.clone();
    let listener = context.filter.as_ref().and_then(Filter::listener).cloned();
    let idmapped: Vec<(MountPlan, OwnedFd)> = sources::idmapped(&context)?;
    let state = context.state.clone();
    let (channel, theirs) = Channel::pair()?;
    let unmapped = namespaces.new & libc::CLONE_NEWUSER != 0 && !maps_early(&namespaces);
    let cgroup = cgroup(spec, id)?;
    let spawned = cgroup.as_ref().map(Cgroup::entrance).transpose().and_then(|entrance| {
        // A process in another cgroup namespace may not be allowed to give birth outside of it.
        let born =
            if namespaces.joined(libc::CLONE_NEWCGROUP).is_some() { Born::Outside } else { Born::Inside };
        context.entrance = entrance.map(|entrance| (entrance, born));
        spawn_init(context, channel, theirs, &idmapped)
    });
    let (pid, pidfd, channel) = match spawned {
        Ok(spawned) => spawned,
        Err(error) => {
            // A process that was made all the same ends as the conversation has ended.
            cgroup.iter().for_each(discard);
            return Err(error);
        }
    };
    if binary == Binary::InUse {
        memory::regain();
    }
    let mut created = Created { pid, process: pidfd, cgroup, namespaces: namespaces.all(), channel };
    let runtime = Runtime { spec, plan, listener, idmapped, state, unmapped };
    match runtime.bring_up(&mut created, timeline) {
        Ok(()) => Ok(created),
        Err(error) => {
            end(&created);
            Err(error)
        }
    }
}

/// Where compiled seccomp programs are kept: root's own folder only.
pub fn seccomp_cache() -> Option<std::path::PathBuf> {
    is_privileged().then(|| "/run/rkvm-seccomp".into())
}

fn maps_one_group(spec: &oci_spec::runtime::Spec) -> bool {
    let gids = spec.linux().as_ref().and_then(|linux| linux.gid_mappings().as_ref());
    gids.is_some_and(|maps| matches!(maps.as_slice(), [one] if one.size() == 1))
}

/// Whether a new user namespace is made, and mapped, by the intermediate process: clone3 refuses one for a child of
/// another pid namespace, and a new time namespace must belong to it.
fn maps_early(namespaces: &Namespaces) -> bool {
    namespaces.new & libc::CLONE_NEWUSER != 0
        && (namespaces.joined(libc::CLONE_NEWPID).is_some() || namespaces.new & libc::CLONE_NEWTIME != 0)
}

/// Makes the init process in its namespaces: directly where that is possible, through an intermediate process where namespaces
/// are joined, or clocks shifted, which a process can only do for its children.
fn spawn_init(
    context: Context<'_>,
    channel: Channel,
    theirs: Channel,
    idmapped: &[(MountPlan, OwnedFd)],
) -> Result<(i32, OwnedFd, Channel)> {
    let namespaces = context.namespaces;
    let spec = context.spec;
    // The cgroup namespace is made by the process itself, once it is in every hierarchy of its cgroup.
    let new = namespaces.new & !libc::CLONE_NEWCGROUP;
    let failed = |source: std::io::Error| {
        Error::failed("make", "the container's process in its namespaces", source)
            .hint("see /proc/sys/user/max_*_namespaces and the caller's privileges")
    };
    let simple = namespaces.joined.is_empty() && new & libc::CLONE_NEWTIME == 0;
    if simple && spawn::is_single_threaded() {
        return match spawn::clone3(new as u64, Parent::Caller, birthplace(&context)).map_err(failed)? {
            Side::Child => {
                // Or the process would keep the conversation open that it waits on.
                drop(channel);
                init::run(context, theirs)
            }
            Side::Parent { pid, pidfd } => Ok((pid, pidfd, channel)),
        };
    }
    let Some(between) = spawn::fork().map_err(failed)? else {
        drop(channel);
        intermediate(context, new, theirs);
    };
    drop((context, theirs));
    let speaker = spawn::pidfd_open(between).map_err(failed)?;
    let report = loop {
        match channel.receive_of(speaker.as_fd())? {
            Some(Report::MapMe) => {
                idmap::map(spec, between, idmapped)?;
                // When it has died, the next report says so.
                let _ = channel.go(Go::Mapped);
            }
            other => break other,
        }
    };
    let status = waitpid(Pid::from_raw(between), None);
    match report {
        Some(Report::Spawned(pid)) => Ok((pid, spawn::pidfd_open(pid).map_err(failed)?, channel)),
        Some(Report::Failed(failure)) => Err(failure.into()),
        _ => Err(Error::failed("make", "the container's process in its namespaces", end_of(status))),
    }
}

/// The unified cgroup into which the init process is born.
fn birthplace<'a>(context: &'a Context<'_>) -> Option<BorrowedFd<'a>> {
    match &context.entrance {
        Some((entrance, Born::Inside)) => entrance.clone_into(),
        _ => None,
    }
}

/// The intermediate process: joins, then makes the init process as its own sibling. Never returns.
fn intermediate(mut context: Context<'_>, mut new: i32, channel: Channel) -> ! {
    let made = (|| -> Result<Side> {
        let namespaces = context.namespaces;
        let failed = |source| Error::failed("make", "the container's process in its namespaces", source);
        // While this process's own /proc can be seen.
        let image = exe::Image::read(exe::Mounts::Shared).map_err(failed)?;
        namespaces.join()?;
        if maps_early(namespaces) {
            spawn::unshare(libc::CLONE_NEWUSER).map_err(failed)?;
            channel.report(&Report::MapMe)?;
            channel.wait_for(Go::Mapped)?;
            new &= !libc::CLONE_NEWUSER;
            context.mapped = true;
        }
        if new & libc::CLONE_NEWTIME != 0 {
            spawn::unshare(libc::CLONE_NEWTIME).map_err(failed)?;
            time_offsets(context.spec)?;
            new &= !libc::CLONE_NEWTIME;
        }
        if namespaces.joined(libc::CLONE_NEWPID).is_some() {
            // Others are in there already, and would see the process from its birth.
            rkvm_linux::sys::process::not_dumpable().map_err(failed)?;
            image.let_go().map_err(failed)?;
        }
        spawn::clone3(new as u64, Parent::CallersParent, birthplace(&context)).map_err(failed)
    })();
    match made {
        Ok(Side::Child) => init::run(context, channel),
        Ok(Side::Parent { pid, .. }) => {
            let _ = channel.report(&Report::Spawned(pid));
            spawn::exit_now(0)
        }
        Err(error) => {
            let _ = channel.report(&Report::Failed(error.into()));
            spawn::exit_now(1)
        }
    }
}

fn time_offsets(spec: &oci_spec::runtime::Spec) -> Result<()> {
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let text: String = offsets
        .into_iter()
        .flatten()
        .map(|(clock, offset)| {
            format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
        })
        .collect();
    if text.is_empty() {
        return Ok(());
    }
    fs::write("/proc/self/timens_offsets", &text)
        .map_err(|source| Error::failed("set linux.timeOffsets to", text.trim(), source))
}

/// The runtime's half of the conversation.
struct Runtime<'a> {
    spec: &'a oci_spec::runtime::Spec,
    plan: Plan,
    listener: Option<Listener>,
    idmapped: Vec<(MountPlan, OwnedFd)>,
    state: serde_json::Value,
    /// Whether the init process still waits for its id mappings.
    unmapped: bool,
}

impl Runtime<'_> {
    fn bring_up(&self, created: &mut Created, timeline: &mut rkvm_oci::Timeline) -> Result<()> {
        if self.unmapped {
            idmap::map(self.spec, created.pid, &self.idmapped)?;
            go(created, Go::Mapped)?;
        }
        self.plan.limits(created.pid)?;
        go(created, Go::Limited)?;
        timeline.mark(Phase::Sandbox);
        loop {
            match created.channel.receive()? {
                Some(Report::Ready) => break,
                Some(Report::Mounted) => {
                    self.hooks(created.pid)?;
                    go(created, Go::HooksDone)?;
                }
                Some(Report::Listener(number)) => {
                    self.hand_over(created, number)?;
                    go(created, Go::ListenerSent)?;
                }
                Some(Report::Failed(failure)) => return Err(failure.into()),
                Some(Report::MapMe | Report::Spawned(_)) | None => return Err(ended(created)),
            }
        }
        timeline.mark(Phase::Process);
        Ok(())
    }

    fn hooks(&self, pid: i32) -> Result<()> {
        let Some(all) = self.spec.hooks() else { return Ok(()) };
        let mut state = self.state.clone();
        state["pid"] = pid.into();
        #[allow(deprecated)]
        hooks::run("prestart", all.prestart().as_ref(), &state)?;
        hooks::run("createRuntime", all.create_runtime().as_ref(), &state)
    }

    fn hand_over(&self, created: &Created, number: i32) -> Result<()> {
        send_listener(self.listener.as_ref(), created.process.as_fd(), number, created.pid, &self.state)
    }
}

/// Allows a step; a process that has died meanwhile has said why.
fn go(created: &Created, step: Go) -> Result<()> {
    let Err(source) = created.channel.go(step) else { return Ok(()) };
    match created.channel.receive() {
        Ok(Some(Report::Failed(failure))) => Err(failure.into()),
        Ok(_) => Err(ended(created)),
        Err(_) => Err(Error::failed("speak to", "the container's process", source)),
    }
}

/// Lets the process at the other end outlive this one.
///
/// # Errors
/// It has ended.
pub fn recorded(channel: &Channel) -> Result<()> {
    channel.go(Go::Recorded).map_err(|source| Error::failed("speak to", "the container's process", source))
}

/// Takes the listener's descriptor out of the process and sends it to its agent.
pub fn send_listener(
    listener: Option<&Listener>,
    process: BorrowedFd<'_>,
    number: i32,
    pid: i32,
    state: &serde_json::Value,
) -> Result<()> {
    let Some(listener) = listener else { return Ok(()) };
    let failed = |source: std::io::Error| Error::failed("take over", "the seccomp listener", source);
    let fd = rkvm_linux::sys::fs::take_from(process, number).map_err(failed)?;
    let mut state = state.clone();
    state["pid"] = pid.into();
    let state = serde_json::from_value(state).map_err(|source| failed(source.into()))?;
    listener.send(fd.as_fd(), pid, state)
}

/// Makes the container's cgroup, empty.
fn cgroup(spec: &oci_spec::runtime::Spec, id: &str) -> Result<Option<Cgroup>> {
    let linux = spec.linux().as_ref();
    let path = linux.and_then(|linux| linux.cgroups_path().as_deref());
    let resources = linux.and_then(|linux| linux.resources().as_ref());
    match Cgroup::create(path, id, resources) {
        Ok(cgroup) => Ok(Some(cgroup)),
        // Without root's help a user has no cgroup; only limits that cannot be kept are an error then.
        Err(_) if !is_privileged() && !limits_anything(resources) => Ok(None),
        Err(error) => Err(error),
    }
}

fn limits_anything(resources: Option<&oci_spec::runtime::LinuxResources>) -> bool {
    resources.is_some_and(|resources| {
        resources.memory().is_some()
            || resources.cpu().is_some()
            || resources.pids().is_some()
            || resources.block_io().is_some()
            || resources.hugepage_limits().as_ref().is_some_and(|list| !list.is_empty())
            || resources.network().is_some()
            || resources.rdma().as_ref().is_some_and(|list| !list.is_empty())
            || resources.unified().as_ref().is_some_and(|list| !list.is_empty())
    })
}

/// The init process is gone without a word.
fn ended(created: &Created) -> Error {
    let oom = created.cgroup.as_ref().and_then(|cgroup| cgroup.oom_kills().ok().flatten()).unwrap_or(0) > 0;
    let reason = end_of(waitpid(Pid::from_raw(created.pid), None));
    let error = Error::failed("set up", "the container's process", reason);
    if oom {
        error.hint("its memory limit is too low for a start; raise linux.resources.memory.limit")
    } else {
        error
    }
}

/// Ends a half-made container.
fn end(created: &Created) {
    let _ = spawn::pidfd_signal(created.process.as_fd(), libc::SIGKILL);
    let _ = waitpid(Pid::from_raw(created.pid), None);
    created.cgroup.iter().for_each(discard);
}

/// Ends what is in the cgroup of a container that is not to be, and removes it.
fn discard(cgroup: &Cgroup) {
    // The error that brought us here is the one to report.
    let _ = cgroup.kill_all();
    let _ = cgroup.remove();
}
