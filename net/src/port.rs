//! What `-p` means: `[[ip:][hostPort]:]containerPort[/protocol]`, with ranges, as Docker reads it.

use std::fmt;
use std::net::Ipv4Addr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};

/// A transport protocol whose ports can be published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
}

impl Protocol {
    /// The protocol's number in the IP header (IANA).
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

impl fmt::Display for Protocol {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

impl FromStr for Protocol {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        match text.to_ascii_lowercase().as_str() {
            "tcp" => Ok(Self::Tcp),
            "udp" => Ok(Self::Udp),
            _ => Err(()),
        }
    }
}

/// Which host port a container port is published on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum HostPorts {
    /// Any free one; the kernel chooses from its ephemeral range.
    Any,
    /// This one.
    One(u16),
    /// The first free one of these.
    FirstFree(RangeInclusive<u16>),
}

/// One container port and where it is to be published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The host's address; 0.0.0.0 for all of them.
    pub host_ip: Ipv4Addr,
    /// The host's port.
    pub host: HostPorts,
    /// The container's port, 1 to 65535.
    pub container: u16,
    /// tcp or udp.
    pub protocol: Protocol,
}

impl PortMapping {
    /// Reads one value of `-p`; a range gives one mapping a port.
    ///
    /// # Errors
    /// [`Error::InvalidPort`] with what is wrong.
    pub fn parse(value: &str) -> Result<Vec<Self>> {
        let invalid = |reason| Error::InvalidPort { value: value.to_owned(), reason };
        let (ports, protocol) = value.split_once('/').unwrap_or((value, "tcp"));
        let protocol = protocol.parse().map_err(|()| invalid("the protocol must be tcp or udp"))?;
        if ports.starts_with('[') {
            return Err(invalid("IPv6 host addresses are not supported"));
        }
        let parts: Vec<&str> = ports.split(':').collect();
        let (address, host, container) = match parts[..] {
            [container] => ("", "", container),
            [host, container] => ("", host, container),
            [address, host, container] => (address, host, container),
            _ => return Err(invalid("it has too many colons")),
        };
        let host_ip = match address {
            "" => Ipv4Addr::UNSPECIFIED,
            text => text.parse().map_err(|_| invalid("the host address is not an IPv4 address"))?,
        };
        let container = port_range(container).map_err(invalid)?;
        let host = match host {
            "" => None,
            text => Some(port_range(text).map_err(invalid)?),
        };
        let count = container.len();
        if let Some(host) = &host
            && host.len() != count
            && count != 1
        {
            return Err(invalid("the host's range and the container's differ in length"));
        }
        Ok(container
            .enumerate()
            .map(|(index, container)| {
                let host = match &host {
                    None => HostPorts::Any,
                    Some(range) if range.len() == count => {
                        HostPorts::One(range.clone().nth(index).unwrap_or(container))
                    }
                    Some(range) => HostPorts::FirstFree(range.clone()),
                };
                Self { host_ip, host, container, protocol }
            })
            .collect())
    }

    /// A container port published on any free host port, as `-P` does for each port that the image exposes.
    ///
    /// # Errors
    /// [`Error::InvalidPort`] when `exposed` is not `PORT[/protocol]`.
    pub fn parse_exposed(exposed: &str) -> Result<Vec<Self>> {
        if exposed.contains(':') {
            return Err(Error::InvalidPort {
                value: exposed.to_owned(),
                reason: "an exposed port has no colon",
            });
        }
        Self::parse(exposed)
    }
}

fn port_range(text: &str) -> Result<RangeInclusive<u16>, &'static str> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| match text.parse::<u16>() {
        Ok(port) if port > 0 && !text.starts_with('+') => Ok(port),
        _ => Err("a port is a number from 1 to 65535"),
    };
    let (first, last) = (number(first)?, number(last)?);
    if first > last {
        return Err("the range ends before it begins");
    }
    Ok(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(value: &str) -> PortMapping {
        let mut all = PortMapping::parse(value).unwrap();
        assert_eq!(all.len(), 1, "{value}");
        all.remove(0)
    }

    #[test]
    fn forms_that_docker_reads() {
        let all = Ipv4Addr::UNSPECIFIED;
        let tcp = Protocol::Tcp;
        assert_eq!(
            one("8080:80"),
            PortMapping { host_ip: all, host: HostPorts::One(8080), container: 80, protocol: tcp }
        );
        assert_eq!(one("80").host, HostPorts::Any);
        assert_eq!(one("127.0.0.1::80").host, HostPorts::Any);
        assert_eq!(one("127.0.0.1:53:5353/udp").host_ip, Ipv4Addr::LOCALHOST);
        assert_eq!(one("53:5353/UDP").protocol, Protocol::Udp);
        assert_eq!(one("8000-8010:80").host, HostPorts::FirstFree(8000..=8010));
    }

    #[test]
    fn ranges_are_paired() {
        let pairs: Vec<_> = PortMapping::parse("8000-8002:9000-9002/udp")
            .unwrap()
            .into_iter()
            .map(|mapping| (mapping.host, mapping.container))
            .collect();
        assert_eq!(
            pairs,
            [(HostPorts::One(8000), 9000), (HostPorts::One(8001), 9001), (HostPorts::One(8002), 9002)]
        );
        assert_eq!(PortMapping::parse("65535-65535:1-1").unwrap().len(), 1);
        assert!(
            PortMapping::parse("9000-9002").unwrap().iter().all(|mapping| mapping.host == HostPorts::Any)
        );
    }

    #[test]
    fn bad_values_say_what_is_wrong() {
        for (value, reason) in [
            ("", "a number"),
            ("0", "a number"),
            ("65536", "a number"),
            ("+80", "a number"),
            ("80:", "a number"),
            ("a:80", "a number"),
            ("80/sctp", "tcp or udp"),
            ("80/", "tcp or udp"),
            ("1:2:3:4", "colons"),
            ("::1:80:80", "colons"),
            ("[::1]:80:80", "IPv6"),
            ("1.2.3:80:80", "IPv4"),
            ("8000-8001:9000-9002", "differ"),
            ("9001-9000", "before"),
            ("-1:80", "a number"),
        ] {
            let error = PortMapping::parse(value).unwrap_err().to_string();
            assert!(error.contains(reason), "{value:?}: {error}");
            assert!(error.contains(&format!("{value:?}")), "{error}");
        }
    }
}
