//! Isolation backend: a minimal KVM microVM.
//!
//! [`builder`] is the boot recipe; everything it puts together is in a module of the same name as the thing.

pub mod arch;
pub mod builder;
pub mod config;
pub mod devices;
pub mod error;
pub mod event_loop;
pub mod host;
pub mod memory;
pub mod vcpu;
pub mod virtio;
pub mod vm;

pub use builder::build;
pub use config::{Disk, VmConfig};
pub use error::{Error, Result};
pub use host::{Host, KvmKind};
pub use virtio::block::Access;
pub use vm::{End, Microvm};
