//! Who holds a host port: a container by its lease, else the process whose socket it is (proc(5), `/proc/net/tcp`).

use std::fs;
use std::net::{Ipv4Addr, Ipv6Addr};

use crate::error::Holder;
use crate::lease::Lease;
use crate::port::Protocol;

/// `TCP_LISTEN` and `TCP_CLOSE` of net/tcp_states.h: the states of a listening TCP and of an unconnected UDP socket.
const LISTEN: &str = "0A";
const UNCONNECTED: &str = "07";

/// Names whoever keeps `address:port` from being taken.
pub(crate) fn of_port(leases: &[Lease], address: Ipv4Addr, port: u16, protocol: Protocol) -> Holder {
    let overlap = |other: Ipv4Addr| address.is_unspecified() || other.is_unspecified() || address == other;
    let lease = leases.iter().find(|lease| {
        lease
            .ports
            .iter()
            .any(|taken| taken.protocol == protocol && taken.host_port == port && overlap(taken.host_ip))
    });
    if let Some(lease) = lease {
        return Holder::Container { id: lease.container_id.clone(), name: lease.container_name.clone() };
    }
    let inode = ["", "6"].iter().find_map(|suffix| {
        let table = fs::read_to_string(format!("/proc/thread-self/net/{protocol}{suffix}")).ok()?;
        table.lines().skip(1).find_map(|line| inode_of(line, protocol, port, overlap).map(str::to_owned))
    });
    inode.and_then(|inode| process_of(&inode)).unwrap_or(Holder::Unknown)
}

/// The inode in a line of `/proc/net/{tcp,udp}{,6}`, when its socket is open on `port` of an address that `overlap`s.
fn inode_of(line: &str, protocol: Protocol, port: u16, overlap: impl Fn(Ipv4Addr) -> bool) -> Option<&str> {
    let mut fields = line.split_ascii_whitespace();
    let (address, local_port) = fields.nth(1)?.split_once(':')?;
    let state = fields.nth(1)?;
    let wanted = match protocol {
        Protocol::Tcp => LISTEN,
        Protocol::Udp => UNCONNECTED,
    };
    let matches = u16::from_str_radix(local_port, 16) == Ok(port)
        && state == wanted
        && overlap(parse_address(address)?);
    matches.then(|| fields.nth(5)).flatten().filter(|inode| *inode != "0")
}

/// Addresses are printed as 32-bit words in host byte order. An IPv6 socket holds the IPv4 port too when it is open on every
/// address, or on one that is mapped from IPv4.
fn parse_address(hex: &str) -> Option<Ipv4Addr> {
    let word = |index: usize| {
        let digits = hex.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    if hex.len() == 8 {
        return word(0).map(Ipv4Addr::from);
    }
    let words: Vec<u8> = [word(0)?, word(1)?, word(2)?, word(3)?].concat();
    let address = Ipv6Addr::from(<[u8; 16]>::try_from(words).ok()?);
    if address.is_unspecified() { Some(Ipv4Addr::UNSPECIFIED) } else { address.to_ipv4_mapped() }
}

fn process_of(inode: &str) -> Option<Holder> {
    let wanted = format!("socket:[{inode}]");
    let holds = |pid: i32| {
        fs::read_dir(format!("/proc/{pid}/fd")).is_ok_and(|mut entries| {
            entries.any(|entry| {
                entry
                    .and_then(|entry| fs::read_link(entry.path()))
                    .is_ok_and(|target| target.as_os_str() == wanted.as_str())
            })
        })
    };
    let pid = fs::read_dir("/proc")
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .find(|pid| holds(*pid))?;
    let command = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    Some(Holder::Process { pid, command: command.trim_end().to_owned() })
}

#[cfg(test)]
mod tests {
    use std::net::{TcpListener, UdpSocket};

    use super::*;

    fn this_process() -> Holder {
        let command = fs::read_to_string("/proc/self/comm").unwrap().trim_end().to_owned();
        Holder::Process { pid: std::process::id().cast_signed(), command }
    }

    #[test]
    fn a_process_is_named_whatever_the_family_of_its_socket() {
        for address in ["127.0.0.1:0", "0.0.0.0:0", "[::]:0"] {
            let listener = TcpListener::bind(address).unwrap();
            let port = listener.local_addr().unwrap().port();
            let found = of_port(&[], Ipv4Addr::LOCALHOST, port, Protocol::Tcp);
            assert_eq!(found, this_process(), "{address}");
        }
        let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
        let port = socket.local_addr().unwrap().port();
        assert_eq!(of_port(&[], Ipv4Addr::UNSPECIFIED, port, Protocol::Udp), this_process());
    }

    #[test]
    fn a_socket_on_another_address_does_not_hold_the_port() {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        assert_eq!(of_port(&[], Ipv4Addr::new(127, 0, 0, 2), port, Protocol::Tcp), Holder::Unknown);
    }

    #[test]
    fn a_container_is_named_before_the_process_that_holds_its_socket() {
        let lease = Lease {
            container_id: "4f".repeat(32),
            container_name: "web".to_owned(),
            address: Ipv4Addr::new(10, 160, 0, 2),
            prefix: 22,
            gateway: Ipv4Addr::new(10, 160, 0, 1),
            mac: [2; 6],
            host_link: "rkv4f4f4f4f4f4f".to_owned(),
            ports: vec![crate::PublishedPort {
                host_ip: Ipv4Addr::UNSPECIFIED,
                host_port: 8080,
                container_port: 80,
                protocol: Protocol::Tcp,
            }],
            owner_pid: 1,
        };
        let holder = of_port(&[lease], Ipv4Addr::LOCALHOST, 8080, Protocol::Tcp);
        assert_eq!(holder.to_string(), "container \"web\" (4f4f4f4f4f4f)");
    }
}
