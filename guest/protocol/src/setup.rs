//! What the machine is to become before its process runs.

use std::net::IpAddr;

use oci_spec::runtime::Spec;
use serde::{Deserialize, Serialize};

/// How the machine is to be set up.
///
/// The OCI process lives in a container inside the machine, made by the same code as a container on the host; so `spec` is the
/// configuration of that container. The host has taken out of it what belongs to the host, and rewritten what means something else
/// inside:
/// - `root.path` is ignored, [`GuestSetup::root`] says what the root is;
/// - sources of bind mounts are paths of the guest: `/run/host/N` for entry `N` of the share, with the options of the mount as
///   configured (an idmapping belongs to the host's side);
/// - namespaces without `path`, no user namespace unless it is wanted *inside* the machine, no network namespace (the machine has
///   its own network stack);
/// - `linux.resources` as the process's cgroup inside is to have them (`pids`, `memory`, `cpu`, `devices`, ...); no
///   `linux.cgroupsPath`;
/// - of the hooks, only `startContainer`, whose program is of the container itself.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GuestSetup {
    /// The container's id.
    pub id: String,
    /// The container inside.
    pub spec: Spec,
    /// Its root filesystem.
    pub root: Root,
    /// Tag of the virtio-fs device that is mounted at `/run/host`; `None` when nothing is shared.
    pub share: Option<String>,
    /// Links other than `lo`, which is always up.
    pub links: Vec<Link>,
    /// `spec`'s seccomp profile compiled by the host, which takes milliseconds and has a cache for it.
    pub seccomp: Option<SeccompProgram>,
    /// Disks for the block devices that `spec` lists by the host's numbers, in `linux.devices` and `linux.resources.devices`.
    #[serde(default)]
    pub disks: Vec<Disk>,
    /// What makes a machine that goes on from a template, or has been recorded as one, another machine than the others of it.
    #[serde(default)]
    pub own: Option<Own>,
}

/// What no two machines of a template have in common.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Own {
    /// How far the guest's time of day is behind, ns.
    pub behind: i64,
    /// Fresh random bytes.
    pub seed: Vec<u8>,
}

/// A disk that stands for a block device of the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Disk {
    /// Its serial number, by which the guest finds it.
    pub serial: String,
    /// The host's major number.
    pub major: i64,
    /// The host's minor number.
    pub minor: i64,
}

/// The root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Root {
    /// A folder of the share, with its name there; writes go to the host's folder.
    Shared(String),
    /// A read-only image, and a layer over it that takes the writes.
    Layers {
        /// Block device with an erofs, such as `/dev/vda`.
        image: String,
        /// Where writes go.
        write: WriteLayer,
    },
}

/// Where what is written over a read-only image goes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum WriteLayer {
    /// The guest's memory: gone with the machine.
    Memory,
    /// A folder of the share, with its name there; it holds `upper` and `work`, which are made when they are missing.
    Shared(String),
}

/// A network link.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Link {
    /// Its name: `eth0` is the first network device.
    pub name: String,
    /// Its hardware address, where it is not the device's.
    #[serde(default)]
    pub hardware_address: Option<[u8; 6]>,
    /// Largest packet, bytes; `None` leaves the device's.
    pub mtu: Option<u32>,
    /// Its addresses.
    pub addresses: Vec<Address>,
    /// Routes through it, in order; the network of each address is routed already.
    pub routes: Vec<Route>,
}

/// An address on a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Address {
    /// The address.
    pub address: IpAddr,
    /// Length of its network's prefix, bits.
    pub prefix: u8,
}

/// A route through a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Route {
    /// Network that it leads to; prefix 0 is the default route.
    pub to: Address,
    /// The next router; `None` when the network is on the link itself.
    pub via: Option<IpAddr>,
}

/// A further process: `process` of config.json as `exec` has it.
pub type GuestProcess = oci_spec::runtime::Process;

/// A compiled seccomp filter.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct SeccompProgram {
    /// Instructions: code, jt, jf, k, as in `struct sock_filter`.
    pub instructions: Vec<(u16, u8, u8, u32)>,
}
