//! The jail of a machine's process: what is left of the host for a guest that has broken out of its machine.
//!
//! Before the program of the process is executed it is in namespaces of its own and in the container's user namespace and cgroup, its
//! root is an empty read-only tmpfs with nothing in it but what is shared with the guest, and it has no capability but those
//! that sharing files needs. The filters of its threads ([`seccomp`]) come on top when it runs.

mod root;
pub mod seccomp;

use std::ffi::CString;
use std::fs::File;
use std::io::{Seek, Write};
use std::net::IpAddr;
use std::os::fd::{AsFd, OwnedFd};
use std::path::PathBuf;

use nix::fcntl::{AtFlags, OFlag};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rkvm_cgroup::{Born, Entrance};
use rkvm_guest_protocol::{Address, Link, Route};
use rkvm_linux::capabilities::Capabilities;
use rkvm_linux::namespaces::Namespaces;
use rkvm_linux::sys::process::CapabilitySets;
use rkvm_linux::sys::{fs, process, pty, spawn};
use rkvm_net::Spliced;
use rkvm_oci::failure::Failure;
use rkvm_oci::{Error, Result, Stdio, hooks};

use crate::backend::channel::{Channel, Go, Report};
use crate::backend::plan::{CHANNEL_FD, FIRST_FD, PLAN_FD, Plan, PlannedTemplate, Tap};

/// Numbers of the capabilities (capabilities(7)) that a process needs to make files for others: CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH,
/// FOWNER, FSETID, SETGID, SETUID, SETFCAP. Not MKNOD: a guest makes no device on the host.
const FILE_SHARING: [u8; 8] = [0, 1, 2, 3, 4, 6, 7, 31];

/// Most files that the process may have open: each that the guest knows of is one. What a host allows at most without being asked (fs.nr_open).
const OPEN_FILES: u64 = 1 << 20;

/// A folder or file that is shared with the guest: its name in the share, and a mount that is not attached yet.
#[derive(Debug)]
pub struct Share {
    /// Its name.
    pub name: String,
    /// The mount.
    pub tree: OwnedFd,
    /// Where hooks look for it.
    pub place: Option<PathBuf>,
}

/// What the process is made from.
pub struct Cell<'a> {
    /// The program, open.
    pub program: OwnedFd,
    /// What it is told.
    pub plan: Plan,
    /// The descriptors that `plan` speaks of, in the order of their numbers, but for the first: that is `/proc/self/fd`.
    pub descriptors: Vec<OwnedFd>,
    /// Its streams; for a terminal, the slave.
    pub streams: Streams,
    /// Namespaces of the configuration: of these, the user and the network namespace are the process's.
    pub namespaces: &'a Namespaces,
    /// Whether the plan's template is one with a network link.
    pub expects_link: bool,
    /// The way into its cgroup.
    pub entrance: Option<(Entrance, Born)>,
    /// What is shared with the guest.
    pub shares: Vec<Share>,
    /// Hooks of the configuration.
    pub hooks: Option<&'a oci_spec::runtime::Hooks>,
    /// The state that hooks are told; the process id is filled in.
    pub state: serde_json::Value,
}

/// Standard streams of the process.
#[derive(Debug)]
pub enum Streams {
    /// As in [`Stdio`].
    Given(Stdio),
    /// A terminal's slave, three times.
    Terminal(OwnedFd),
}

/// Goes into the jail and executes the program. To be called in a new process; never returns.
pub fn enter(cell: Cell<'_>, channel: Channel) -> ! {
    let error = match go(cell, &channel) {
        Ok(never) => match never {},
        Err(error) => error,
    };
    // Without anybody to tell, the exit code must do.
    let _ = channel.send(&Report::Failed(Failure::from(error)));
    spawn::exit_now(125)
}

fn failed(action: &'static str, target: &'static str) -> impl Fn(std::io::Error) -> Error {
    move |source| Error::failed(action, target, source)
}

fn go(mut cell: Cell<'_>, channel: &Channel) -> Result<std::convert::Infallible> {
    process::reset_signals();
    nix::unistd::setsid().map_err(|errno| failed("make", "a session")(errno.into()))?;
    process::set_umask(0);
    // While there may still be a privilege for it; where there is none, the file server makes do with what it has.
    let _ = process::set_rlimit(0, libc::RLIMIT_NOFILE, OPEN_FILES, OPEN_FILES);
    if let Some((entrance, born)) = cell.entrance.take() {
        entrance.join(born).map_err(|errno| failed("enter", "the container's cgroup")(errno.into()))?;
    }
    // A link that the caller has made is instead of those in the namespace.
    let takes_over = cell.plan.tap.is_none();
    let mut link = namespaces(cell.namespaces, takes_over, channel)?;
    root::loosen()?;
    run_hooks(&mut cell, channel)?;
    if link.is_none() && takes_over && cell.namespaces.new & libc::CLONE_NEWNET != 0 && has_hooks(cell.hooks)
    {
        // Docker's hooks connect the namespace that they find.
        link = splice()?;
    }
    let proc_self_fd = open_proc()?;
    root::build(std::mem::take(&mut cell.shares))?;
    cell.descriptors.insert(0, proc_self_fd);
    if let Some(link) = link {
        let of_template = cell.plan.setup.own.is_some();
        cell.plan.setup.links.push(guest_link(&link, of_template));
        cell.plan.tap = Some(Tap { fd: FIRST_FD + cell.descriptors.len() as i32, mac: link.mac });
        cell.descriptors.push(link.tap);
    }
    if cell.plan.tap.is_some() != cell.expects_link {
        // It is for machines of another shape.
        cell.plan.template = PlannedTemplate::None;
    }
    let plan = document(&cell.plan)?;
    let program = descriptors(plan, channel, cell.program, cell.descriptors, cell.streams)?;
    privileges()?;
    execute(&program, &cell.plan.id)
}

/// The link of this network namespace, for the guest to take over.
fn splice() -> Result<Option<Spliced>> {
    rkvm_net::splice().map_err(|source| {
        Error::failed("hand over to the guest", "the link of the network namespace", source)
    })
}

fn guest_link(link: &Spliced, of_template: bool) -> Link {
    let route = |(to, prefix, via): &(IpAddr, u8, Option<IpAddr>)| Route {
        to: Address { address: *to, prefix: *prefix },
        via: *via,
    };
    let address = |(address, prefix): &(IpAddr, u8)| Address { address: *address, prefix: *prefix };
    Link {
        // What the guest's kernel calls its one network device.
        name: "eth0".to_owned(),
        hardware_address: of_template.then_some(link.mac),
        mtu: Some(link.mtu),
        addresses: link.addresses.iter().map(address).collect(),
        routes: link.routes.iter().map(route).collect(),
    }
}

/// Joins and makes namespaces; the link of a joined network namespace, if it is to be taken over. The network comes first: its
/// privileges may be the host's, which are gone in a user namespace.
fn namespaces(namespaces: &Namespaces, takes_over: bool, channel: &Channel) -> Result<Option<Spliced>> {
    let join = |flag: i32| match namespaces.joined(flag) {
        Some(joined) => spawn::setns(joined.fd.as_fd(), flag)
            .map_err(|source| Error::failed("join namespace", &joined.path, source)),
        None => Ok(()),
    };
    let join_network = || match namespaces.joined(libc::CLONE_NEWNET) {
        Some(_) => {
            join(libc::CLONE_NEWNET)?;
            if takes_over { splice() } else { Ok(None) }
        }
        None => Ok(None),
    };
    let mut link = join_network();
    if namespaces.has(libc::CLONE_NEWUSER) {
        if namespaces.new & libc::CLONE_NEWUSER != 0 {
            spawn::unshare(libc::CLONE_NEWUSER).map_err(failed("make", "a user namespace"))?;
            channel.send(&Report::MapMe).map_err(|errno| failed("report to", "the creator")(errno.into()))?;
            channel.wait_for(Go::Mapped)?;
        } else {
            join(libc::CLONE_NEWUSER)?;
        }
        become_root_inside()?;
        if link.is_err() {
            link = join_network();
        }
    }
    let link = link?;
    let network = namespaces.new & libc::CLONE_NEWNET;
    spawn::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS | network)
        .map_err(failed("make", "the namespaces of the machine's process"))?;
    Ok(link)
}

fn become_root_inside() -> Result<()> {
    let error = |source| {
        Error::failed("become root of", "the user namespace", source)
            .hint("linux.uidMappings and gidMappings must map container id 0")
    };
    // Groups of the host's that are not mapped would still open its files. Denied where they cannot be given up.
    let _ = process::set_groups(&[]);
    process::set_gid(0).map_err(error)?;
    process::set_uid(0).map_err(error)
}

/// Whether `hooks` has any that run before the machine is built.
pub fn has_hooks(hooks: Option<&oci_spec::runtime::Hooks>) -> bool {
    let some = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    #[allow(deprecated)]
    hooks
        .is_some_and(|all| some(all.prestart()) || some(all.create_runtime()) || some(all.create_container()))
}

fn run_hooks(cell: &mut Cell<'_>, channel: &Channel) -> Result<()> {
    let Some(all) = cell.hooks.filter(|all| has_hooks(Some(all))) else { return Ok(()) };
    // What they mount below the root filesystem is to be there in the guest.
    cell.shares.iter().try_for_each(root::show)?;
    channel.send(&Report::Enclosed).map_err(|errno| failed("report to", "the creator")(errno.into()))?;
    channel.wait_for(Go::HooksDone)?;
    let mut state = cell.state.clone();
    state["pid"] = std::process::id().into();
    hooks::run("createContainer", all.create_container().as_ref(), &state)?;
    cell.shares.iter_mut().try_for_each(root::take_back)
}

/// The file server opens again by these links what it has found; the root of the jail has no /proc.
fn open_proc() -> Result<OwnedFd> {
    let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
    nix::fcntl::open("/proc/self/fd", flags, nix::sys::stat::Mode::empty())
        .map_err(|errno| failed("open", "/proc/self/fd")(errno.into()))
}

fn document(plan: &Plan) -> Result<OwnedFd> {
    let error = |source: std::io::Error| Error::failed("write", "the machine's plan", source);
    let text = serde_json::to_vec(plan).map_err(|source| error(source.into()))?;
    let mut file =
        File::from(memfd_create("plan", MFdFlags::MFD_CLOEXEC).map_err(|errno| error(errno.into()))?);
    file.write_all(&text).and_then(|()| file.rewind()).map_err(error)?;
    Ok(file.into())
}

/// Gives every descriptor the number that the program expects, and has execve close all others. The program's own may get another
/// number.
fn descriptors(
    plan: OwnedFd,
    channel: &Channel,
    program: OwnedFd,
    rest: Vec<OwnedFd>,
    streams: Streams,
) -> Result<OwnedFd> {
    let error = failed("arrange", "the descriptors of the machine's process");
    let end = FIRST_FD + rest.len() as i32;
    let program = fs::move_above(program, end + 1).map_err(&error)?;
    let channel = channel.as_fd().try_clone_to_owned().map_err(&error)?;
    // Out of the way of the numbers first: a descriptor may have one that another is to get.
    let mut wanted = vec![(plan, PLAN_FD), (channel, CHANNEL_FD)];
    wanted.extend(rest.into_iter().zip(FIRST_FD..));
    match streams {
        Streams::Given(Stdio::Inherit | Stdio::Terminal { .. }) => {}
        Streams::Given(Stdio::Fds { stdin, stdout, stderr }) => {
            wanted.extend([stdin, stdout, stderr].into_iter().zip(0..));
        }
        Streams::Terminal(slave) => {
            for number in 0..3 {
                wanted.push((slave.try_clone().map_err(&error)?, number));
            }
            // For the signals that tell of a new size and of the end.
            pty::make_controlling(slave.as_fd()).map_err(&error)?;
        }
    }
    let moved = wanted
        .into_iter()
        .map(|(fd, number)| Ok((fs::move_above(fd, end + 1)?, number)))
        .collect::<std::io::Result<Vec<_>>>()
        .map_err(&error)?;
    for (fd, number) in &moved {
        fs::dup_to(fd.as_fd(), *number).map_err(&error)?;
    }
    // The originals are close-on-exec; the caller may have had others open.
    fs::close_on_exec_from(end as u32).map_err(error)?;
    Ok(program)
}

fn privileges() -> Result<()> {
    let mask = FILE_SHARING.iter().fold(0u64, |mask, number| mask | 1 << number);
    let mine = process::capabilities().map_err(failed("read", "this process's capabilities"))?;
    let kept = mask & mine.permitted;
    let kept = Capabilities {
        bounding: kept,
        sets: CapabilitySets { effective: kept, permitted: kept, inheritable: 0 },
        ambient: 0,
    };
    let error = failed("drop", "capabilities");
    kept.limit_bounding().map_err(&error)?;
    kept.apply().map_err(&error)?;
    process::no_new_privileges().map_err(failed("set", "no_new_privs"))
}

fn execute(program: &OwnedFd, id: &str) -> Result<std::convert::Infallible> {
    let error = |errno: nix::Error| failed("execute", "rkvm-vmm")(errno.into());
    let words = [c"rkvm-vmm".to_owned(), CString::new(id).map_err(|_| error(nix::Error::EINVAL))?];
    let environment = environment();
    nix::unistd::execveat(program.as_fd(), c"", &words, &environment, AtFlags::AT_EMPTY_PATH).map_err(error)
}

/// What the machine's process keeps of this one's environment: nothing. In debug builds the delays of tests go on in it.
fn environment() -> Vec<CString> {
    #[cfg(debug_assertions)]
    if let Ok(value) = std::env::var(rkvm_oci::timeline::DELAY_VARIABLE) {
        return CString::new(format!("{}={value}", rkvm_oci::timeline::DELAY_VARIABLE)).into_iter().collect();
    }
    vec![]
}
