//! The only place that knows both backends.

use std::collections::HashMap;
use std::path::Path;

use rkvm_engine::host::{Guest, Kvm, KvmKind, Machines};
use rkvm_oci::{Backend, Bundle, Error, Isolation, Result};
use rkvm_vmm::artifacts;
use rkvm_vmm::host::{self, Offer, Vendor};
use serde::Deserialize;

/// Settings of the host's administrator. A missing file is an empty one.
pub const CONFIG_FILE: &str = "/etc/rkvm/config.json";

/// What the file may set.
#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Config {
    /// Isolation of containers that ask for none themselves.
    isolation: Option<Isolation>,
}

/// The isolation of a new container: `flag`, else the bundle's annotation, else the configuration file, else the default.
///
/// # Errors
/// The annotation or the file says something that is no isolation.
pub fn choose(flag: Option<Isolation>, bundle: &Bundle) -> Result<Isolation> {
    if let Some(isolation) = flag {
        return Ok(isolation);
    }
    let annotations = bundle.spec.annotations().as_ref();
    if let Some(text) = annotations.and_then(|all| all.get(Isolation::ANNOTATION)) {
        let field = format!("annotations.{}", Isolation::ANNOTATION);
        return text.parse().map_err(|reason| Error::invalid_spec(field, reason));
    }
    let path = Path::new(CONFIG_FILE);
    let text = match std::fs::read(path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Isolation::default()),
        Err(error) => return Err(Error::failed("read", path.display(), error)),
    };
    let config: Config =
        serde_json::from_slice(&text).map_err(|source| Error::Malformed { path: path.to_owned(), source })?;
    Ok(config.isolation.unwrap_or_default())
}

/// The backend for `isolation`.
///
/// # Errors
/// [`Error::Unsupported`] for a backend that this build does not have.
pub fn backend(isolation: Isolation) -> Result<Box<dyn Backend>> {
    match isolation {
        Isolation::Container => Ok(Box::new(rkvm_container::ContainerBackend::new())),
        Isolation::Vm => Ok(Box::new(rkvm_vmm::VmBackend::new())),
    }
}

/// What this host offers to microVMs, and what they will boot, as `info` shows it.
pub fn machines() -> Machines {
    let (kind, reason) = match Offer::ask() {
        Offer::None(error) => {
            let reason = format!("{:#}", anyhow::Error::from(error));
            return Machines {
                kvm: Kvm { kind: KvmKind::None, reason },
                guest: Guest { reason: "none, without a KVM to boot it".to_owned(), ..Guest::default() },
            };
        }
        Offer::Kvm(kind) => (kind, kind.to_string()),
    };
    let guest = match artifacts::find(kind, &HashMap::new()) {
        Ok(found) => Guest {
            kernel: found.kernel.display().to_string(),
            initramfs: found.initrd.display().to_string(),
            reason: String::new(),
        },
        Err(error) => Guest { reason: format!("{:#}", anyhow::Error::from(error)), ..Guest::default() },
    };
    let kind = match kind {
        host::KvmKind::Hardware(Vendor::Intel) => KvmKind::Intel,
        host::KvmKind::Hardware(Vendor::Amd) => KvmKind::Amd,
        host::KvmKind::Hardware(Vendor::Other) => KvmKind::Hardware,
        host::KvmKind::Pvm => KvmKind::Pvm,
    };
    Machines { kvm: Kvm { kind, reason }, guest }
}
