//! Ports of a container as `ps` and `port` show them.

use std::collections::{BTreeMap, BTreeSet};

use crate::record::{PortMapping, Protocol};
use crate::store::Container;

/// Ports that are published now; nothing while the container does not run.
pub fn published(container: &Container) -> &[PortMapping] {
    container.state.network.as_ref().map(|network| network.ports.as_slice()).unwrap_or_default()
}

/// Exposed ports as numbers, `80/tcp` and ranges such as `80-82/udp` alike; what is no port is left out.
pub fn exposed(container: &Container) -> BTreeSet<(u16, Protocol)> {
    container.record.network.exposed.iter().filter_map(|text| exposed_range(text)).flatten().collect()
}

fn exposed_range(text: &str) -> Option<impl Iterator<Item = (u16, Protocol)> + use<>> {
    let (numbers, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let protocol = match protocol {
        "tcp" => Protocol::Tcp,
        "udp" => Protocol::Udp,
        _ => return None,
    };
    let (first, last) = numbers.split_once('-').unwrap_or((numbers, numbers));
    Some((first.parse::<u16>().ok()?..=last.parse().ok()?).map(move |port| (port, protocol)))
}

/// Where a published port listens, `0.0.0.0` for every address.
pub fn host_ip(mapping: &PortMapping) -> String {
    mapping.host_ip.map_or_else(|| "0.0.0.0".to_owned(), |ip| ip.to_string())
}

/// `ADDRESS:PORT`, with brackets around an IPv6 address.
pub fn host_socket(mapping: &PortMapping) -> String {
    match mapping.host_ip {
        Some(ip) => std::net::SocketAddr::new(ip, mapping.host_port).to_string(),
        None => format!("0.0.0.0:{}", mapping.host_port),
    }
}

/// `0.0.0.0:8080->80/tcp, 443/tcp`: neighbouring ports are joined to ranges where Docker does so.
pub fn phrase(container: &Container) -> String {
    if !container.state.status.has_processes() {
        return String::new();
    }
    let mut mapped: Vec<&PortMapping> = published(container).iter().collect();
    mapped.sort_by_key(|mapping| (mapping.container_port, mapping.host_ip, mapping.host_port));
    let is_published = |port: &(u16, Protocol)| {
        mapped.iter().any(|mapping| (mapping.container_port, mapping.protocol) == *port)
    };
    // One set of ports for each way of being reachable; those that keep their number can be joined to ranges.
    let mut groups: BTreeMap<(String, Protocol), Vec<u16>> = BTreeMap::new();
    let mut single = vec![];
    for (port, protocol) in exposed(container).into_iter().filter(|port| !is_published(port)) {
        groups.entry((String::new(), protocol)).or_default().push(port);
    }
    for mapping in &mapped {
        let PortMapping { host_port, container_port, protocol, .. } = **mapping;
        if host_port == container_port {
            groups.entry((bracketed(mapping), protocol)).or_default().push(container_port);
        } else {
            single.push(format!("{}->{container_port}/{protocol}", host_socket(mapping)));
        }
    }
    let mut parts = vec![];
    for ((address, protocol), ports) in &groups {
        for range in ranges(ports) {
            parts.push(match address.as_str() {
                "" => format!("{range}/{protocol}"),
                address => format!("{address}:{range}->{range}/{protocol}"),
            });
        }
    }
    parts.append(&mut single);
    parts.join(", ")
}

fn bracketed(mapping: &PortMapping) -> String {
    let ip = host_ip(mapping);
    if ip.contains(':') { format!("[{ip}]") } else { ip }
}

/// Sorted ports as `80`, `80-82`.
fn ranges(ports: &[u16]) -> Vec<String> {
    let mut found: Vec<(u16, u16)> = vec![];
    for port in ports {
        match found.last_mut() {
            Some((_, last)) if last.checked_add(1) == Some(*port) => *last = *port,
            Some((_, last)) if *last == *port => {}
            _ => found.push((*port, *port)),
        }
    }
    let text = |(first, last): (u16, u16)| {
        if first == last { first.to_string() } else { format!("{first}-{last}") }
    };
    found.into_iter().map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::super::ps::tests::container;
    use super::*;
    use crate::state::{ContainerStatus, NetworkState};

    fn with(ports: &[(Option<&str>, u16, u16, Protocol)], exposed: &[&str]) -> Container {
        let mut container = container("web");
        container.state.status = ContainerStatus::Running;
        container.record.network.exposed = exposed.iter().map(|text| (*text).to_owned()).collect();
        let mapping =
            |(ip, host_port, container_port, protocol): &(Option<&str>, u16, u16, Protocol)| PortMapping {
                host_ip: ip.map(|ip| ip.parse().unwrap()),
                host_port: *host_port,
                container_port: *container_port,
                protocol: *protocol,
            };
        let ports = ports.iter().map(mapping).collect();
        container.state.network = Some(NetworkState { ports, ..NetworkState::default() });
        container
    }

    #[test]
    fn ports_read_as_dockers() {
        use Protocol::{Tcp, Udp};
        for (ports, exposed, text) in [
            (&[(None, 8080, 80, Tcp)][..], &["80/tcp", "443/tcp"][..], "443/tcp, 0.0.0.0:8080->80/tcp"),
            (&[(Some("127.0.0.1"), 53, 53, Udp)], &[], "127.0.0.1:53->53/udp"),
            (&[(Some("::1"), 80, 80, Tcp)], &[], "[::1]:80->80/tcp"),
            (&[(Some("::1"), 81, 80, Tcp)], &[], "[::1]:81->80/tcp"),
            (
                &[(None, 82, 82, Tcp), (None, 80, 80, Tcp), (None, 81, 81, Tcp)],
                &[],
                "0.0.0.0:80-82->80-82/tcp",
            ),
            (&[], &["1-3/tcp", "9/udp", "5/tcp", "junk"], "1-3/tcp, 5/tcp, 9/udp"),
            (&[], &[], ""),
        ] {
            assert_eq!(phrase(&with(ports, exposed)), text);
        }
    }

    #[test]
    fn a_container_that_does_not_run_shows_none() {
        let mut stopped = with(&[(None, 80, 80, Protocol::Tcp)], &["81/tcp"]);
        stopped.state.status = ContainerStatus::Exited;
        assert_eq!(phrase(&stopped), "");
    }
}
