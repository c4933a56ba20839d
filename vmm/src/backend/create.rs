//! The creator's side of `create`.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::{AsFd, OwnedFd};
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Mount, Spec};
use rkvm_cgroup::Cgroup;
use rkvm_guest_protocol::{
    Address, GuestSetup, Link as GuestLink, Own, Root, Route, SeccompProgram, WriteLayer,
};
use rkvm_linux::mounts::bind;
use rkvm_linux::mounts::options::Plan as MountPlan;
use rkvm_linux::namespaces::Namespaces;
use rkvm_linux::seccomp::Filter;
use rkvm_oci::timeline::MonotonicNs;
use rkvm_oci::{CreateRequest, Error, Link, Result, Rootfs, Stdio};

use super::begin::Begun;
use super::birth;
use super::channel::Channel;
use super::plan::{NamedFile, Plan, PlannedDisk, PlannedShare, PlannedStreams, Tap};
use super::spec::Size;
use super::{disks, oom, socket, terminal};
use crate::Access;
use crate::artifacts;
use crate::jail::{document, has_hooks};

/// Name of the root filesystem in the share.
const ROOT: &str = "root";
/// Name of the write layer in the share.
const WRITE: &str = "write";
/// The image's device in the guest: the only block device.
const IMAGE_DEVICE: &str = "/dev/vda";

/// A machine, as `create` leaves it.
#[derive(Debug)]
pub struct Created {
    /// Process id of the machine's process.
    pub pid: i32,
    /// Its pidfd.
    pub process: OwnedFd,
    /// Its cgroup.
    pub cgroup: Cgroup,
    /// How large the machine is.
    pub size: Size,
    /// What takes long to take apart: KVM's descriptor of the machine, and the process's mount namespace.
    pub kept: Vec<OwnedFd>,
    /// The conversation with it: it ends with it until the machine is recorded.
    pub channel: Channel,
    /// When its program was executed, if it has been.
    pub executed: Option<MonotonicNs>,
}

/// A mount for the share, whose ids may have to be mapped once the user namespace has its mappings.
struct Opened {
    name: String,
    plan: MountPlan,
    tree: OwnedFd,
    /// Where hooks look for it.
    place: Option<PathBuf>,
}

impl Opened {
    fn planned(self, descriptors: &mut Descriptors) -> PlannedShare {
        PlannedShare { name: self.name, tree: descriptors.add(self.tree), place: self.place }
    }
}

/// Descriptors for the machine's process, with their places behind the plan's.
#[derive(Default)]
struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    fn add(&mut self, fd: impl Into<OwnedFd>) -> i32 {
        self.0.push(fd.into());
        self.0.len() as i32
    }

    fn with(self, plan: OwnedFd) -> Vec<OwnedFd> {
        [plan].into_iter().chain(self.0).collect()
    }

    fn open(&mut self, what: &'static str, path: &Path) -> Result<NamedFile> {
        let file = File::open(path).map_err(|source| Error::failed(what, path.display(), source))?;
        Ok(NamedFile { fd: self.add(file), path: path.to_owned() })
    }
}

/// Where random numbers come from.
const ENTROPY: &str = "/dev/urandom";
/// As many as the guest's kernel needs for a new key.
const SEED_BYTES: usize = 32;

/// What the machine's process waits for.
pub struct Rest {
    /// The plan, and the descriptors that it speaks of.
    pub descriptors: Vec<OwnedFd>,
    /// Mounts whose ids are mapped with those of the new user namespace; `None` where there is no new one.
    pub unmapped: Option<Vec<(MountPlan, OwnedFd)>>,
    /// The state that hooks are told; the process id is filled in.
    pub state: serde_json::Value,
}

/// Makes the rest of the machine, in which the container's process then waits for the start.
///
/// # Errors
/// Anything that keeps it from being made; then nothing of it is left behind.
pub fn create(mut begun: Begun, request: CreateRequest<'_>) -> Result<Created> {
    let CreateRequest { id, bundle, rootfs, link, state_dir, stdio, preserve_fds, at_once, timeline, .. } =
        request;
    if preserve_fds > 0 {
        return Err(Error::unsupported(
            "--preserve-fds and socket activation",
            "a descriptor of the host cannot be handed into a microVM; use --isolation=container",
        ));
    }
    let spec = &bundle.spec;
    let mut descriptors = Descriptors::default();
    let (root, mut shares) = root_filesystem(rootfs, &bundle.rootfs()?, &begun.namespaces, &mut descriptors)?;
    for one in std::mem::take(&mut begun.shared) {
        shares.push(open(one.name, one.mount, &begun.namespaces)?);
    }
    let (streams, console) = match stdio {
        Stdio::Inherit => (PlannedStreams::Inherited, None),
        Stdio::Fds { stdin, stdout, stderr } => {
            (PlannedStreams::Given([stdin, stdout, stderr].map(|stream| descriptors.add(stream))), None)
        }
        Stdio::Terminal { console } => {
            let pair = terminal::open(spec.process().as_ref())?;
            (PlannedStreams::Terminal(descriptors.add(pair.slave)), Some((console, pair.master)))
        }
    };
    let mut entropy = File::open(ENTROPY).map_err(|source| Error::failed("open", ENTROPY, source))?;
    let own = begun.template.is_some().then(|| own(&mut entropy)).transpose()?;
    let mut guest = std::mem::take(&mut begun.guest);
    drop_rules(&mut guest);
    let disks = std::mem::take(&mut begun.disks);
    let setup = GuestSetup {
        disks: disks.iter().map(|disk| disk.disk.clone()).collect(),
        id: id.to_owned(),
        seccomp: seccomp(spec)?,
        spec: guest,
        root: root.form,
        share: Some(SHARE_TAG.to_owned()),
        links: link.as_ref().map(|link| guest_link(link, own.is_some())).into_iter().collect(),
        own,
    };
    let mut state = serde_json::json!({
        "ociVersion": spec.version(), "id": id, "status": "creating", "pid": 0, "bundle": bundle.path,
    });
    if !begun.annotations.is_empty() {
        state["annotations"] = serde_json::json!(begun.annotations);
    }
    let new = begun.namespaces.new;
    let connected_by_hooks =
        link.is_none() && new & libc::CLONE_NEWNET != 0 && has_hooks(spec.hooks().as_ref());
    let unmapped = (new & libc::CLONE_NEWUSER != 0).then(|| unmapped(&shares)).transpose()?;
    let artifacts = &begun.artifacts;
    let plan = Plan {
        entropy: descriptors.add(entropy),
        kernel: descriptors.open("open the guest kernel", &artifacts.kernel)?,
        initrd: NamedFile {
            fd: descriptors.add(artifacts.open_initramfs()?),
            path: artifacts.initrd.clone(),
        },
        cmdline: artifacts.cmdline.clone(),
        image: root.image,
        disks: disks.into_iter().map(|disk| planned(disk, &mut descriptors)).collect(),
        console: artifacts::open_console(&begun.annotations)?.map(|end| descriptors.add(end)),
        connected_by_hooks,
        tap: link.map(|link| Tap { mac: link.mac, fd: descriptors.add(link.tap) }),
        shares: shares.into_iter().map(|share| share.planned(&mut descriptors)).collect(),
        vsock: descriptors.add(socket::listen(state_dir, socket::VSOCK)?),
        control: descriptors.add(socket::listen(state_dir, socket::CONTROL)?),
        oom_kills: descriptors.add(oom::create(state_dir)?),
        // A program with a terminal is started with its size.
        at_once: at_once && console.is_none(),
        streams,
        boot_timeout_ms: artifacts::boot_timeout(&begun.annotations)?.as_millis() as u64,
        hooks: spec.hooks().clone(),
        state: state.clone(),
        setup,
    };
    let rest = Rest { descriptors: descriptors.with(document("plan", &plan)?), unmapped, state };
    let late_resources = begun.late_resources.take();
    let mut created = begun.take()?;
    let done = birth::bring_up(&mut created, spec, rest, &begun.template, timeline)
        .and_then(|()| late_resources.map_or(Ok(()), |late| created.cgroup.update(&late)))
        .and_then(|()| match console {
            Some((socket, master)) => terminal::send(socket.as_fd(), master.as_fd()),
            None => Ok(()),
        });
    match done {
        Ok(()) => Ok(created),
        Err(error) => {
            birth::end(&created);
            Err(error)
        }
    }
}

/// What the guest needs to be another one than those that begin with the same template.
fn own(entropy: &mut File) -> Result<Own> {
    let mut seed = vec![0; SEED_BYTES];
    entropy.read_exact(&mut seed).map_err(|source| Error::failed("read", ENTROPY, source))?;
    Ok(Own { behind: 0, seed })
}

fn planned(disk: disks::Opened, descriptors: &mut Descriptors) -> PlannedDisk {
    PlannedDisk {
        file: NamedFile { fd: descriptors.add(disk.file), path: disk.path },
        serial: disk.disk.serial,
        writable: disk.access == Access::ReadWrite,
    }
}

/// Tag of the file sharing device.
const SHARE_TAG: &str = "rkvm";

/// The root filesystem as the guest is told of it.
struct GuestRoot {
    form: Root,
    image: Option<NamedFile>,
}

fn root_filesystem(
    rootfs: Rootfs,
    root_path: &Path,
    namespaces: &Namespaces,
    descriptors: &mut Descriptors,
) -> Result<(GuestRoot, Vec<Opened>)> {
    let bind = |source: &Path, options: &[&str]| -> Result<MountPlan> {
        let mut mount = Mount::default();
        let options = options.iter().map(|option| (*option).to_owned()).collect();
        mount
            .set_destination("/".into())
            .set_typ(Some("bind".to_owned()))
            .set_source(Some(source.to_owned()))
            .set_options(Some(options));
        MountPlan::new(0, &mount, Path::new("/"))
    };
    match rootfs {
        Rootfs::Bundle => {
            let mut opened = open(ROOT.to_owned(), bind(root_path, &["rbind"])?, namespaces).map_err(
                |error| match error {
                    Error::Failed { source, .. } => {
                        Error::failed("open root.path", root_path.display(), source)
                            .hint("the bundle's root filesystem must be a folder that exists")
                    }
                    other => other,
                },
            )?;
            opened.place = Some(root_path.to_owned());
            Ok((GuestRoot { form: Root::Shared(ROOT.to_owned()), image: None }, vec![opened]))
        }
        Rootfs::Image { image, write_layer } => {
            let options: &[&str] =
                if namespaces.has(libc::CLONE_NEWUSER) { &["bind", "idmap"] } else { &["bind"] };
            let opened = open(WRITE.to_owned(), bind(&write_layer, options)?, namespaces)?;
            let image = descriptors.open("open the image", &image)?;
            let form =
                Root::Layers { image: IMAGE_DEVICE.to_owned(), write: WriteLayer::Shared(WRITE.to_owned()) };
            Ok((GuestRoot { form, image: Some(image) }, vec![opened]))
        }
    }
}

fn open(name: String, plan: MountPlan, namespaces: &Namespaces) -> Result<Opened> {
    let userns = namespaces.joined(libc::CLONE_NEWUSER).map(|joined| joined.fd.as_fd());
    let tree = bind::open(&plan, userns)?
        .ok_or_else(|| Error::invalid_spec(format!("mounts[{}]", plan.index), "it is no bind mount"))?;
    Ok(Opened { name, plan, tree, place: None })
}

/// The same mounts, by descriptors of their own, for the time when the user namespace has its mappings.
fn unmapped(shares: &[Opened]) -> Result<Vec<(MountPlan, OwnedFd)>> {
    let wanted = shares.iter().filter(|opened| opened.plan.wants_container_ids());
    wanted
        .map(|opened| {
            let copy = opened.tree.try_clone();
            let copy = copy.map_err(|source| Error::failed("keep open", &opened.name, source))?;
            Ok((opened.plan.clone(), copy))
        })
        .collect()
}

fn seccomp(spec: &Spec) -> Result<Option<SeccompProgram>> {
    let Some(profile) = spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else {
        return Ok(None);
    };
    let filter = Filter::compile(profile, Some(Path::new("/run/rkvm-seccomp")))?;
    if filter.listener().is_some() {
        return Err(Error::unsupported(
            "linux.seccomp with SCMP_ACT_NOTIFY",
            "the agent that would answer is on the host, and the calls are those of another kernel",
        ));
    }
    Ok(Some(SeccompProgram {
        instructions: filter.program().iter().map(|one| (one.code, one.jt, one.jf, one.k)).collect(),
    }))
}

/// Takes the rules of the seccomp profile out of what the guest is told: it gets the program that was made of them, and they are the
/// longest part of a configuration.
fn drop_rules(guest: &mut Spec) {
    let profile = guest.linux_mut().as_mut().and_then(|linux| linux.seccomp_mut().as_mut());
    if let Some(profile) = profile {
        profile.set_syscalls(None);
    }
}

fn guest_link(link: &Link, of_template: bool) -> GuestLink {
    let default = Address { address: std::net::Ipv4Addr::UNSPECIFIED.into(), prefix: 0 };
    GuestLink {
        name: link.name.clone(),
        hardware_address: of_template.then_some(link.mac),
        mtu: Some(link.mtu.into()),
        addresses: vec![Address { address: link.address.into(), prefix: link.prefix }],
        routes: link
            .gateway
            .map(|gateway| Route { to: default, via: Some(gateway.into()) })
            .into_iter()
            .collect(),
    }
}
