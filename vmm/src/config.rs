//! What a microVM is made of.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::template::Template;
use crate::virtio::VirtioDevice;

/// Smallest guest memory that boots our kernel and initramfs, MiB.
pub const MIN_MEMORY_MIB: u32 = 32;
/// Largest guest memory, MiB: 1 TiB.
pub const MAX_MEMORY_MIB: u32 = 1 << 20;
/// Most vCPUs: what one MP table page and 8-bit APIC ids hold with room to spare.
pub const MAX_VCPUS: u8 = 64;

/// An open file that is loaded into the guest. Open, because the VMM may be in a jail where no path leads to it.
#[derive(Debug)]
pub struct Image {
    /// What errors call it.
    pub name: PathBuf,
    /// The file, readable; its position does not matter.
    pub file: File,
}

impl Image {
    /// Opens `path`.
    ///
    /// # Errors
    /// It cannot be opened.
    pub fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(|source| Error::Read { path: path.into(), source })?;
        Ok(Self { name: path.into(), file })
    }
}

/// How guest memory is backed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum HugePages {
    /// With transparent huge pages where the host has some: fewer page faults, memory taken 2 MiB at a time.
    #[default]
    Transparent,
    /// With small pages only: memory taken 4 KiB at a time.
    Never,
}

/// What the guest's first serial port is for.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Console {
    /// Only what the kernel says before it dies: costs nothing in a boot.
    #[default]
    Emergency,
    /// The kernel's whole log and `/dev/console`; each character costs an exit or two.
    Full,
    /// Nothing is added to the command line.
    Unset,
}

/// How the kernel is entered.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Protocol {
    /// Linux by its 64-bit entry; an ELF kernel that is not Linux by its PVH entry, if it has one.
    #[default]
    Detect,
    /// Linux's 64-bit entry (Documentation/arch/x86/boot.rst).
    Linux,
    /// The PVH entry of an ELF kernel (xen.git, docs/misc/pvh.pandoc).
    Pvh,
}

/// When the processors beside the first start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Processors {
    /// The kernel starts them before PID 1.
    #[default]
    AtBoot,
    /// PID 1 starts them (it writes 1 to `/sys/devices/system/cpu/cpuN/online`) beside its other work: the kernel boots as fast as with
    /// one processor, and nothing in it waits for a second one that the host has not scheduled.
    ByInit,
}

/// A microVM to be built.
pub struct VmConfig {
    /// x86-64 kernel: an ELF vmlinux or a bzImage.
    pub kernel: Image,
    /// Initramfs, uncompressed or in any compression that the kernel has.
    pub initrd: Option<Image>,
    /// Kernel command line, put behind what the machine itself needs, so that it wins.
    pub cmdline: String,
    /// How the kernel is entered.
    pub protocol: Protocol,
    /// Virtual processors, 1 to [`MAX_VCPUS`].
    pub vcpus: u8,
    /// Who starts those beside the first.
    pub processors: Processors,
    /// Guest memory, MiB, [`MIN_MEMORY_MIB`] to [`MAX_MEMORY_MIB`]; taken from the host only as the guest touches it.
    pub memory_mib: u32,
    /// How it is backed.
    pub huge_pages: HugePages,
    /// What the serial port is for.
    pub console: Console,
    /// Where the serial port's output goes, besides the tail that is kept.
    pub console_output: Option<Box<dyn Write + Send>>,
    /// virtio devices, in the order of their windows: the order in which the guest finds them (`vda`, `vdb`, ...).
    pub devices: Vec<Box<dyn VirtioDevice>>,
    /// Where it begins, or what is made of it.
    pub template: Template,
}

impl std::fmt::Debug for VmConfig {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("VmConfig")
            .field("kernel", &self.kernel)
            .field("initrd", &self.initrd)
            .field("cmdline", &self.cmdline)
            .field("vcpus", &self.vcpus)
            .field("memory_mib", &self.memory_mib)
            .field("devices", &self.devices.iter().map(|device| device.device_type()).collect::<Vec<_>>())
            .finish_non_exhaustive()
    }
}

impl VmConfig {
    /// A machine with `kernel`, one vCPU, 256 MiB, and nothing else.
    pub fn new(kernel: Image) -> Self {
        Self {
            kernel,
            initrd: None,
            cmdline: String::new(),
            protocol: Protocol::default(),
            vcpus: 1,
            processors: Processors::default(),
            memory_mib: 256,
            huge_pages: HugePages::default(),
            console: Console::default(),
            console_output: None,
            devices: Vec::new(),
            template: Template::default(),
        }
    }

    /// Adds a virtio device behind those that are there.
    pub fn attach(&mut self, device: impl VirtioDevice + 'static) {
        self.devices.push(Box::new(device));
    }
}

/// Checks the ranges of a machine's size.
///
/// # Errors
/// [`Error::Config`] names the setting and what is possible.
pub(crate) fn check_size(vcpus: u8, memory_mib: u32) -> Result<()> {
    if !(1..=MAX_VCPUS).contains(&vcpus) {
        return Err(Error::Config { setting: "vcpus", value: vcpus.into(), wanted: "1 to 64 are possible" });
    }
    if !(MIN_MEMORY_MIB..=MAX_MEMORY_MIB).contains(&memory_mib) {
        return Err(Error::Config {
            setting: "memory (MiB)",
            value: memory_mib.into(),
            wanted: "32 MiB to 1 TiB are possible",
        });
    }
    Ok(())
}
