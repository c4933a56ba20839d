//! What both isolation backends share: the OCI contract, lifecycle, state store, hooks and timeline.
//!
//! A backend implements [`Backend`] and [`Workload`]; everything above it (both command lines, the engine, the
//! monitor) speaks to those two traits through [`runtime`] and never asks which backend it is talking to.

pub mod backend;
pub mod bundle;
pub mod capability;
pub mod error;
pub mod failure;
pub mod hooks;
pub mod lifecycle;
pub mod process;
pub mod runtime;
pub mod signal;
pub mod state;
pub mod stats;
pub mod timeline;

pub use backend::{
    Backend, BeginRequest, Begun, CreateRequest, ExecProcess, ExecRequest, ExitStatus, Isolation, Kernel,
    Keyring, KillScope, Link, LinkForm, Needs, Rootfs, RootfsForm, Stdio, Workload,
};
pub use bundle::Bundle;
pub use error::{Error, ExecFailure, Result};
pub use lifecycle::Status;
pub use signal::Signal;
pub use state::{Record, Store};
pub use timeline::{Phase, Timeline};
