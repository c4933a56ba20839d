//! What went wrong in the network, on what, and what to do next.

use std::fmt;
use std::io;
use std::net::Ipv4Addr;
use std::path::PathBuf;

use crate::port::Protocol;

/// Result of any operation in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The value of `-p`/`--publish` cannot be read.
    #[error("cannot publish {value:?}: {reason}; write it as [[IP:]HOST-PORT:]CONTAINER-PORT[/tcp|/udp]")]
    InvalidPort {
        /// What the user wrote.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The value of `--add-host` cannot be read.
    #[error("cannot add host {value:?}: {reason}; write it as NAME:ADDRESS or NAME:host-gateway")]
    InvalidHost {
        /// What the user wrote.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// Somebody has the host port.
    #[error(
        "host port {port}/{protocol} on {address} is used by {holder}; stop it, or publish another host port"
    )]
    PortTaken {
        /// The host's address it was to be published on; 0.0.0.0 for all.
        address: Ipv4Addr,
        /// The port.
        port: u16,
        /// tcp or udp.
        protocol: Protocol,
        /// Who has it.
        holder: Holder,
    },
    /// A microVM takes over one link, and the namespace has more.
    #[error("the network namespace has several links ({names}); a microVM takes over one only")]
    ManyLinks {
        /// Their names.
        names: String,
    },
    /// None of a range of host ports is free.
    #[error("no host port from {first} to {last} is free for {protocol}; publish a wider range")]
    RangeTaken {
        /// First port of the range.
        first: u16,
        /// Last port of the range.
        last: u16,
        /// tcp or udp.
        protocol: Protocol,
    },
    /// A port cannot be taken for another reason than that it is in use.
    #[error("cannot take host port {port}/{protocol} on {address}{}", bind_hint(.source))]
    Bind {
        /// The host's address it was to be published on.
        address: Ipv4Addr,
        /// The port.
        port: u16,
        /// tcp or udp.
        protocol: Protocol,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The network has no address left.
    #[error("network {subnet} has no free address; remove containers that are not needed")]
    NoAddress {
        /// The network's subnet.
        subnet: crate::Subnet,
    },
    /// Every subnet that the engine may take overlaps with an address or route of the host.
    #[error("no subnet of {pool} is free on this host: all overlap with its addresses or routes")]
    NoSubnet {
        /// The pool of subnets.
        pool: crate::Subnet,
    },
    /// The network cannot be removed because containers are connected to it.
    #[error("network {name} is in use by {count} container(s); remove them first")]
    InUse {
        /// The bridge's name.
        name: String,
        /// How many.
        count: usize,
    },
    /// The kernel refused a request about links, addresses, routes or rules.
    #[error("cannot {action} {target}{}", reason_suffix(.reason))]
    Netlink {
        /// The verb phrase.
        action: &'static str,
        /// Link, address or table.
        target: String,
        /// The kernel's own words, where it has any.
        reason: Option<String>,
        /// Its error number.
        #[source]
        source: io::Error,
    },
    /// The kernel has no tap devices, or this process may not make one.
    #[error("cannot open {path}, which makes the network cards of microVMs{}", tap_hint(.source))]
    TapDevice {
        /// The device.
        path: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file operation or system call failed.
    #[error("cannot {action} {path}")]
    File {
        /// The verb phrase.
        action: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file of the network's state could not be parsed.
    #[error("{path} is not valid; remove it when no container is running")]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
}

/// Who holds a host port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Holder {
    /// A container of this engine.
    Container {
        /// Its id.
        id: String,
        /// Its name.
        name: String,
    },
    /// A process of the host.
    Process {
        /// Its process id.
        pid: i32,
        /// Its command name.
        command: String,
    },
    /// A socket without a process that can be seen from here.
    Unknown,
}

impl fmt::Display for Holder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Container { id, name } => {
                write!(f, "container {name:?} ({})", id.get(..12).unwrap_or(id))
            }
            Self::Process { pid, command } => write!(f, "process {pid} ({command})"),
            Self::Unknown => f.write_str("a process that cannot be seen from here"),
        }
    }
}

impl Error {
    pub(crate) fn file(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::File { action, path, source }
    }
}

fn reason_suffix(reason: &Option<String>) -> String {
    reason.as_ref().map(|text| format!(" (kernel: {text})")).unwrap_or_default()
}

fn bind_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::AddrNotAvailable => " (the host has no such address; `ip address` shows those it has)",
        io::ErrorKind::PermissionDenied => " (ports below net.ipv4.ip_unprivileged_port_start need root)",
        _ => "",
    }
}

fn tap_hint(source: &io::Error) -> &'static str {
    match source.kind() {
        io::ErrorKind::NotFound => " (`modprobe tun` loads the kernel's module for it)",
        io::ErrorKind::PermissionDenied => " (it needs root)",
        _ => "",
    }
}
