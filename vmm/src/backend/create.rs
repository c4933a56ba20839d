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

use super::birth;
use super::channel::Channel;
use super::plan::{FIRST_FD, NamedFile, Plan, PlannedDisk, PlannedTemplate, Tap};
use super::spec::{self, Converted, Size};
use super::templates::{self, Found, Shape};
use super::{disks, oom, socket, terminal};
use crate::Access;
use crate::artifacts;
use crate::host::Host;
use crate::jail::{Cell, Share, Streams};

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
    /// KVM's descriptor of the machine.
    pub machine: Option<OwnedFd>,
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

/// Descriptors for the machine's process, with the numbers that they will have there.
///
/// [`FIRST_FD`] itself is kept for the one that the process opens.
#[derive(Default)]
struct Descriptors(Vec<OwnedFd>);

impl Descriptors {
    fn add(&mut self, fd: impl Into<OwnedFd>) -> i32 {
        self.0.push(fd.into());
        FIRST_FD + self.0.len() as i32
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

/// Makes the machine, in which the container's process then waits for the start.
///
/// # Errors
/// Anything that keeps it from being made; then nothing of it is left behind.
pub fn create(request: CreateRequest<'_>) -> Result<Created> {
    let CreateRequest { id, bundle, rootfs, link, state_dir, stdio, preserve_fds, at_once, timeline, .. } =
        request;
    if preserve_fds > 0 {
        return Err(Error::unsupported(
            "--preserve-fds and socket activation",
            "a descriptor of the host cannot be handed into a microVM; use --isolation=container",
        ));
    }
    let spec = &bundle.spec;
    let namespaces = Namespaces::open(spec)?;
    let Converted { mut guest, shared, host_resources, late_resources, size } =
        spec::convert(spec, &bundle.path, link.is_some())?;
    if link.is_none() {
        refuse_the_hosts_network(&namespaces)?;
    }
    let root_path = bundle.rootfs()?;
    let host = Host::open().map_err(kvm)?;
    let kind = artifacts::kvm_kind(|| host.kind())?;
    let annotations = spec.annotations().clone().unwrap_or_default();
    let artifacts = artifacts::find(kind, &annotations)?;
    let mut descriptors = Descriptors::default();
    let (root, mut shares) = root_filesystem(rootfs, &root_path, &namespaces, &mut descriptors)?;
    for one in shared {
        shares.push(open(one.name, one.mount, &namespaces)?);
    }
    let (streams, console) = match stdio {
        Stdio::Terminal { console } => {
            let pair = terminal::open(spec.process().as_ref())?;
            (Streams::Terminal(pair.slave), Some((console, pair.master)))
        }
        other => (Streams::Given(other), None),
    };
    let opened = disks::open(spec)?;
    let filter = seccomp(spec)?;
    drop_rules(&mut guest);
    let program = program()?;
    // That of the namespace, where one is joined, is found only by the machine's process.
    let expects_link = link.is_some() || namespaces.joined(libc::CLONE_NEWNET).is_some();
    let shape = Shape {
        program: &program,
        artifacts: &artifacts,
        size,
        image: root.image.as_ref().map(|image| image.path.as_path()),
        share: !shares.is_empty(),
        link: expects_link,
    };
    // Disks and consoles are asked about by the guest's kernel while it boots.
    let plain = opened.is_empty() && artifacts::console(&annotations).is_none();
    let template = match templates::are_allowed(&annotations)? && plain {
        true => Found::find(&shape),
        false => Found::Nothing,
    };
    let mut entropy = File::open(ENTROPY).map_err(|source| Error::failed("open", ENTROPY, source))?;
    let own = template.is_some().then(|| own(&mut entropy)).transpose()?;
    let setup = GuestSetup {
        own,
        disks: opened.iter().map(|disk| disk.disk.clone()).collect(),
        id: id.to_owned(),
        seccomp: filter,
        spec: guest,
        root: root.form,
        share: (!shares.is_empty()).then(|| SHARE_TAG.to_owned()),
        links: link.as_ref().map(|link| guest_link(link, template.is_some())).into_iter().collect(),
    };
    let plan = Plan {
        id: id.to_owned(),
        kvm: descriptors.add(kvm_descriptor()?),
        entropy: descriptors.add(entropy),
        template: planned_template(&template, &mut descriptors)?,
        kernel: descriptors.open("open the guest kernel", &artifacts.kernel)?,
        initrd: NamedFile { fd: descriptors.add(artifacts.open_initramfs()?), path: artifacts.initrd },
        cmdline: artifacts.cmdline,
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        image: root.image,
        disks: opened.into_iter().map(|disk| planned(disk, &mut descriptors)).collect(),
        console: artifacts::open_console(&annotations)?.map(|end| descriptors.add(end)),
        tap: link.map(|link| Tap { mac: link.mac, fd: descriptors.add(link.tap) }),
        share: setup.share.clone(),
        proc_self_fd: FIRST_FD,
        vsock: descriptors.add(socket::listen(state_dir, socket::VSOCK)?),
        control: descriptors.add(socket::listen(state_dir, socket::CONTROL)?),
        oom_kills: descriptors.add(oom::create(state_dir)?),
        terminal: console.is_some(),
        // A program with a terminal is started with its size.
        at_once: at_once && console.is_none(),
        boot_timeout_ms: artifacts::boot_timeout(&annotations)?.as_millis() as u64,
        setup,
    };
    let (channel, theirs) = Channel::pair()?;
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let cgroup = Cgroup::create(path, id, Some(&host_resources))?;
    let mut state = serde_json::json!({
        "ociVersion": spec.version(), "id": id, "status": "creating", "pid": 0, "bundle": bundle.path,
    });
    if !annotations.is_empty() {
        state["annotations"] = serde_json::json!(annotations);
    }
    // The same mounts, by descriptors of their own, for the time when the user namespace has its mappings.
    let unmapped = unmapped(&shares, &namespaces)?;
    let cell = Cell {
        program: program.into(),
        plan,
        descriptors: descriptors.0,
        streams,
        namespaces: &namespaces,
        expects_link,
        entrance: None,
        shares: shares
            .into_iter()
            .map(|opened| Share { name: opened.name, tree: opened.tree, place: opened.place })
            .collect(),
        hooks: spec.hooks().as_ref(),
        state: state.clone(),
    };
    let spawned = birth::spawn(cell, &cgroup, theirs);
    let mut created = match spawned {
        Ok((pid, process)) => Created { pid, process, cgroup, size, machine: None, channel, executed: None },
        Err(error) => {
            // The first error is the one that tells.
            let _ = cgroup.remove();
            return Err(error);
        }
    };
    let done = birth::bring_up(&mut created, spec, &unmapped, &template, state, timeline)
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

fn planned_template(template: &Found, descriptors: &mut Descriptors) -> Result<PlannedTemplate> {
    Ok(match template {
        Found::Nothing => PlannedTemplate::None,
        Found::Missing { .. } => PlannedTemplate::Record,
        Found::Template { file, path, key } => {
            let file = file.try_clone().map_err(|source| Error::failed("share", path.display(), source))?;
            PlannedTemplate::Use { fd: descriptors.add(file), key: key.clone() }
        }
    })
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

fn kvm(error: crate::Error) -> Error {
    let text = super::chain(&error);
    Error::unsupported("--isolation=vm", text)
}

fn kvm_descriptor() -> Result<File> {
    File::options()
        .read(true)
        .write(true)
        .open("/dev/kvm")
        .map_err(|source| Error::failed("open", "/dev/kvm", source))
}

/// The program of the machine's process, which lies beside this one.
fn program() -> Result<File> {
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("rkvm-vmm")));
    let path = beside.unwrap_or_else(|| PathBuf::from("/usr/bin/rkvm-vmm"));
    File::open(&path).map_err(|source| {
        Error::failed("open", path.display(), source)
            .hint("rkvm-vmm must lie beside the program that starts it")
    })
}

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

/// Refuses a path to this process's own network namespace, which is how Docker says `--network host`: the machine's process would stay in
/// it.
fn refuse_the_hosts_network(namespaces: &Namespaces) -> Result<()> {
    // Such a path counts as none.
    if namespaces.has(libc::CLONE_NEWNET) {
        return Ok(());
    }
    Err(Error::unsupported(
        "linux.namespaces without network, or with the host's",
        "a microVM cannot share the host's network: the guest has a kernel of its own; use --isolation=container, or a network of its own",
    ))
}

/// Mounts whose ids are mapped once the new user namespace has its mappings.
fn unmapped(shares: &[Opened], namespaces: &Namespaces) -> Result<Vec<(MountPlan, OwnedFd)>> {
    if namespaces.new & libc::CLONE_NEWUSER == 0 {
        return Ok(vec![]);
    }
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
