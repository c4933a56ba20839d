//! What a microVM is made of.

use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::virtio::block::Access;

/// Smallest guest memory that boots our kernel and initramfs, MiB.
pub const MIN_MEMORY_MIB: u32 = 32;
/// Largest guest memory, MiB: 1 TiB.
pub const MAX_MEMORY_MIB: u32 = 1 << 20;
/// Most vCPUs: what one MP table page and 8-bit APIC ids hold with room to spare.
pub const MAX_VCPUS: u8 = 64;

/// A disk of the guest.
#[derive(Debug, Clone)]
pub struct Disk {
    /// Raw image file or block device.
    pub path: PathBuf,
    /// Whether the guest may write to it.
    pub access: Access,
}

/// A microVM to be built.
#[derive(Debug, Clone)]
pub struct VmConfig {
    /// Uncompressed x86-64 ELF kernel.
    pub kernel: PathBuf,
    /// Initramfs, uncompressed or in any compression that the kernel has.
    pub initrd: Option<PathBuf>,
    /// Kernel command line; device entries are appended.
    pub cmdline: String,
    /// Virtual processors, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Disks, in the order of their names in the guest (`vda`, `vdb`, ...).
    pub disks: Vec<Disk>,
    /// Where the host's side of the guest's sockets listens; see [`crate::virtio::vsock`].
    pub vsock: Option<PathBuf>,
    /// Guest memory, MiB, [`MIN_MEMORY_MIB`] to [`MAX_MEMORY_MIB`]; taken from the host only as the guest touches it.
    pub memory_mib: u32,
}

impl VmConfig {
    /// Checks the ranges.
    ///
    /// # Errors
    /// [`Error::Config`] names the setting and what is possible.
    pub fn validate(&self) -> Result<()> {
        if !(1..=MAX_VCPUS).contains(&self.vcpus) {
            return Err(Error::Config {
                setting: "vcpus",
                value: self.vcpus.into(),
                wanted: "1 to 64 are possible",
            });
        }
        if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&self.memory_mib) {
            return Err(Error::Config {
                setting: "memory (MiB)",
                value: self.memory_mib.into(),
                wanted: "32 MiB to 1 TiB are possible",
            });
        }
        Ok(())
    }
}
