//! The creator's side of `begin`: all that depends on config.json alone, and the machine's process, which makes the machine as far as it can while
//! the caller prepares root filesystem and network.

use std::collections::HashMap;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use oci_spec::runtime::{LinuxResources, Spec};
use rkvm_cgroup::Cgroup;
use rkvm_linux::namespaces::Namespaces;
use rkvm_oci::{BeginRequest, CreateRequest, Error, Result, Workload};

use super::channel::Channel;
use super::create::{self, Created};
use super::plan::{FIRST_FD, Outline, PlannedTemplate};
use super::spec::{self, Converted, Shared};
use super::templates::{self, Found, Shape};
use super::workload::Vm;
use super::{birth, disks};
use crate::artifacts::{self, Artifacts};
use crate::host::Host;
use crate::jail::Cell;
use crate::process::machine::device_count;

/// A machine whose process is on its way. The process ends with this.
#[derive(Debug)]
pub struct Begun {
    /// The process, until it is taken.
    created: Option<Created>,
    pub(super) namespaces: Namespaces,
    pub(super) artifacts: Artifacts,
    pub(super) annotations: HashMap<String, String>,
    pub(super) disks: Vec<disks::Opened>,
    pub(super) template: Found,
    /// The container inside.
    pub(super) guest: Spec,
    /// What the host shares for its bind mounts.
    pub(super) shared: Vec<Shared>,
    /// Limits of the machine's process that wait until the guest is ready.
    pub(super) late_resources: Option<LinuxResources>,
}

/// Begins to make the machine.
///
/// # Errors
/// The configuration cannot be honoured, the host lacks something, or the process cannot be made; then nothing of it is left behind.
pub fn begin(request: &BeginRequest<'_>) -> Result<Begun> {
    let BeginRequest { id, bundle, image, link } = *request;
    let spec = &bundle.spec;
    let namespaces = Namespaces::open(spec)?;
    let Converted { guest, shared, host_resources, late_resources, size } =
        spec::convert(spec, &bundle.path, link)?;
    if !link {
        refuse_the_hosts_network(&namespaces)?;
    }
    let host = Host::open().map_err(kvm)?;
    let kind = artifacts::kvm_kind(|| host.kind())?;
    let annotations = spec.annotations().clone().unwrap_or_default();
    let artifacts = artifacts::find(kind, &annotations)?;
    let disks = disks::open(spec)?;
    let console = artifacts::console(&annotations).is_some();
    let program = program()?;
    // That of the namespace, where one is joined, is found only by the machine's process.
    let expects_link = link || namespaces.joined(libc::CLONE_NEWNET).is_some();
    let shape = Shape { program: &program, artifacts: &artifacts, size, image, link: expects_link };
    // Disks and consoles are asked about by the guest's kernel while it boots.
    let plain = disks.is_empty() && !console;
    let template = match templates::are_allowed(&annotations)? && plain {
        true => Found::find(&shape),
        false => Found::Nothing,
    };
    let mut descriptors = vec![OwnedFd::from(kvm_descriptor()?)];
    let outline = Outline {
        kvm: FIRST_FD,
        vcpus: size.vcpus,
        memory_mib: size.memory_mib,
        devices: device_count(image.is_some(), disks.len(), expects_link, console),
        template: planned(&template, &mut descriptors)?,
        found: None,
    };
    let (channel, theirs) = Channel::pair()?;
    let path = spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
    let cgroup = Cgroup::create(path, id, Some(&host_resources))?;
    let cell = Cell {
        id,
        program: program.into(),
        outline,
        descriptors,
        namespaces: &namespaces,
        brings_link: link,
        entrance: None,
    };
    let (pid, process) = match birth::spawn(cell, &cgroup, theirs) {
        Ok(process) => process,
        Err(error) => {
            // The first error is the one that tells.
            let _ = cgroup.remove();
            return Err(error);
        }
    };
    let created = Created { pid, process, cgroup, size, kept: vec![], channel, executed: None };
    let created = Some(created);
    Ok(Begun { created, namespaces, artifacts, annotations, disks, template, guest, shared, late_resources })
}

impl Begun {
    /// The process, which from now on is the caller's to end.
    pub(super) fn take(&mut self) -> Result<Created> {
        self.created.take().ok_or_else(|| Error::failed("go on with", "the microVM", nix::Error::ESRCH))
    }
}

impl rkvm_oci::Begun for Begun {
    fn create(self: Box<Self>, request: CreateRequest<'_>) -> Result<Box<dyn Workload>> {
        let (id, state_dir) = (request.id, request.state_dir);
        let created = create::create(*self, request)?;
        Ok(Box::new(Vm::created(id, state_dir, created)))
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        if let Some(created) = &self.created {
            birth::end(created);
        }
    }
}

fn planned(template: &Found, descriptors: &mut Vec<OwnedFd>) -> Result<PlannedTemplate> {
    Ok(match template {
        Found::Nothing => PlannedTemplate::None,
        Found::Missing { .. } => PlannedTemplate::Record,
        Found::Template { file, path, key } => {
            let file = file.try_clone().map_err(|source| Error::failed("share", path.display(), source))?;
            let fd = FIRST_FD + descriptors.len() as i32;
            descriptors.push(file.into());
            PlannedTemplate::Use { fd, key: key.clone() }
        }
    })
}

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
