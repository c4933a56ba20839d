//! What the container's first process does between its birth and the user's program.

pub mod devices;
pub mod gate;
pub mod kernel;
pub mod leftovers;
pub mod program;
pub mod root;

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};

use oci_spec::runtime::Spec;
use rkvm_oci::{Error, Keyring, Result, Stdio, hooks};

use crate::Binary;
use crate::mounts::make::{self, Place};
use crate::process::Plan;
use crate::sync::{Channel, Go, Report};
use devices::{Device, Making};
use gate::Gate;
use leftovers::Leftovers;
use program::Program;
use rkvm_cgroup::{Born, Entrance};
use rkvm_linux::mounts::options::{self, Plan as MountPlan, Source};
use rkvm_linux::namespaces::Namespaces;
use rkvm_linux::seccomp::Filter;
use rkvm_linux::sys::mount::{Depth, MountAttr, attr, set_attributes};
use rkvm_linux::sys::{exe, fs, memory, process as sys, pty, spawn};
use rkvm_oci::failure::Failure;
use root::Switch;

/// All that the process needs, prepared by the runtime before the process exists.
pub struct Context<'a> {
    /// The container's id.
    pub id: &'a str,
    /// Its configuration.
    pub spec: &'a Spec,
    /// The root filesystem's path, for a runtime that could not open it itself (rootless).
    pub rootfs: &'a std::path::Path,
    /// Its namespaces.
    pub namespaces: &'a Namespaces,
    /// Its process.
    pub process: Plan,
    /// Its mounts, each with its source when that is opened already.
    pub mounts: Vec<(MountPlan, Option<OwnedFd>)>,
    /// Its root filesystem, not attached yet, when the runtime could open it.
    pub root: Option<OwnedFd>,
    /// Its devices.
    pub devices: Vec<Device>,
    /// Its seccomp filter.
    pub filter: Option<Filter>,
    /// Its streams.
    pub stdio: Stdio,
    /// How many further descriptors it inherits.
    pub preserve_fds: u32,
    /// Whether pivot_root(2) is to be avoided.
    pub no_pivot: bool,
    /// Its session keyring.
    pub keyring: Keyring,
    /// Where it waits for `start`.
    pub gate: Gate,
    /// The way into its cgroup, and whether it is half inside; a rootless container may have none.
    pub entrance: Option<(Entrance, Born)>,
    /// Whether its new user namespace has its mappings already.
    pub mapped: bool,
    /// What protects the runtime's binary.
    pub binary: Binary,
    /// Its state, for the hooks that it runs itself; its process id is filled in.
    pub state: serde_json::Value,
}

/// Whether the runtime has hooks to run between the mounts and the pivot.
pub fn has_runtime_hooks(spec: &Spec) -> bool {
    let some = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    spec.hooks().as_ref().is_some_and(|hooks| {
        #[allow(deprecated)]
        let prestart = some(hooks.prestart());
        prestart || some(hooks.create_runtime())
    })
}

/// Whether a hook may look for the root filesystem at its path, from within the mount namespace.
fn has_hooks_inside(spec: &Spec) -> bool {
    let create = spec.hooks().as_ref().and_then(|hooks| hooks.create_container().as_ref());
    has_runtime_hooks(spec) || create.is_some_and(|hooks| !hooks.is_empty())
}

/// Goes all the way to the user's program. Never returns.
pub fn run(mut context: Context<'_>, mut channel: Channel) -> ! {
    if context.binary == Binary::InUse {
        memory::prefault();
    }
    let done = prepare(&mut context, &mut channel).and_then(|program| {
        // With a listener, the runtime must pass it on while it is still there.
        if let Some(filter) = late_filter(&context).filter(|filter| filter.listener().is_some()) {
            load(filter, &channel)?;
        }
        channel.report(&Report::Ready)?;
        // A runtime that is killed before it has written the record leaves nobody who knows of this process.
        channel.wait_for(Go::Recorded)?;
        Ok(program)
    });
    let program = match done {
        Ok(program) => program,
        Err(error) => {
            // Without anybody to tell, the exit code must do.
            let _ = channel.report(&Report::Failed(Failure::from(error)));
            spawn::exit_now(1);
        }
    };
    drop(channel);
    if context.gate.wait().is_err() {
        spawn::exit_now(1);
    }
    let error = match last_steps(&context) {
        Ok(()) => program.execute(),
        Err(error) => error,
    };
    let code = i32::from(error.exit_code());
    context.gate.fail(error);
    spawn::exit_now(code);
}

/// The filter, where it is loaded last: possible with no_new_privs only.
fn late_filter<'a>(context: &'a Context<'_>) -> Option<&'a Filter> {
    context.filter.as_ref().filter(|_| context.process.no_new_privileges())
}

/// After `start`: the hook, and the filter as late as can be so that it need not allow what the runtime itself does.
fn last_steps(context: &Context<'_>) -> Result<()> {
    if let Some(hooks) = context.spec.hooks().as_ref().and_then(|hooks| hooks.start_container().as_ref()) {
        hooks::run("startContainer", Some(hooks), &state(context, "created"))?;
    }
    if let Some(filter) = late_filter(context).filter(|filter| filter.listener().is_none()) {
        filter.load().map_err(|source| Error::failed("load", "linux.seccomp", source))?;
    }
    Ok(())
}

fn state(context: &Context<'_>, status: &str) -> serde_json::Value {
    let mut state = context.state.clone();
    state["status"] = status.into();
    // In the container's pid namespace, where these hooks run (runtime-spec, "State", `pid`, is of the runtime's): the number
    // that /proc shows there.
    state["pid"] = std::process::id().into();
    state
}

fn prepare(context: &mut Context<'_>, channel: &mut Channel) -> Result<Program> {
    let namespaces = context.namespaces;
    let own_user_namespace = namespaces.has(libc::CLONE_NEWUSER);
    if !own_user_namespace && context.binary == Binary::LetGo {
        // Before the container pays for the memory that this takes.
        protect_binary(namespaces.new)?;
    }
    enter_cgroup(context)?;
    if namespaces.new & libc::CLONE_NEWUSER != 0 && !context.mapped {
        channel.wait_for(Go::Mapped)?;
    }
    if namespaces.has(libc::CLONE_NEWUSER) {
        become_root_inside()?;
    }
    if namespaces.new & libc::CLONE_NEWPID == 0 {
        // Whoever is in that pid namespace already must not reach the host through this process.
        sys::not_dumpable().map_err(|source| Error::failed("protect", "the init process", source))?;
    }
    if own_user_namespace && context.binary == Binary::LetGo {
        // Only there it may have the privilege.
        protect_binary(namespaces.new)?;
    }
    match context.binary {
        Binary::LetGo => sys::reset_signals(),
        Binary::InUse => sys::reset_runtime_signals(),
    }
    // A process that leads a session already (started by clone3, never) would be told EPERM.
    nix::unistd::setsid().map_err(|source| Error::failed("make", "a session", source))?;
    if context.keyring == Keyring::New {
        keyring(context.id)?;
    }
    sys::set_umask(0);
    let left = Leftovers::new();
    if namespaces.has(libc::CLONE_NEWNS) {
        file_systems(context, channel, &left)?;
    } else {
        channel.wait_for(Go::Limited)?;
        run_hooks(context, channel)?;
        let root = std::fs::File::open(context.rootfs)
            .map_err(|source| Error::failed("open root.path", context.rootfs.display(), source))?;
        settings(context, None)?;
        root::switch(root.as_fd(), Switch::Chroot)?;
        streams(context, None)?;
    }
    context.process.privileged()?;
    keep_only(context, channel, left)?;
    if let Some(filter) = &context.filter
        && !context.process.no_new_privileges()
    {
        // Needs CAP_SYS_ADMIN, which goes next.
        load(filter, channel)?;
    }
    context.process.identity()?;
    if context.process.no_new_privileges() {
        sys::no_new_privileges()
            .map_err(|source| Error::failed("apply", "process.noNewPrivileges", source))?;
    }
    Program::find(&context.process.process)
}

fn become_root_inside() -> Result<()> {
    let error = |source| {
        Error::failed("become root of", "the user namespace", source)
            .hint("linux.uidMappings and gidMappings must map container id 0")
    };
    // Groups of the host's that are not mapped would still open its files. Denied where they cannot be given up.
    let _ = sys::set_groups(&[]);
    sys::set_gid(0).map_err(error)?;
    sys::set_uid(0).map_err(error)
}

/// Whether a user namespace with these mappings (/proc/self/uid_map) has the host's root in it, or only one user, as a rootless
/// one does: the owner of the binary may be among its users.
pub fn maps_host_root(uid_map: &str) -> bool {
    let ranges: Vec<Vec<u64>> = uid_map
        .lines()
        .map(|line| line.split_whitespace().filter_map(|number| number.parse().ok()).collect())
        .collect();
    ranges.is_empty()
        || ranges
            .iter()
            .any(|range| !matches!(range[..], [_, host, size] if host >= SAFE_FIRST_ID && size > 1))
}

/// From here on ids belong to containers by convention (systemd's ranges), not to people.
const SAFE_FIRST_ID: u64 = 100_000;

/// Lets go of the runtime's binary, unless root of the container could not write to it anyway because it is not root of the
/// host, nor the user who runs this.
fn protect_binary(new: i32) -> Result<()> {
    let map = std::fs::read_to_string("/proc/self/uid_map").unwrap_or_default();
    if maps_host_root(&map) {
        let mounts = if new & libc::CLONE_NEWNS != 0 { exe::Mounts::Own } else { exe::Mounts::Shared };
        exe::Image::read(mounts).and_then(exe::Image::let_go).map_err(|source| {
            Error::failed("keep the container away from", "the runtime's binary", source)
        })?;
    }
    Ok(())
}

fn keyring(id: &str) -> Result<()> {
    match sys::new_session_keyring(&format!("_ses.{id}")) {
        // ENOSYS: a kernel without keyrings has none to protect. EDQUOT: runc's advice is the flag.
        Ok(()) => Ok(()),
        Err(error) if error.raw_os_error() == Some(libc::ENOSYS) => Ok(()),
        Err(error) => Err(Error::failed("make session keyring for", id, error)
            .hint("use --no-new-keyring, or raise kernel.keys.maxkeys")),
    }
}

/// Before its user id changes, and before its cgroup namespace: that one's root is the cgroup that its maker is in.
fn enter_cgroup(context: &mut Context<'_>) -> Result<()> {
    if let Some((entrance, born)) = context.entrance.take() {
        entrance.join(born).map_err(|source| Error::failed("enter", "the container's cgroup", source))?;
    }
    if context.namespaces.new & libc::CLONE_NEWCGROUP != 0 {
        spawn::unshare(libc::CLONE_NEWCGROUP)
            .map_err(|source| Error::failed("make", "a cgroup namespace", source))?;
    }
    Ok(())
}

fn file_systems(context: &mut Context<'_>, channel: &Channel, left: &Leftovers) -> Result<()> {
    let namespaces = context.namespaces;
    let opened = match context.root.take() {
        Some(root) => root,
        None => root::open(context.rootfs)?,
    };
    let root = opened.as_fd();
    let path = has_hooks_inside(context.spec).then_some(context.rootfs);
    root::attach(root, path)?;
    let linux = context.spec.linux().as_ref();
    let label = linux.and_then(|linux| linux.mount_label().as_deref()).filter(|label| !label.is_empty());
    let place = Place::new(root, label, namespaces.has(libc::CLONE_NEWCGROUP), left)?;
    let mut host_dev = false;
    for (plan, tree) in std::mem::take(&mut context.mounts) {
        make::mount(&plan, tree, place)?;
        host_dev |= matches!(plan.source, Source::Bind(..)) && plan.destination.components().eq(dev_path());
    }
    if !host_dev {
        let making = if namespaces.has(libc::CLONE_NEWUSER) { Making::Bind } else { Making::Mknod };
        devices::make(root, &context.devices, making)?;
    }
    streams(context, Some(root))?;
    settings(context, Some(root))?;
    channel.wait_for(Go::Limited)?;
    run_hooks(context, channel)?;
    let paths = |list: Option<&Vec<String>>| list.cloned().unwrap_or_default();
    root::make_read_only(root, &paths(linux.and_then(|linux| linux.readonly_paths().as_ref())), left)?;
    root::mask(root, &paths(linux.and_then(|linux| linux.masked_paths().as_ref())), left)?;
    read_only(context, root)?;
    make_cwd(context, root)?;
    if context.no_pivot && path.is_some() {
        root::move_to_slash(root)?;
    }
    root::switch(root, if context.no_pivot { Switch::Chroot } else { Switch::Pivot })?;
    // Only now: pivot_root refuses a shared root.
    if let Some((propagation, depth)) = linux
        .and_then(|linux| linux.rootfs_propagation().as_deref())
        .and_then(options::propagation)
        .filter(|(kind, _)| *kind != libc::MS_SLAVE)
    {
        // A new peer group: the container's mounts are shared with what it starts, never with the host's own tree.
        for propagation in [libc::MS_PRIVATE, propagation] {
            let attributes = MountAttr { propagation, ..MountAttr::default() };
            set_attributes(root, depth, &attributes)
                .map_err(|source| Error::failed("apply", "linux.rootfsPropagation", source))?;
        }
    }
    left.add(opened);
    Ok(())
}

fn dev_path() -> std::path::Components<'static> {
    std::path::Path::new("/dev").components()
}

/// Mounts that had to stay writable until everything was in them.
fn read_only(context: &Context<'_>, root: BorrowedFd<'_>) -> Result<()> {
    let attributes = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
    let dev_read_only = context.spec.mounts().iter().flatten().any(|mount| {
        mount.destination().components().eq(dev_path())
            && mount.typ().as_deref() == Some("tmpfs")
            && mount.options().iter().flatten().any(|option| option == "ro")
    });
    if dev_read_only && let Some(dev) = crate::mounts::target::find(root, std::path::Path::new("/dev"))? {
        set_attributes(dev.as_fd(), Depth::One, &attributes)
            .map_err(|source| Error::failed("make read-only", "/dev", source))?;
    }
    if context.spec.root().as_ref().and_then(|root| root.readonly()).unwrap_or(false) {
        set_attributes(root, Depth::One, &attributes)
            .map_err(|source| Error::failed("make read-only", "the root filesystem", source))?;
    }
    Ok(())
}

/// The working directory is made here, inside the root, when it is missing: after the pivot the root may be read-only.
fn make_cwd(context: &Context<'_>, root: BorrowedFd<'_>) -> Result<()> {
    let cwd = context.process.process.cwd();
    if cwd == std::path::Path::new("/") || crate::mounts::target::find(root, cwd)?.is_some() {
        return Ok(());
    }
    // What cannot be made is reported by the chdir that follows.
    let _ = crate::mounts::target::ensure(root, cwd, crate::mounts::target::Kind::Folder);
    Ok(())
}

/// Host name, loopback and sysctls: the settings of the new namespaces.
fn settings(context: &Context<'_>, root: Option<BorrowedFd<'_>>) -> Result<()> {
    let spec = context.spec;
    if let Some(name) = spec.hostname() {
        nix::unistd::sethostname(name).map_err(|source| Error::failed("set hostname", name, source))?;
    }
    let linux = spec.linux().as_ref();
    if let Some(name) = spec.domainname() {
        sys::set_domain_name(name).map_err(|source| Error::failed("set domainname", name, source))?;
    }
    if context.namespaces.new & libc::CLONE_NEWNET != 0 {
        sys::loopback_up().map_err(|source| Error::failed("bring up", "interface lo", source))?;
    }
    if let Some(sysctls) = linux.and_then(|linux| linux.sysctl().as_ref()).filter(|all| !all.is_empty()) {
        let proc = kernel::Proc::open(root)?;
        for (name, value) in sysctls {
            proc.sysctl(name, value)?;
        }
    }
    Ok(())
}

/// Hooks before the pivot: the runtime's two kinds, then `createContainer` here.
fn run_hooks(context: &Context<'_>, channel: &Channel) -> Result<()> {
    if has_runtime_hooks(context.spec) {
        channel.report(&Report::Mounted)?;
        channel.wait_for(Go::HooksDone)?;
    }
    match context.spec.hooks().as_ref().and_then(|hooks| hooks.create_container().as_ref()) {
        None => Ok(()),
        some => hooks::run("createContainer", some, &state(context, "creating")),
    }
}

/// Closes every descriptor but the streams, those that the program is to inherit, and the three that are needed up to execve. Not
/// only on execve: the lock on the state folder is among them, and the process may wait for `start` for long.
fn keep_only(context: &mut Context<'_>, channel: &mut Channel, left: Leftovers) -> Result<()> {
    let first = 3 + context.preserve_fds as i32;
    left.keep_only(first, 3, &mut |change, left| {
        context.gate.change(change, left)?;
        channel.change(change, left)
    })
}

/// Puts the process's streams in place.
fn streams(context: &Context<'_>, root: Option<BorrowedFd<'_>>) -> Result<()> {
    let place = |fd: BorrowedFd<'_>, number: i32| {
        fs::dup_to(fd, number).map_err(|source| Error::failed("set up", format!("stream {number}"), source))
    };
    match (&context.stdio, root) {
        (Stdio::Inherit, _) => Ok(()),
        (Stdio::Fds { stdin, stdout, stderr }, _) => {
            place(stdin.as_fd(), 0)?;
            place(stdout.as_fd(), 1)?;
            place(stderr.as_fd(), 2)
        }
        (Stdio::Terminal { .. }, None) => Err(Error::invalid_spec(
            "process.terminal",
            "set without a mount namespace, which its devpts needs",
        )),
        (Stdio::Terminal { console }, Some(root)) => {
            let (master, slave) = devices::terminal(root, console_size(&context.process))?;
            devices::console(root, slave.as_fd())?;
            terminal(master, slave, console.as_fd())
        }
    }
}

/// Size of the terminal as configured: rows and columns.
pub fn console_size(process: &Plan) -> Option<(u16, u16)> {
    let size = process.process.console_size()?;
    let clamp = |value: u64| u16::try_from(value).unwrap_or(u16::MAX);
    Some((clamp(size.height()), clamp(size.width())))
}

/// Sends the master away and makes the slave this session's terminal and streams.
pub fn terminal(master: OwnedFd, slave: OwnedFd, console: BorrowedFd<'_>) -> Result<()> {
    devices::send_master(console, master.as_fd())?;
    drop(master);
    let error = |source| Error::failed("set up", "the terminal", source);
    pty::make_controlling(slave.as_fd()).map_err(error)?;
    (0..3).try_for_each(|number| fs::dup_to(slave.as_fd(), number)).map_err(error)
}

/// Loads the filter; a listener goes to the runtime, which sends it to its agent.
pub fn load(filter: &Filter, channel: &Channel) -> Result<()> {
    let listener = filter.load().map_err(|source| Error::failed("load", "linux.seccomp", source))?;
    let Some(listener) = listener else { return Ok(()) };
    channel.report(&Report::Listener(listener.as_raw_fd()))?;
    channel.wait_for(Go::ListenerSent)
}
