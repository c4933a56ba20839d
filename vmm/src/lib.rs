//! Isolation backend: a minimal KVM microVM.
//!
//! [`builder`] is the boot recipe; everything it puts together is in a module of the same name as the thing.

pub mod arch;
pub mod artifacts;
pub mod backend;
pub mod builder;
pub mod config;
pub mod devices;
pub mod error;
pub mod event_loop;
pub mod events;
#[cfg(any(test, feature = "testing"))]
#[allow(clippy::unwrap_used, reason = "a test fails by panicking")]
pub mod fuzzing;
pub mod host;
pub mod hull;
pub mod initramfs;
pub mod jail;
pub mod kernel;
pub mod memory;
pub mod process;
pub mod template;
pub mod vcpu;
pub mod virtio;
pub mod vm;

pub use backend::VmBackend;
pub use builder::build;
pub use config::{Console, HugePages, Image, Processors, Protocol, VmConfig};
pub use error::{Error, Result};
pub use events::{End, Events, Marker};
pub use host::{Host, KvmKind, Offer, Vendor};
pub use vcpu::ExitCounts;
pub use virtio::block::Access;
pub use vm::{Microvm, ThreadKind};
