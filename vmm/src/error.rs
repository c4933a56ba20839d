//! What can go wrong with a microVM.

use std::path::PathBuf;

/// Result of any operation in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong, on what, and what to do next.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The KVM device cannot be opened.
    #[error("cannot open {path}: {hint}")]
    OpenKvm {
        /// The device.
        path: PathBuf,
        /// What to do.
        hint: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// KVM lacks something that every host since Linux 4.x has.
    #[error("this host's KVM lacks {capability}; a newer host kernel is needed")]
    MissingCapability {
        /// Name of the KVM capability.
        capability: &'static str,
    },
    /// Not the KVM interface that this program speaks.
    #[error(
        "{path} speaks version {version} of the KVM interface; version {wanted} is needed (Linux 2.6.22 or newer)"
    )]
    KvmVersion {
        /// The device.
        path: PathBuf,
        /// Its version.
        version: i32,
        /// Ours.
        wanted: i32,
    },
    /// The processor lacks something that guests need.
    #[error("this host's processor, as KVM offers it, has no {feature}; guests need it")]
    MissingFeature {
        /// The feature's usual name.
        feature: &'static str,
    },
    /// A KVM call failed.
    #[error("KVM refused to {action}")]
    Kvm {
        /// What was asked of it.
        action: &'static str,
        /// Why.
        #[source]
        source: kvm_ioctls::Error,
    },
    /// A file cannot be read.
    #[error("cannot read {path}")]
    Read {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A kernel has no driver that its machine needs.
    #[error(
        "the kernel of {folder} has no module {name}, and it is not built in; take another kernel, or install the package with its modules"
    )]
    MissingModule {
        /// Name of the module.
        name: String,
        /// Folder of the kernel's modules.
        folder: PathBuf,
    },
    /// A disk image cannot be used.
    #[error("cannot use {path} as a disk")]
    OpenDisk {
        /// The file or block device.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A tap cannot be used.
    #[error(
        "cannot use {name} as a tap; the module tun and CAP_NET_ADMIN in its network namespace are needed"
    )]
    OpenTap {
        /// The interface.
        name: String,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A Unix socket cannot be made.
    #[error("cannot listen at {path}")]
    Listen {
        /// The socket's path.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// Not a kernel image that can be booted.
    #[error(
        "{path} is not a kernel that can be booted here: {reason}; an x86-64 ELF vmlinux or bzImage is needed"
    )]
    NotAKernel {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// A kernel image is damaged.
    #[error("{path} cannot be loaded as a kernel; is the file complete?")]
    LoadKernel {
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: linux_loader::loader::Error,
    },
    /// The kernel wants hardware virtualization.
    #[error(
        "{path}{} needs hardware virtualization, and this host's KVM has none (PVM): take rkvm's own kernel for such hosts \
         (guest/kernel/build.sh --variant pvm), an ELF file", version.as_ref().map(|version| format!(" (Linux {version})")).unwrap_or_default()
    )]
    KernelForHardware {
        /// The file.
        path: PathBuf,
        /// The kernel's version.
        version: Option<String>,
    },
    /// The kernel is built for PVM hosts.
    #[error(
        "{path} is built for hosts without hardware virtualization (PVM) and this host has it: take the plain kernel \
         (guest/kernel/build.sh --variant plain)"
    )]
    KernelForPvm {
        /// The file.
        path: PathBuf,
    },
    /// Kernel, initramfs and boot data do not fit in the guest's memory.
    #[error(
        "{what} ({bytes} bytes) does not fit in {memory_mib} MiB of guest memory; give more with --memory"
    )]
    DoesNotFit {
        /// What was being placed.
        what: &'static str,
        /// Its size.
        bytes: u64,
        /// The guest's memory.
        memory_mib: u32,
    },
    /// The guest's memory cannot be had from the host.
    #[error("cannot map {memory_mib} MiB of guest memory")]
    MapMemory {
        /// Its size.
        memory_mib: u32,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// Boot data cannot be written to guest memory.
    #[error("cannot write {what} to guest memory")]
    WriteMemory {
        /// What was being written.
        what: &'static str,
        /// Why.
        #[source]
        source: vm_memory::GuestMemoryError,
    },
    /// The kernel command line is too long.
    #[error("the kernel command line has {bytes} bytes; at most {limit} are possible")]
    CommandLine {
        /// Its length.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// A thread or an event descriptor cannot be made.
    #[error("cannot {action}")]
    Os {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The device thread's event loop cannot be made.
    #[error("cannot make the event loop of the devices: {reason}")]
    EventLoop {
        /// What the event library says.
        reason: String,
    },
    /// vCPUs do not leave the guest.
    #[error("the guest's processors did not stop within {seconds} seconds; is the host overloaded?")]
    Pause {
        /// How long was waited.
        seconds: u64,
    },
    /// More devices than interrupt lines.
    #[error("{count} devices are more than the {limit} that a machine has interrupt lines for")]
    TooManyDevices {
        /// How many were asked for.
        count: usize,
        /// How many there can be.
        limit: usize,
    },
    /// A setting is out of range.
    #[error("{setting} is {value}: {wanted}")]
    Config {
        /// The setting.
        setting: &'static str,
        /// What was given.
        value: u64,
        /// What is possible.
        wanted: &'static str,
    },
}

impl Error {
    /// For `map_err` on a KVM call.
    pub(crate) fn kvm(action: &'static str) -> impl FnOnce(kvm_ioctls::Error) -> Self {
        move |source| Self::Kvm { action, source }
    }

    /// For `map_err` on a write to guest memory.
    pub(crate) fn write(what: &'static str) -> impl FnOnce(vm_memory::GuestMemoryError) -> Self {
        move |source| Self::WriteMemory { what, source }
    }

    /// For `map_err` on a call of the operating system.
    pub(crate) fn os(action: &'static str) -> impl FnOnce(std::io::Error) -> Self {
        move |source| Self::Os { action, source }
    }
}
