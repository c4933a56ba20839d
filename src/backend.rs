//! The only place that knows both backends.

use rkvm_oci::{Backend, Error, Isolation, Result};

/// The backend for `isolation`.
///
/// # Errors
/// [`Error::Unsupported`] for a backend that this build does not have.
pub fn backend(isolation: Isolation) -> Result<Box<dyn Backend>> {
    match isolation {
        Isolation::Container => Ok(Box::new(rkvm_container::ContainerBackend::new())),
        Isolation::Vm => Err(Error::unsupported(
            "--isolation=vm",
            "the microVM backend is not built yet; use --isolation=container",
        )),
    }
}
