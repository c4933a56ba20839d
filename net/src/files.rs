//! Contents of the container's `/etc/resolv.conf`, `/etc/hosts` and `/etc/hostname`.

use std::fmt::Write as _;
use std::fs;
use std::net::IpAddr;

use crate::error::{Error, Result};

/// Where systemd-resolved lists the servers behind its loopback stub.
const RESOLVED_UPSTREAM: &str = "/run/systemd/resolve/resolv.conf";
const RESOLV_CONF: &str = "/etc/resolv.conf";
/// Asked when the host has loopback servers only, which a container cannot reach (the default of Docker too).
const PUBLIC_SERVERS: [&str; 2] = ["8.8.8.8", "8.8.4.4"];

/// `--dns`, `--dns-search`, `--dns-option`: each one that is given replaces the host's.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Dns {
    /// Servers.
    pub servers: Vec<IpAddr>,
    /// Search domains; the single one `.` is none at all.
    pub search: Vec<String>,
    /// Options of resolv.conf(5), e.g. `ndots:2`.
    pub options: Vec<String>,
}

/// Whether the container reaches servers on the host's loopback.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum HostLoopback {
    /// Yes: it shares the host's network namespace.
    Shared,
    /// No: it has a namespace of its own.
    Separate,
}

/// The host's own resolver configuration; empty when it has none. Behind systemd-resolved's stub, its upstream servers.
pub fn host_resolv_conf() -> String {
    let text = fs::read_to_string(RESOLV_CONF).unwrap_or_default();
    let stub_only = servers(&text).count() > 0 && servers(&text).all(is_loopback);
    match fs::read_to_string(RESOLVED_UPSTREAM) {
        Ok(upstream) if stub_only => upstream,
        _ => text,
    }
}

/// The container's `resolv.conf`: the host's, with what `dns` replaces, and without servers that cannot be reached.
pub fn resolv_conf(host: &str, dns: &Dns, loopback: HostLoopback) -> String {
    let mut lines: Vec<String> = vec![];
    if dns.servers.is_empty() {
        let reachable = |server: &&str| loopback == HostLoopback::Shared || !is_loopback(server);
        lines.extend(servers(host).filter(reachable).map(|server| format!("nameserver {server}")));
        if lines.is_empty() && loopback == HostLoopback::Separate {
            lines.extend(PUBLIC_SERVERS.iter().map(|server| format!("nameserver {server}")));
        }
    } else {
        lines.extend(dns.servers.iter().map(|server| format!("nameserver {server}")));
    }
    match dns.search.as_slice() {
        // The last of several `search` lines counts (resolv.conf(5)).
        [] => lines.extend(values(host, "search").last().map(|value| format!("search {value}"))),
        [dot] if dot == "." => {}
        search => lines.push(format!("search {}", search.join(" "))),
    }
    if dns.options.is_empty() {
        lines.extend(values(host, "options").map(|value| format!("options {value}")));
    } else {
        lines.push(format!("options {}", dns.options.join(" ")));
    }
    lines.into_iter().fold(String::new(), |text, line| text + &line + "\n")
}

fn values<'a>(text: &'a str, keyword: &'a str) -> impl Iterator<Item = &'a str> {
    text.lines().filter_map(move |line| {
        let (word, value) = line.trim().split_once(char::is_whitespace)?;
        (word == keyword).then(|| value.trim())
    })
}

fn servers(text: &str) -> impl Iterator<Item = &str> {
    values(text, "nameserver").filter_map(|value| value.split_ascii_whitespace().next())
}

fn is_loopback(server: impl AsRef<str>) -> bool {
    // A scope (`fe80::1%eth0`) is no part of the address.
    let server = server.as_ref();
    server.split('%').next().unwrap_or(server).parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

/// One line of `/etc/hosts` that the user asked for with `--add-host`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HostEntry {
    /// The name.
    pub name: String,
    /// Its address.
    pub address: IpAddr,
}

impl HostEntry {
    /// Reads `NAME:ADDRESS` or `NAME=ADDRESS`; the address `host-gateway` is `gateway`, where the host is reached from
    /// the container.
    ///
    /// # Errors
    /// [`Error::InvalidHost`].
    pub fn parse(value: &str, gateway: IpAddr) -> Result<Self> {
        let invalid = |reason| Error::InvalidHost { value: value.to_owned(), reason };
        let (name, address) = value.split_once(['=', ':']).ok_or_else(|| invalid("it has no address"))?;
        if name.is_empty() || name.contains(|c: char| c.is_whitespace() || c == '#') {
            return Err(invalid("the name is empty or has a space or # in it"));
        }
        let address = match address {
            "host-gateway" => gateway,
            text => text
                .trim_start_matches('[')
                .trim_end_matches(']')
                .parse()
                .map_err(|_| invalid("the address is no IP address"))?,
        };
        Ok(Self { name: name.to_owned(), address })
    }
}

/// The container's `hosts`: loopback names, the user's entries, and its own name at `own` addresses.
pub fn hosts(own: &[IpAddr], hostname: &str, domain: Option<&str>, entries: &[HostEntry]) -> String {
    let mut text = String::from(
        "127.0.0.1\tlocalhost\n\
         ::1\tlocalhost ip6-localhost ip6-loopback\n\
         fe00::0\tip6-localnet\n\
         ff00::0\tip6-mcastprefix\n\
         ff02::1\tip6-allnodes\n\
         ff02::2\tip6-allrouters\n",
    );
    for entry in entries {
        // Writing to a String cannot fail.
        let _ = writeln!(text, "{}\t{}", entry.address, entry.name);
    }
    for address in own {
        let _ = match domain {
            Some(domain) => writeln!(text, "{address}\t{hostname}.{domain} {hostname}"),
            None => writeln!(text, "{address}\t{hostname}"),
        };
    }
    text
}

/// The container's `hostname`.
pub fn hostname(hostname: &str) -> String {
    format!("{hostname}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    const HOST: &str = "# made by hand\nnameserver 127.0.0.53\nnameserver 192.0.2.53 # office\n\
                        search example.org\nsearch lan example.com\noptions ndots:1\n";

    #[test]
    fn loopback_servers_are_dropped_unless_the_namespace_is_shared() {
        assert_eq!(
            resolv_conf(HOST, &Dns::default(), HostLoopback::Separate),
            "nameserver 192.0.2.53\nsearch lan example.com\noptions ndots:1\n"
        );
        let shared = resolv_conf(HOST, &Dns::default(), HostLoopback::Shared);
        assert!(shared.starts_with("nameserver 127.0.0.53\nnameserver 192.0.2.53\n"), "{shared}");
    }

    #[test]
    fn without_a_reachable_server_public_ones_are_asked() {
        let text =
            resolv_conf("nameserver ::1\nnameserver 127.0.0.1\n", &Dns::default(), HostLoopback::Separate);
        assert_eq!(text, "nameserver 8.8.8.8\nnameserver 8.8.4.4\n");
    }

    #[test]
    fn each_flag_replaces_only_its_own_part() {
        let dns = Dns {
            servers: vec!["127.0.0.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            search: vec![".".to_owned()],
            options: vec!["ndots:2".to_owned(), "rotate".to_owned()],
        };
        assert_eq!(
            resolv_conf(HOST, &dns, HostLoopback::Separate),
            "nameserver 127.0.0.1\nnameserver 2001:db8::1\noptions ndots:2 rotate\n"
        );
    }

    #[test]
    fn hosts_has_the_users_entries_and_its_own_name() {
        let gateway = "10.160.0.1".parse().unwrap();
        let entries = [
            HostEntry::parse("db:192.0.2.7", gateway).unwrap(),
            HostEntry::parse("v6:2001:db8::7", gateway).unwrap(),
            HostEntry::parse("host.docker.internal:host-gateway", gateway).unwrap(),
        ];
        let text = hosts(&["10.160.0.2".parse().unwrap()], "web", Some("example.org"), &entries);
        assert!(text.starts_with("127.0.0.1\tlocalhost\n::1\tlocalhost"));
        assert!(text.ends_with(
            "192.0.2.7\tdb\n2001:db8::7\tv6\n10.160.0.1\thost.docker.internal\n10.160.0.2\tweb.example.org web\n"
        ));
    }

    #[test]
    fn bad_entries_are_named() {
        for value in ["db", ":1.2.3.4", "db:", "db:1.2.3", "a b:1.2.3.4", "a#b:1.2.3.4", "db:\n1.2.3.4"] {
            let error = HostEntry::parse(value, "10.0.0.1".parse().unwrap()).unwrap_err().to_string();
            assert!(error.contains(&format!("{value:?}")), "{error}");
        }
    }
}
