//! Values of command line flags, with Docker's grammars.

mod kernel;
mod limits;
mod mounts;
mod process;
mod security;

pub use kernel::check_kernel;
pub use limits::{cpus, cpuset, log_options, memory, size, swap, ulimit};
pub use mounts::{check_targets, mount, tmpfs, volume};
pub use process::{env, env_file, labels, restart, sysctl};
pub use security::{device, namespace_mode, network_mode, security_option};

use crate::error::Error;

fn invalid(what: &'static str, value: &str, reason: impl Into<String>) -> Error {
    Error::Invalid { what, value: value.to_owned(), reason: reason.into() }
}

#[cfg(test)]
mod tests;
