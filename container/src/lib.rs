//! Isolation backend: namespaces, cgroups, capabilities and seccomp.

pub mod cgroup;
pub mod seccomp;

use std::path::Path;

use oci_spec::runtime::Features;
use rkvm_oci::{Backend, CreateRequest, Error, Isolation, Record, Result, Workload};

/// The container backend.
#[derive(Debug, Default)]
pub struct ContainerBackend;

impl ContainerBackend {
    /// The backend; nothing is done on the host until it is used.
    pub fn new() -> Self {
        Self
    }
}

impl Backend for ContainerBackend {
    fn isolation(&self) -> Isolation {
        Isolation::Container
    }

    fn check_host(&self) -> Result<()> {
        Ok(())
    }

    fn features(&self) -> Features {
        Features::default()
    }

    fn create(&self, _request: CreateRequest<'_>) -> Result<Box<dyn Workload>> {
        Err(Error::unsupported("create", "the container backend is not built yet"))
    }

    fn open(&self, _record: &Record, _state_dir: &Path) -> Result<Box<dyn Workload>> {
        Err(Error::unsupported("open", "the container backend is not built yet"))
    }
}
