//! Links, addresses and routes over rtnetlink(7): one batch of requests, whose answers are there when it has been sent.

use std::collections::HashMap;
use std::io;
use std::net::IpAddr;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::sys::socket::{AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, recv, send, socket};
use oci_spec::runtime::Spec;
use rkvm_guest_protocol::{Address, Link};
use rkvm_oci::{Error, Result};

use crate::sys;

/// Bytes of `struct nlmsghdr`, and where its flags are.
const HEADER: usize = 16;
const FLAGS_AT: usize = 6;
/// linux/if_addr.h: nobody else has the address, so IPv6 need not ask around for a second first.
const IFA_F_NODAD: u8 = 2;

/// Takes the settings of the network stack out of `spec` and makes them: the stack is the machine's, not the container's, which would
/// refuse them.
///
/// # Errors
/// The kernel has no such setting, or refuses the value.
pub fn take_settings(spec: &mut Spec) -> Result<()> {
    let Some(all) = spec.linux_mut().as_mut().and_then(|linux| linux.sysctl_mut().as_mut()) else {
        return Ok(());
    };
    let (ours, others): (HashMap<_, _>, _) =
        all.drain().partition(|(name, _)| rkvm_container::sysctl_path(name).starts_with("net/"));
    *all = others;
    for (name, value) in ours {
        // The host's user may have written anything.
        let path = rkvm_container::sysctl_path(&name);
        if path.split('/').any(|part| part.is_empty() || part == "..") {
            return Err(Error::invalid_spec(format!("linux.sysctl {name}"), "not a name of a sysctl"));
        }
        let path = format!("/proc/sys/{path}");
        std::fs::write(&path, value).map_err(|source| Error::failed("write", &path, source))?;
    }
    Ok(())
}

/// Brings up `lo`, if it is not, and every link of `links`.
///
/// # Errors
/// A link does not exist, or the kernel refuses an address or route.
pub fn configure(links: &[Link]) -> Result<()> {
    let kernel: OwnedFd =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)
            .map_err(broken)?;
    let mut batch = Batch::default();
    // The loopback link is the first of every network namespace.
    batch.link_up(1, None, None, "bring up", "lo");
    for link in links {
        let index = sys::link_index(&kernel, &link.name)
            .map_err(|source| Error::failed("find network link", &link.name, source))?;
        batch.link_up(index, link.mtu, link.hardware_address, "bring up", &link.name);
        for address in &link.addresses {
            batch.address(index, *address, &link.name);
        }
        for route in &link.routes {
            batch.route(index, route.to, route.via);
        }
    }
    batch.execute(&kernel)
}

fn broken(errno: nix::Error) -> Error {
    Error::failed("talk to", "the kernel's routing (netlink)", errno)
}

/// Requests on their way to the kernel.
#[derive(Debug, Default)]
struct Batch {
    buffer: Vec<u8>,
    /// What each is about, for messages.
    names: Vec<(&'static str, String)>,
    /// Where the last one begins.
    last: usize,
}

impl Batch {
    fn begin(&mut self, kind: u16, flags: i32, body: &[u8], name: (&'static str, String)) -> usize {
        let start = self.buffer.len();
        self.last = start;
        let flags = (libc::NLM_F_REQUEST | flags) as u16;
        self.buffer.extend([0; 4]);
        self.buffer.extend(kind.to_ne_bytes());
        self.buffer.extend(flags.to_ne_bytes());
        self.buffer.extend((self.names.len() as u32).to_ne_bytes());
        self.buffer.extend([0; 4]);
        self.buffer.extend(body);
        self.names.push(name);
        start
    }

    fn attribute(&mut self, kind: u16, value: &[u8]) {
        self.buffer.extend(((4 + value.len()) as u16).to_ne_bytes());
        self.buffer.extend(kind.to_ne_bytes());
        self.buffer.extend(value);
        self.buffer.resize(self.buffer.len().next_multiple_of(4), 0);
    }

    fn end(&mut self, start: usize) {
        let length = (self.buffer.len() - start) as u32;
        self.buffer[start..start + 4].copy_from_slice(&length.to_ne_bytes());
    }

    /// `struct ifinfomsg` with IFF_UP.
    fn link_up(
        &mut self,
        index: u32,
        mtu: Option<u32>,
        hardware_address: Option<[u8; 6]>,
        action: &'static str,
        name: &str,
    ) {
        let up = libc::IFF_UP as u32;
        let mut body = [0; 16];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        body[8..12].copy_from_slice(&up.to_ne_bytes());
        body[12..16].copy_from_slice(&up.to_ne_bytes());
        let start = self.begin(libc::RTM_NEWLINK, 0, &body, (action, name.to_owned()));
        if let Some(mtu) = mtu {
            self.attribute(libc::IFLA_MTU, &mtu.to_ne_bytes());
        }
        if let Some(address) = hardware_address {
            self.attribute(libc::IFLA_ADDRESS, &address);
        }
        self.end(start);
    }

    /// `struct ifaddrmsg`.
    fn address(&mut self, index: u32, address: Address, link: &str) {
        let (family, bytes) = raw(address.address);
        let flags = if address.address.is_ipv6() { IFA_F_NODAD } else { 0 };
        let mut body = [family, address.prefix, flags, libc::RT_SCOPE_UNIVERSE, 0, 0, 0, 0];
        body[4..8].copy_from_slice(&index.to_ne_bytes());
        let name = ("give its address to", format!("{link} ({}/{})", address.address, address.prefix));
        let start = self.begin(libc::RTM_NEWADDR, libc::NLM_F_CREATE | libc::NLM_F_EXCL, &body, name);
        self.attribute(libc::IFA_LOCAL, &bytes);
        self.attribute(libc::IFA_ADDRESS, &bytes);
        if let IpAddr::V4(v4) = address.address
            && address.prefix < 31
        {
            let host = u32::MAX.checked_shr(address.prefix.into()).unwrap_or(0);
            self.attribute(libc::IFA_BROADCAST, &(u32::from(v4) | host).to_be_bytes());
        }
        self.end(start);
    }

    /// `struct rtmsg`.
    fn route(&mut self, index: u32, to: Address, via: Option<IpAddr>) {
        let (family, bytes) = raw(to.address);
        let scope = if via.is_some() { libc::RT_SCOPE_UNIVERSE } else { libc::RT_SCOPE_LINK };
        let body = [
            family,
            to.prefix,
            0,
            0,
            libc::RT_TABLE_MAIN,
            libc::RTPROT_BOOT,
            scope,
            libc::RTN_UNICAST,
            0,
            0,
            0,
            0,
        ];
        let name = ("add route to", format!("{}/{}", to.address, to.prefix));
        let start = self.begin(libc::RTM_NEWROUTE, libc::NLM_F_CREATE, &body, name);
        if to.prefix > 0 {
            self.attribute(libc::RTA_DST, &bytes);
        }
        if let Some(via) = via {
            self.attribute(libc::RTA_GATEWAY, &raw(via).1);
        }
        self.attribute(libc::RTA_OIF, &index.to_ne_bytes());
        self.end(start);
    }

    /// Sends everything; the first refusal is the error. The kernel answers what it refuses and, because it is asked to, the last one.
    fn execute(mut self, kernel: &OwnedFd) -> Result<()> {
        let flags = self.last + FLAGS_AT;
        self.buffer[flags] |= libc::NLM_F_ACK as u8;
        send(kernel.as_raw_fd(), &self.buffer, MsgFlags::empty()).map_err(broken)?;
        loop {
            let mut answer = [0; 8192];
            let length = recv(kernel.as_raw_fd(), &mut answer, MsgFlags::MSG_DONTWAIT).map_err(broken)?;
            let mut rest = &answer[..length];
            while let Some((sequence, error, next)) = next_answer(rest) {
                if error != 0 {
                    let unknown = ("configure", "the network".to_owned());
                    let (action, target) = self.names.get(sequence as usize).unwrap_or(&unknown);
                    return Err(Error::failed(*action, target, io::Error::from_raw_os_error(error)));
                }
                if sequence as usize + 1 == self.names.len() {
                    return Ok(());
                }
                rest = next;
            }
        }
    }
}

/// Number and error of the first answer, and what follows it.
fn next_answer(bytes: &[u8]) -> Option<(u32, i32, &[u8])> {
    let word = |at: usize| bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes);
    let (length, sequence, error) = (word(0)? as usize, word(8)?, word(HEADER)? as i32);
    let next = bytes.get(length.next_multiple_of(4).max(HEADER)..).unwrap_or_default();
    Some((sequence, -error, next))
}

fn raw(address: IpAddr) -> (u8, Vec<u8>) {
    match address {
        IpAddr::V4(v4) => (libc::AF_INET as u8, v4.octets().to_vec()),
        IpAddr::V6(v6) => (libc::AF_INET6 as u8, v6.octets().to_vec()),
    }
}
