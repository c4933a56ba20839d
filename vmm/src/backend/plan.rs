//! What a machine's process is told: an outline when it is started, with which it makes the machine as far as it can, and a plan of the rest
//! as soon as there is one.

use std::path::PathBuf;

use oci_spec::runtime::Hooks;
use rkvm_guest_protocol::{GuestSetup, Link};
use serde::{Deserialize, Serialize};

/// Descriptor of the outline.
pub const OUTLINE_FD: i32 = 3;
/// Descriptor of the conversation with the creator.
pub const CHANNEL_FD: i32 = 4;
/// The descriptors behind it are the outline's, in any order.
pub const FIRST_FD: i32 = 5;

/// A machine before its root filesystem and its network are there. Descriptors are numbers of the process.
#[derive(Debug, Serialize, Deserialize)]
pub struct Outline {
    /// `/dev/kvm`, open.
    pub kvm: i32,
    /// Virtual processors.
    pub vcpus: u8,
    /// Guest memory, MiB.
    pub memory_mib: u32,
    /// Devices, the expected link among them.
    pub devices: usize,
    /// Whether it boots.
    pub template: PlannedTemplate,
    /// The link of a network namespace that was joined.
    pub found: Option<FoundLink>,
}

/// The link of the network namespace that the process is in, which the guest takes over.
#[derive(Debug, Serialize, Deserialize)]
pub struct FoundLink {
    /// As the guest is told of it.
    pub link: Link,
    /// The tap in its place.
    pub tap: Tap,
}

/// The rest. Descriptors are indexes into those that come with it, where the plan itself is the first.
#[derive(Debug, Serialize, Deserialize)]
pub struct Plan {
    /// `/dev/urandom`, open.
    pub entropy: i32,
    /// The kernel.
    pub kernel: NamedFile,
    /// The initramfs.
    pub initrd: NamedFile,
    /// Words for the kernel's command line, behind our own.
    pub cmdline: String,
    /// Read-only erofs image of the root filesystem.
    pub image: Option<NamedFile>,
    /// Disks behind it.
    pub disks: Vec<PlannedDisk>,
    /// The host's end of the console `hvc0`.
    pub console: Option<i32>,
    /// The network link that the creator has made.
    pub tap: Option<Tap>,
    /// Whether there may be a link in the new network namespace once the hooks have run.
    pub connected_by_hooks: bool,
    /// What is shared with the guest.
    pub shares: Vec<PlannedShare>,
    /// Listening socket behind which the guest's sockets are.
    pub vsock: i32,
    /// Listening socket for commands.
    pub control: i32,
    /// File for the number of processes that the guest has killed for want of memory.
    pub oom_kills: i32,
    /// The container's streams.
    pub streams: PlannedStreams,
    /// Whether the program is executed as soon as it can be; where that is not known to have been done when the machine is ready, the creator
    /// asks for it all the same, to hear how it went.
    pub at_once: bool,
    /// Milliseconds that the guest has to become ready.
    pub boot_timeout_ms: u64,
    /// Hooks of the configuration.
    pub hooks: Option<Hooks>,
    /// The state that hooks are told; the process id is filled in.
    pub state: serde_json::Value,
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

/// Where the process's streams 0, 1 and 2 come from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum PlannedStreams {
    /// They are what they were.
    Inherited,
    /// These descriptors.
    Given([i32; 3]),
    /// All three are this slave of a terminal, which stands for the guest's.
    Terminal(i32),
}

/// A folder or file that is shared with the guest.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlannedShare {
    /// Its name in the share.
    pub name: String,
    /// A mount of it that is not attached yet.
    pub tree: i32,
    /// Where hooks look for it.
    pub place: Option<PathBuf>,
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
