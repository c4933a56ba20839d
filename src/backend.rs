//! The only place that knows both backends.

use std::path::Path;

use rkvm_oci::{Backend, Bundle, Error, Isolation, Result};
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
