//! The engine: container records and their truth, OCI configuration from image and flags, volumes, operations.
//!
//! Everything that `rkvm` knows of a container is in two files of `lib/containers/ID/`: what was asked for
//! ([`record::ContainerRecord`]) and what became of it ([`state::ContainerState`]). [`Engine`] reads them, compares them with the
//! processes that really are there, and repairs what a killed monitor or a reboot left behind.

pub mod agent;
pub mod client;
pub mod copy;
pub mod diff;
pub mod engine;
pub mod error;
pub mod format;
pub mod host;
pub mod ids;
pub mod layers;
pub mod liveness;
pub mod log;
pub mod names;
pub mod namespaces;
pub mod network;
pub mod options;
pub mod paths;
pub mod protocol;
pub mod record;
pub mod rootfs;
pub mod seccomp;
pub mod spec;
pub mod state;
pub mod stdio;
pub mod stop;
pub mod store;
mod sys;
pub mod usage;
pub mod view;
pub mod volume;

pub use engine::{BackendFn, Engine};
pub use error::{Error, Result};
pub use paths::Paths;
pub use record::ContainerRecord;
pub use state::{ContainerState, ContainerStatus};
pub use store::{Container, Locked};
