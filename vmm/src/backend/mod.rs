//! The backend: makes machines for bundles and finds them again.
//!
//! `create` prepares everything that needs the host's privileges, then makes one process a machine, which goes into its [jail](crate::jail)
//! and executes `rkvm-vmm` ([`crate::process`]). Later commands reach that process through a socket in the state folder ([`control`]), and
//! the guest's init through another (`exec.rs`).

mod begin;
mod birth;
pub mod channel;
pub mod control;
mod create;
mod disks;
mod exec;
mod features;
pub mod oom;
pub mod plan;
mod relay;
pub mod socket;
mod spec;
pub mod templates;
mod terminal;
mod workload;

#[cfg(any(test, feature = "testing"))]
pub(crate) use spec::convert;

use std::path::Path;

use oci_spec::runtime::Features;
use rkvm_cgroup::Cgroup;
use rkvm_oci::{
    Backend, BeginRequest, Begun, Bundle, CreateRequest, Error, Isolation, LinkForm, Needs, Record, Result,
    Rootfs, RootfsForm, Workload,
};

use crate::host::Host;
use workload::Vm;

/// The microVM backend.
#[derive(Debug, Default)]
pub struct VmBackend;

impl VmBackend {
    /// The backend; nothing is done on the host until it is used.
    pub fn new() -> Self {
        Self
    }
}

/// An error with its causes, for where only text can go on.
pub(crate) fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

impl Backend for VmBackend {
    fn isolation(&self) -> Isolation {
        Isolation::Vm
    }

    fn check_host(&self) -> Result<()> {
        Host::open().map(drop).map_err(|error| Error::unsupported("--isolation=vm", chain(&error)))
    }

    fn needs(&self) -> Needs {
        Needs { rootfs: RootfsForm::Layers, link: LinkForm::Tap, kernel: rkvm_oci::backend::Kernel::Own }
    }

    fn features(&self) -> Features {
        features::features()
    }

    fn create(&self, request: CreateRequest<'_>) -> Result<Box<dyn Workload>> {
        let image = match &request.rootfs {
            Rootfs::Image { image, .. } => Some(image.clone()),
            Rootfs::Bundle => None,
        };
        let CreateRequest { id, bundle, ref link, .. } = request;
        let begun =
            begin::begin(&BeginRequest { id, bundle, image: image.as_deref(), link: link.is_some() })?;
        Box::new(begun).create(request)
    }

    fn begin(&self, request: BeginRequest<'_>) -> Result<Option<Box<dyn Begun>>> {
        Ok(Some(Box::new(begin::begin(&request)?)))
    }

    fn clean(&self, id: &str, bundle: &Bundle) -> Result<()> {
        // The machine's process is in its cgroup, and ends by itself when its creator does.
        let path = bundle.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let Some(cgroup) = Cgroup::locate(path, id)? else { return Ok(()) };
        cgroup.kill_all()?;
        cgroup.remove()
    }

    fn open(&self, record: &Record, state_dir: &Path) -> Result<Box<dyn Workload>> {
        Ok(Box::new(Vm::open(record, state_dir)?))
    }
}
