//! What a machine's process is given when it is started: a document, and descriptors with the numbers that are in it.

use std::path::PathBuf;

use rkvm_guest_protocol::GuestSetup;
use serde::{Deserialize, Serialize};

/// Descriptor of the document itself.
pub const PLAN_FD: i32 = 3;
/// Descriptor of the conversation with the creator.
pub const CHANNEL_FD: i32 = 4;
/// The descriptors behind it are the plan's, in any order.
pub const FIRST_FD: i32 = 5;

/// A machine to be run.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// The container's id.
    pub id: String,
    /// `/dev/kvm`, open.
    pub kvm: i32,
    /// `/dev/urandom`, open.
    pub entropy: i32,
    /// The kernel.
    pub kernel: NamedFile,
    /// The initramfs.
    pub initrd: NamedFile,
    /// Words for the kernel's command line, behind our own.
    pub cmdline: String,
    /// Virtual processors.
    pub vcpus: u8,
    /// Guest memory, MiB.
    pub memory_mib: u32,
    /// Read-only erofs image of the root filesystem.
    pub image: Option<NamedFile>,
    /// Disks behind it.
    pub disks: Vec<PlannedDisk>,
    /// The host's end of the console `hvc0`.
    pub console: Option<i32>,
    /// The network link.
    pub tap: Option<Tap>,
    /// Tag of the device that shares the jail's root; `None` when nothing is in it.
    pub share: Option<String>,
    /// `/proc/self/fd` of the machine's process, for the file server.
    pub proc_self_fd: i32,
    /// Listening socket behind which the guest's sockets are.
    pub vsock: i32,
    /// Listening socket for commands.
    pub control: i32,
    /// File for the number of processes that the guest has killed for want of memory.
    pub oom_kills: i32,
    /// Whether the streams 0, 1 and 2 are the slave of a terminal that stands for the guest's.
    pub terminal: bool,
    /// Whether the program is executed as soon as it can be; where that is not known to have been done when the machine is ready, the creator
    /// asks for it all the same, to hear how it went.
    pub at_once: bool,
    /// Milliseconds that the guest has to become ready.
    pub boot_timeout_ms: u64,
    /// Whether it boots.
    pub template: PlannedTemplate,
    /// What the guest is told.
    pub setup: GuestSetup,
}

/// What a machine has to do with a template.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedTemplate {
    /// Nothing.
    None,
    /// It can become one.
    Record,
    /// It begins with one.
    Use {
        /// Descriptor of its file.
        fd: i32,
        /// What it must be a template for.
        key: String,
    },
}

/// An open file with the name that errors call it by.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedFile {
    /// Its descriptor.
    pub fd: i32,
    /// Its path on the host.
    pub path: PathBuf,
}

/// A block device of the host that is a disk of the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedDisk {
    /// The device.
    pub file: NamedFile,
    /// The serial number that the guest sees.
    pub serial: String,
    /// Whether it is open for writing.
    pub writable: bool,
}

/// A tap device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tap {
    /// Its descriptor.
    pub fd: i32,
    /// The hardware address inside.
    pub mac: [u8; 6],
}
