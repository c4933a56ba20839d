//! A link that is in a network namespace already, handed over to a guest: everything that arrives on it goes to a tap, and the other
//! way round, below the namespace's own network stack (tc-mirred(8)). The guest takes over its hardware address, addresses and routes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::OwnedFd;

use netlink_bindings::rt_addr::{self, Ifaddrmsg};
use netlink_bindings::rt_link::{self, Ifinfomsg};
use netlink_bindings::rt_route::{self, Rtmsg};
use netlink_bindings::tc::{self, TcU32Sel, Tcmsg};
use netlink_bindings::utils::{self, Pusher};

use crate::error::{Error, Result};
use crate::netlink::{Batch, Family, Socket, is_errno};
use crate::{link, tap};

/// Name of the tap in the namespace.
const TAP: &str = "rkvm-guest";

/// A link that a guest takes over.
#[derive(Debug)]
pub struct Spliced {
    /// The tap that stands for it; it ends with its last descriptor. Frames have a header of [`crate::VNET_HEADER_BYTES`].
    pub tap: OwnedFd,
    /// Hardware address for the guest.
    pub mac: [u8; 6],
    /// Largest packet, bytes.
    pub mtu: u32,
    /// Addresses with the lengths of their networks' prefixes, bits.
    pub addresses: Vec<(IpAddr, u8)>,
    /// Routes: network, length of its prefix in bits, next router.
    pub routes: Vec<(IpAddr, u8, Option<IpAddr>)>,
}

/// A link as the kernel lists it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Link {
    index: u32,
    name: String,
    mac: [u8; 6],
    mtu: u32,
}

/// Hands the one Ethernet link of the calling thread's network namespace over to a new tap; `None` when it has none, as a new namespace
/// has not. What was spliced before is spliced anew.
///
/// # Errors
/// There are several links, a privilege over the namespace is missing, or the kernel lacks the classifier (`cls_u32`, `act_mirred`).
pub fn splice() -> Result<Option<Spliced>> {
    let mut socket = Socket::open(Family::Route)?;
    let mut links = list(&mut socket)?;
    links.retain(|link| link.name != TAP);
    let Some(link) = links.pop() else { return Ok(None) };
    if !links.is_empty() {
        links.push(link);
        let names: Vec<String> = links.into_iter().map(|link| link.name).collect();
        return Err(Error::ManyLinks { names: names.join(", ") });
    }
    let addresses = addresses(&mut socket, link.index)?;
    let routes = routes(&mut socket, link.index)?;
    let tap = tap::make(TAP)?;
    let tap_index = link::find(&mut socket, TAP)?.unwrap_or_default();
    let mut batch = Batch::default();
    let header =
        Ifinfomsg { ifi_flags: libc::IFF_UP as u32, ifi_change: libc::IFF_UP as u32, ..Ifinfomsg::new() };
    let mut request = rt_link::Request::new().op_setlink_do(&header);
    drop(request.encode().push_ifname(c"rkvm-guest").push_mtu(link.mtu));
    batch.add(&request, "bring up", TAP);
    socket.execute(batch)?;
    redirect(&mut socket, link.index, tap_index, &link.name)?;
    redirect(&mut socket, tap_index, link.index, TAP)?;
    Ok(Some(Spliced { tap, mac: link.mac, mtu: link.mtu, addresses, routes }))
}

/// Attributes of a message behind its fixed part.
fn attributes(payload: &[u8], start: usize) -> impl Iterator<Item = (u16, &[u8])> {
    let mut rest = payload.get(start..).unwrap_or_default();
    std::iter::from_fn(move || {
        let header = rest.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let kind = u16::from_ne_bytes([header[2], header[3]]);
        let value = rest.get(4..length)?;
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
        Some((kind, value))
    })
}

fn number(value: &[u8]) -> Option<u32> {
    value.first_chunk::<4>().map(|bytes| u32::from_ne_bytes(*bytes))
}

fn ip(value: &[u8]) -> Option<IpAddr> {
    match value.len() {
        4 => Some(IpAddr::V4(Ipv4Addr::from(*value.first_chunk::<4>()?))),
        16 => Some(IpAddr::V6(Ipv6Addr::from(*value.first_chunk::<16>()?))),
        _ => None,
    }
}

/// The namespace's Ethernet links that are up.
fn list(socket: &mut Socket) -> Result<Vec<Link>> {
    let mut links = vec![];
    let request = rt_link::Request::new().op_getlink_dump(&Ifinfomsg::new());
    socket.query(&request, "list", "links", |payload| {
        let (header, _) = rt_link::OpGetlinkDump::decode_request(payload);
        let up = header.ifi_flags & libc::IFF_UP as u32 != 0;
        if !up || header.ifi_type != libc::ARPHRD_ETHER {
            return;
        }
        let mut link =
            Link { index: header.ifi_index.cast_unsigned(), name: String::new(), mac: [0; 6], mtu: 1500 };
        for (kind, value) in attributes(payload, Ifinfomsg::len()) {
            match kind {
                libc::IFLA_ADDRESS => link.mac = value.first_chunk().copied().unwrap_or_default(),
                libc::IFLA_IFNAME => {
                    link.name = String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
                }
                libc::IFLA_MTU => link.mtu = number(value).unwrap_or(1500),
                _ => {}
            }
        }
        links.push(link);
    })?;
    Ok(links)
}

/// Addresses of link `index` but those that each kernel makes of the hardware address.
fn addresses(socket: &mut Socket, index: u32) -> Result<Vec<(IpAddr, u8)>> {
    let mut found = vec![];
    let request = rt_addr::Request::new().op_getaddr_dump(&Ifaddrmsg::new());
    socket.query(&request, "list", "addresses", |payload| {
        let (header, _) = rt_addr::OpGetaddrDump::decode_request(payload);
        if header.ifa_index != index || header.ifa_scope == libc::RT_SCOPE_LINK {
            return;
        }
        let (prefix, mut local, mut address) = (header.ifa_prefixlen, None, None);
        for (kind, value) in attributes(payload, Ifaddrmsg::len()) {
            match kind {
                libc::IFA_LOCAL => local = ip(value),
                libc::IFA_ADDRESS => address = ip(value),
                _ => {}
            }
        }
        // IPv6 has no IFA_LOCAL, and on a link between two points IFA_ADDRESS is the other's.
        found.extend(local.or(address).map(|address| (address, prefix)));
    })?;
    Ok(found)
}

/// Routes over link `index` but those that come with its addresses; the ones without a router first, which others may lead through.
fn routes(socket: &mut Socket, index: u32) -> Result<Vec<(IpAddr, u8, Option<IpAddr>)>> {
    let mut found = vec![];
    let request = rt_route::Request::new().op_getroute_dump(&Rtmsg::new());
    socket.query(&request, "list", "routes", |payload| {
        let (header, _) = rt_route::OpGetrouteDump::decode_request(payload);
        let made_by_kernel = header.rtm_protocol == libc::RTPROT_KERNEL;
        if header.rtm_table != libc::RT_TABLE_MAIN || header.rtm_type != libc::RTN_UNICAST || made_by_kernel {
            return;
        }
        let any: IpAddr = match i32::from(header.rtm_family) {
            libc::AF_INET => Ipv4Addr::UNSPECIFIED.into(),
            libc::AF_INET6 => Ipv6Addr::UNSPECIFIED.into(),
            _ => return,
        };
        let (length, mut to, mut via, mut over) = (header.rtm_dst_len, any, None, None);
        for (kind, value) in attributes(payload, Rtmsg::len()) {
            match kind {
                libc::RTA_DST => to = ip(value).unwrap_or(any),
                libc::RTA_GATEWAY => via = ip(value),
                libc::RTA_OIF => over = number(value),
                _ => {}
            }
        }
        if over == Some(index) {
            found.push((to, length, via));
        }
    })?;
    found.sort_by_key(|(_, _, via)| via.is_some());
    Ok(found)
}

/// Where filters of arriving packets hang (linux/pkt_sched.h, `TC_H_INGRESS`).
const INGRESS: u32 = 0xffff_fff1;
/// Handle of that qdisc.
const INGRESS_HANDLE: u32 = 0xffff_0000;

/// Has everything that arrives on link `from` go out of link `to`.
fn redirect(socket: &mut Socket, from: u32, to: u32, name: &str) -> Result<()> {
    let header =
        Tcmsg { ifindex: from.cast_signed(), handle: INGRESS_HANDLE, parent: INGRESS, ..Tcmsg::default() };
    let mut batch = Batch::default();
    let mut request = tc::Request::new().op_delqdisc_do(&header);
    drop(request.encode().push_kind(c"ingress"));
    batch.add(&request, "take away the filters of", name);
    match socket.execute(batch) {
        // There were none.
        Err(error) if !is_errno(&error, libc::EINVAL) && !is_errno(&error, libc::ENOENT) => {
            return Err(error);
        }
        _ => {}
    }
    let mut batch = Batch::default();
    let mut request = tc::Request::new().set_create().set_excl().op_newqdisc_do(&header);
    drop(request.encode().push_kind(c"ingress"));
    batch.add(&request, "prepare for filters", name);
    // One filter of priority 1 for packets of every protocol (ETH_P_ALL, in network order).
    let info = 1 << 16 | u32::from((libc::ETH_P_ALL as u16).to_be());
    let header = Tcmsg { ifindex: from.cast_signed(), parent: INGRESS_HANDLE, info, ..Tcmsg::default() };
    let mut request = tc::Request::new().set_create().set_excl().op_newtfilter_do(&header);
    {
        // A key without bits matches everything.
        let sel = TcU32Sel { flags: TERMINAL, nkeys: 1, ..TcU32Sel::default() };
        let mut options = request.encode().nested_options_u32().push_sel(sel);
        mirred(options.as_vec_mut(), to);
    }
    batch.add(&request, "redirect packets of", name);
    socket.execute(batch)
}

/// `TC_U32_TERMINAL` of linux/pkt_cls.h.
const TERMINAL: u8 = 1;
/// `TCA_U32_ACT`, `TCA_ACT_KIND`, `TCA_ACT_OPTIONS`, `TCA_MIRRED_PARMS` of linux/pkt_cls.h and linux/tc_act/tc_mirred.h.
const U32_ACT: u16 = 7;
const ACT_KIND: u16 = 1;
const ACT_OPTIONS: u16 = 2;
const MIRRED_PARMS: u16 = 2;
/// `TC_ACT_STOLEN`, `TCA_EGRESS_REDIR`.
const STOLEN: i32 = 4;
const EGRESS_REDIRECT: i32 = 1;

/// The action, as the first and only one of the list: the bindings count from 0, the kernel from 1.
fn mirred(buffer: &mut Vec<u8>, to: u32) {
    let list = utils::push_nested_header(buffer, U32_ACT);
    let first = utils::push_nested_header(buffer, 1);
    utils::push_header(buffer, ACT_KIND, 7);
    buffer.extend(b"mirred\0");
    let options = utils::push_nested_header(buffer, ACT_OPTIONS);
    // struct tc_mirred: index, capab, action, refcnt, bindcnt, eaction, ifindex.
    let words = [0, 0, STOLEN, 0, 0, EGRESS_REDIRECT, to.cast_signed()];
    utils::push_header(buffer, MIRRED_PARMS, 4 * words.len() as u16);
    words.iter().for_each(|word| buffer.extend(word.to_ne_bytes()));
    utils::finalize_nested_header(buffer, options);
    utils::finalize_nested_header(buffer, first);
    utils::finalize_nested_header(buffer, list);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_that_lie_about_their_length_end_the_list() {
        let good = [8, 0, 3, 0, b'a', b'b', b'c', 0];
        let mut bytes = vec![0; 4];
        bytes.extend(good);
        bytes.extend([200, 0, 1, 0]);
        assert_eq!(attributes(&bytes, 4).collect::<Vec<_>>(), [(3, &b"abc\0"[..])]);
        assert_eq!(attributes(&[], 4).count(), 0);
        assert_eq!(attributes(&[0, 0, 0, 0, 2, 0, 0, 0], 4).count(), 0);
    }
}
