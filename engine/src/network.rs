//! From the record to the network crate's words and back.

use std::fs;
use std::net::IpAddr;
use std::os::fd::OwnedFd;
use std::path::Path;

use rkvm_net::files::{self, Dns, HostEntry, HostLoopback};
use rkvm_net::{HostPorts, Lease, Network};
use rkvm_oci::Link;

use crate::error::{Error, Result};
use crate::paths::ContainerPaths;
use crate::record::{ContainerRecord, NetworkConfig, NetworkMode, PortMapping, Protocol};
use crate::spec;
use crate::state::NetworkState;

impl From<rkvm_net::Protocol> for Protocol {
    fn from(protocol: rkvm_net::Protocol) -> Self {
        match protocol {
            rkvm_net::Protocol::Tcp => Self::Tcp,
            rkvm_net::Protocol::Udp => Self::Udp,
        }
    }
}

/// What is known of a requested port before the start.
pub fn port_mapping(requested: &rkvm_net::PortMapping) -> PortMapping {
    PortMapping {
        host_ip: (!requested.host_ip.is_unspecified()).then_some(requested.host_ip.into()),
        host_port: match requested.host {
            HostPorts::One(port) => port,
            HostPorts::Any | HostPorts::FirstFree(_) => 0,
        },
        container_port: requested.container,
        protocol: requested.protocol.into(),
    }
}

/// All ports to publish: those of `-p`, and with `-P` the exposed ones that `-p` does not name.
///
/// # Errors
/// An exposed port of the image is no port.
pub fn requested_ports(config: &NetworkConfig) -> Result<Vec<rkvm_net::PortMapping>> {
    let mut ports = config.requested.clone();
    if config.publish_all {
        for exposed in &config.exposed {
            for port in rkvm_net::PortMapping::parse_exposed(exposed)? {
                let same = |other: &rkvm_net::PortMapping| {
                    other.container == port.container && other.protocol == port.protocol
                };
                if !ports.iter().any(same) {
                    ports.push(port);
                }
            }
        }
    }
    Ok(ports)
}

/// A lease as the state records it.
pub fn state(lease: &Lease, lib_dir: &Path) -> NetworkState {
    NetworkState {
        ip: lease.address.to_string(),
        prefix_len: lease.prefix,
        gateway: lease.gateway.to_string(),
        mac: lease.mac.map(|byte| format!("{byte:02x}")).join(":"),
        bridge: Network::open(lib_dir).name().to_owned(),
        ports: lease
            .ports
            .iter()
            .map(|port| PortMapping {
                host_ip: (!port.host_ip.is_unspecified()).then_some(port.host_ip.into()),
                host_port: port.host_port,
                container_port: port.container_port,
                protocol: port.protocol.into(),
            })
            .collect(),
    }
}

/// Largest packet on the bridge, bytes.
const MTU: u16 = 1500;

/// The link of a microVM with this lease over `tap`.
pub fn link(lease: &Lease, tap: OwnedFd) -> Link {
    Link {
        tap,
        vnet_header_bytes: rkvm_net::VNET_HEADER_BYTES,
        mac: lease.mac,
        name: "eth0".to_owned(),
        address: lease.address,
        prefix: lease.prefix,
        gateway: Some(lease.gateway),
        mtu: MTU,
    }
}

/// Writes the files that are bound to /etc/hostname, /etc/hosts and /etc/resolv.conf.
///
/// # Errors
/// An `--add-host` cannot be read, or a file cannot be written.
pub fn write_files(
    record: &ContainerRecord,
    files: &ContainerPaths,
    own: Option<IpAddr>,
    gateway: Option<IpAddr>,
) -> Result<()> {
    let config = &record.network;
    let hostname = spec::hostname(record);
    let loopback = IpAddr::from([127, 0, 0, 1]);
    let entries = config
        .extra_hosts
        .iter()
        .map(|(name, address)| HostEntry::parse(&format!("{name}={address}"), gateway.unwrap_or(loopback)))
        .collect::<Result<Vec<_>, _>>()?;
    let domain = Some(record.process.domainname.as_str()).filter(|domain| !domain.is_empty());
    let own: Vec<IpAddr> = own.into_iter().collect();
    let host_network = config.mode == NetworkMode::Host;
    let mut hosts = files::hosts(&own, hostname, domain, &entries);
    if host_network && let Ok(text) = fs::read_to_string("/etc/hosts") {
        // In the host's network the host's names are true.
        hosts =
            entries.iter().fold(text, |text, entry| text + &format!("{}\t{}\n", entry.address, entry.name));
    }
    let dns = Dns {
        servers: config.dns.clone(),
        search: config.dns_search.clone(),
        options: config.dns_options.clone(),
    };
    let reach = if host_network { HostLoopback::Shared } else { HostLoopback::Separate };
    let resolv_conf = files::resolv_conf(&files::host_resolv_conf(), &dns, reach);
    for (path, text) in [
        (files.hostname(), files::hostname(hostname)),
        (files.hosts(), hosts),
        (files.resolv_conf(), resolv_conf),
    ] {
        fs::write(&path, text).map_err(|source| Error::file("write", path, source))?;
    }
    Ok(())
}
