//! The jail of a machine's process: what is left of the host for a guest that has broken out of its machine.
//!
//! Before the program of the process is executed it is in namespaces of its own and in the container's user namespace and cgroup
//! ([`enter`]). Before it runs a guest its root is an empty read-only tmpfs with nothing in it but what is shared with the guest, and it
//! has no capability but those that sharing files needs ([`Enclosure::close`]). The filters of its threads ([`seccomp`]) come on top when they run.

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
use oci_spec::runtime::Hooks;
use rkvm_cgroup::{Born, Entrance};
use rkvm_guest_protocol::{Address, Link, Route};
use rkvm_linux::capabilities::Capabilities;
use rkvm_linux::namespaces::Namespaces;
use rkvm_linux::sys::process::CapabilitySets;
use rkvm_linux::sys::{fs, process, pty, spawn};
use rkvm_net::Spliced;
use rkvm_oci::failure::Failure;
use rkvm_oci::{Error, Result, hooks};
use serde::Serialize;

use crate::backend::channel::{Channel, Go, Report};
use crate::backend::plan::{CHANNEL_FD, FIRST_FD, FoundLink, OUTLINE_FD, Outline, Tap};

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

/// Standard streams of the process.
#[derive(Debug)]
pub enum Streams {
    /// What they were.
    Inherited,
    /// These.
    Given([OwnedFd; 3]),
    /// A terminal's slave, three times.
    Terminal(OwnedFd),
}

/// What the process is made from.
pub struct Cell<'a> {
    /// The container's id.
    pub id: &'a str,
    /// The program, open.
    pub program: OwnedFd,
    /// What it is told.
    pub outline: Outline,
    /// The descriptors that `outline` speaks of, in the order of their numbers.
    pub descriptors: Vec<OwnedFd>,
    /// Namespaces of the configuration: of these, the user and the network namespace are the process's.
    pub namespaces: &'a Namespaces,
    /// Whether the caller makes the link, which then is instead of those in the network namespace.
    pub brings_link: bool,
    /// The way into its cgroup.
    pub entrance: Option<(Entrance, Born)>,
}

/// Goes into the outer part of the jail and executes the program. To be called in a new process; never returns.
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
    if let Some(link) = namespaces(cell.namespaces, !cell.brings_link, channel)? {
        let number = FIRST_FD + cell.descriptors.len() as i32;
        cell.outline.found =
            Some(FoundLink { link: guest_link(&link), tap: Tap { fd: number, mac: link.mac } });
        cell.descriptors.push(link.tap);
    }
    let outline = document("outline", &cell.outline)?;
    let program = descriptors(outline, channel, cell.program, cell.descriptors)?;
    execute(&program, cell.id)
}

/// What the inner part of the jail is made of.
#[derive(Debug)]
pub struct Enclosure {
    /// What is shared with the guest.
    pub shares: Vec<Share>,
    /// Hooks of the configuration.
    pub hooks: Option<Hooks>,
    /// The state that hooks are told; the process id is filled in.
    pub state: serde_json::Value,
    /// Whether there may be a link in the network namespace once the hooks have run.
    pub connected_by_hooks: bool,
    /// Its streams.
    pub streams: Streams,
}

/// What the process has of the host beside the descriptors that it was given.
#[derive(Debug)]
pub struct Closed {
    /// `/proc/self/fd`: the file server opens again by these links what it has found, and the root of the jail has no /proc.
    pub proc_self_fd: OwnedFd,
    /// The mount namespace.
    pub mounts: OwnedFd,
    /// The link that the hooks have made: as the guest is told of it, its tap and hardware address.
    pub link: Option<(Link, OwnedFd, [u8; 6])>,
}

impl Enclosure {
    /// Closes the jail around this process. Of its threads only the one that calls this loses its privileges: the others must end before a
    /// guest runs.
    ///
    /// # Errors
    /// A hook or a step fails; then no guest may run.
    pub fn close(mut self, channel: &Channel) -> Result<Closed> {
        root::loosen()?;
        run_hooks(&mut self, channel)?;
        // Docker's hooks connect the namespace that they find.
        let link = if self.connected_by_hooks { splice()? } else { None };
        let (proc_self_fd, mounts) = (open_proc("fd", OFlag::O_PATH)?, open_proc("ns/mnt", OFlag::O_RDONLY)?);
        root::build(self.shares)?;
        set_streams(self.streams)?;
        privileges()?;
        Ok(Closed { proc_self_fd, mounts, link: link.map(|link| (guest_link(&link), link.tap, link.mac)) })
    }
}

/// The link of this network namespace, for the guest to take over.
fn splice() -> Result<Option<Spliced>> {
    rkvm_net::splice().map_err(|source| {
        Error::failed("hand over to the guest", "the link of the network namespace", source)
    })
}

fn guest_link(link: &Spliced) -> Link {
    let route = |(to, prefix, via): &(IpAddr, u8, Option<IpAddr>)| Route {
        to: Address { address: *to, prefix: *prefix },
        via: *via,
    };
    let address = |(address, prefix): &(IpAddr, u8)| Address { address: *address, prefix: *prefix };
    Link {
        // What the guest's kernel calls its one network device.
        name: "eth0".to_owned(),
        hardware_address: Some(link.mac),
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
pub fn has_hooks(hooks: Option<&Hooks>) -> bool {
    let some = |list: &Option<Vec<_>>| list.as_ref().is_some_and(|list| !list.is_empty());
    #[allow(deprecated)]
    hooks
        .is_some_and(|all| some(all.prestart()) || some(all.create_runtime()) || some(all.create_container()))
}

fn run_hooks(enclosure: &mut Enclosure, channel: &Channel) -> Result<()> {
    let Enclosure { shares, hooks, state, .. } = enclosure;
    let Some(all) = hooks.as_ref().filter(|all| has_hooks(Some(all))) else { return Ok(()) };
    // What they mount below the root filesystem is to be there in the guest.
    shares.iter().try_for_each(root::show)?;
    channel.send(&Report::Enclosed).map_err(|errno| failed("report to", "the creator")(errno.into()))?;
    channel.wait_for(Go::HooksDone)?;
    state["pid"] = std::process::id().into();
    hooks::run("createContainer", all.create_container().as_ref(), state)?;
    shares.iter_mut().try_for_each(root::take_back)
}

fn open_proc(what: &str, how: OFlag) -> Result<OwnedFd> {
    let path = format!("/proc/self/{what}");
    nix::fcntl::open(path.as_str(), how | OFlag::O_CLOEXEC, nix::sys::stat::Mode::empty())
        .map_err(|errno| Error::failed("open", path, errno))
}

/// A file in memory with `content`, for the machine's process.
///
/// # Errors
/// No memory or descriptor is left.
pub fn document(name: &'static str, content: &impl Serialize) -> Result<OwnedFd> {
    let error = |source: std::io::Error| Error::failed("write for the machine's process", name, source);
    let text = serde_json::to_vec(content).map_err(|source| error(source.into()))?;
    let mut file =
        File::from(memfd_create(name, MFdFlags::MFD_CLOEXEC).map_err(|errno| error(errno.into()))?);
    file.write_all(&text).and_then(|()| file.rewind()).map_err(error)?;
    Ok(file.into())
}

/// Gives every descriptor the number that the program expects, and has execve close all others. The program's own may get another
/// number.
fn descriptors(outline: OwnedFd, channel: &Channel, program: OwnedFd, rest: Vec<OwnedFd>) -> Result<OwnedFd> {
    let error = failed("arrange", "the descriptors of the machine's process");
    let end = FIRST_FD + rest.len() as i32;
    let program = fs::move_above(program, end + 1).map_err(&error)?;
    let channel = channel.as_fd().try_clone_to_owned().map_err(&error)?;
    // Out of the way of the numbers first: a descriptor may have one that another is to get.
    let mut wanted = vec![(outline, OUTLINE_FD), (channel, CHANNEL_FD)];
    wanted.extend(rest.into_iter().zip(FIRST_FD..));
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

fn set_streams(streams: Streams) -> Result<()> {
    let error = failed("set up", "the container's streams");
    let streams = match streams {
        Streams::Inherited => return Ok(()),
        Streams::Given(streams) => streams,
        Streams::Terminal(slave) => {
            // For the signals that tell of a new size and of the end.
            pty::make_controlling(slave.as_fd()).map_err(&error)?;
            let copy = || slave.try_clone().map_err(&error);
            [copy()?, copy()?, slave]
        }
    };
    for (fd, number) in streams.iter().zip(0..) {
        fs::dup_to(fd.as_fd(), number).map_err(&error)?;
    }
    Ok(())
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
