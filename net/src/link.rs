//! Links, addresses and routes (rtnetlink(7)).

use std::ffi::CString;
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsRawFd, BorrowedFd};

use netlink_bindings::rt_addr::{self, Ifaddrmsg};
use netlink_bindings::rt_link::{self, Ifinfomsg};
use netlink_bindings::rt_route::{self, Rtmsg};
use netlink_bindings::utils::{self, Pusher};

use crate::error::Result;
use crate::netlink::{Batch, Socket, is_errno};
use crate::subnet::Subnet;

/// Name of the container's interface, as everywhere.
pub(crate) const CONTAINER_LINK: &str = "eth0";
/// Name of every namespace's loopback device.
pub(crate) const LOOPBACK: &str = "lo";

const FAMILY: u8 = libc::AF_INET as u8;
const UP: u32 = libc::IFF_UP as u32;
/// `VETH_INFO_PEER` of linux/veth.h.
const VETH_INFO_PEER: u16 = 1;
/// `IFLA_INFO_DATA` of linux/if_link.h.
const IFLA_INFO_DATA: u16 = 2;

/// Both ends of a container's link.
#[derive(Debug)]
pub(crate) struct Veth<'a> {
    /// Name of the host's end.
    pub host_name: &'a str,
    /// Hardware address of the container's end.
    pub mac: [u8; 6],
    /// Index of the bridge.
    pub bridge: u32,
    /// The container's network namespace.
    pub netns: BorrowedFd<'a>,
}

fn name_bytes(name: &str) -> CString {
    // Interface names come from this crate and have no zero byte.
    CString::new(name).unwrap_or_default()
}

/// Index of the link `name`, when there is one.
pub(crate) fn find(socket: &mut Socket, name: &str) -> Result<Option<u32>> {
    let mut request = rt_link::Request::new().op_getlink_do(&Ifinfomsg::new());
    request.encode().push_ifname(&name_bytes(name));
    let mut index = None;
    let result = socket.query(&request, "look up link", name, |payload| {
        let (header, _) = rt_link::OpGetlinkDo::decode_request(payload);
        index = u32::try_from(header.ifi_index).ok();
    });
    match result {
        Ok(()) => Ok(index),
        Err(error) if is_errno(&error, libc::ENODEV) => Ok(None),
        Err(error) => Err(error),
    }
}

/// Subnets of all the host's addresses and routes but the default route.
pub(crate) fn used_subnets(socket: &mut Socket) -> Result<Vec<Subnet>> {
    let mut used = vec![];
    let header = Ifaddrmsg { ifa_family: FAMILY, ..Ifaddrmsg::new() };
    let request = rt_addr::Request::new().op_getaddr_dump(&header);
    socket.query(&request, "list", "addresses", |payload| {
        let (header, _) = rt_addr::OpGetaddrDump::decode_request(payload);
        if let Some(IpAddr::V4(address)) = address_in(payload, Ifaddrmsg::len(), libc::IFA_ADDRESS) {
            used.push(Subnet::of(address, header.ifa_prefixlen));
        }
    })?;
    let header = Rtmsg { rtm_family: FAMILY, ..Rtmsg::new() };
    let request = rt_route::Request::new().op_getroute_dump(&header);
    socket.query(&request, "list", "routes", |payload| {
        let (header, _) = rt_route::OpGetrouteDump::decode_request(payload);
        if let Some(IpAddr::V4(address)) = address_in(payload, Rtmsg::len(), libc::RTA_DST)
            && header.rtm_dst_len > 0
        {
            used.push(Subnet::of(address, header.rtm_dst_len));
        }
    })?;
    Ok(used)
}

/// Makes the bridge, gives it the subnet's gateway address and brings it up.
pub(crate) fn make_bridge(socket: &mut Socket, name: &str, subnet: Subnet) -> Result<u32> {
    let mut batch = Batch::default();
    let header = Ifinfomsg { ifi_flags: UP, ifi_change: UP, ..Ifinfomsg::new() };
    let mut request = rt_link::Request::new().set_create().set_excl().op_newlink_do(&header);
    // A hardware address of its own: else the bridge takes its lowest port's, which changes as containers come and go.
    request
        .encode()
        .push_ifname(&name_bytes(name))
        .push_address(&mac_of(subnet.gateway()))
        .nested_linkinfo()
        .nested_data_bridge()
        .push_forward_delay(0)
        .push_stp_state(0);
    batch.add(&request, "create bridge", name);
    socket.execute(batch)?;
    let index = find(socket, name)?.unwrap_or_default();
    let mut batch = Batch::default();
    add_address(&mut batch, index, subnet.gateway(), subnet.prefix);
    let result = socket.execute(batch);
    if result.is_err() {
        delete(socket, name)?;
    }
    result.map(|()| index)
}

/// Makes the pair: one end on the bridge, the other in the container's namespace; the host's end is up.
pub(crate) fn make_veth(socket: &mut Socket, veth: &Veth<'_>) -> Result<()> {
    let header = Ifinfomsg { ifi_flags: UP, ifi_change: UP, ..Ifinfomsg::new() };
    let mut request = rt_link::Request::new().set_create().set_excl().op_newlink_do(&header);
    {
        let mut info = request
            .encode()
            .push_ifname(&name_bytes(veth.host_name))
            .push_master(veth.bridge)
            .nested_linkinfo()
            .push_kind(c"veth");
        // The bindings have no words for veth's data: a peer is a whole link message.
        let buffer = info.as_vec_mut();
        let data = utils::push_nested_header(buffer, IFLA_INFO_DATA);
        let peer = utils::push_nested_header(buffer, VETH_INFO_PEER);
        // The peer cannot come up here: it opens before it knows its other end.
        buffer.extend(Ifinfomsg::new().as_slice());
        rt_link::PushLinkAttrs::new(&mut *buffer)
            .push_ifname(&name_bytes(CONTAINER_LINK))
            .push_address(&veth.mac)
            .push_net_ns_fd(veth.netns.as_raw_fd().cast_unsigned());
        utils::finalize_nested_header(buffer, peer);
        utils::finalize_nested_header(buffer, data);
    }
    let mut batch = Batch::default();
    batch.add(&request, "create link", veth.host_name);
    socket.execute(batch)
}

/// Puts the link `name` on the bridge and brings it up.
pub(crate) fn attach(socket: &mut Socket, name: &str, bridge: u32) -> Result<()> {
    let header = Ifinfomsg { ifi_flags: UP, ifi_change: UP, ..Ifinfomsg::new() };
    let mut request = rt_link::Request::new().op_newlink_do(&header);
    request.encode().push_ifname(&name_bytes(name)).push_master(bridge);
    let mut batch = Batch::default();
    batch.add(&request, "attach link", name);
    socket.execute(batch)
}

/// Lets the bridge send a packet back to the port that it came from: so a container reaches a port that it publishes itself where
/// the host's bridges pass packets through the rules before they are routed (`bridge-nf-call-iptables`).
pub(crate) fn make_hairpin(socket: &mut Socket, name: &str) -> Result<()> {
    let mut request = rt_link::Request::new().op_newlink_do(&Ifinfomsg::new());
    drop(
        request
            .encode()
            .push_ifname(&name_bytes(name))
            .nested_linkinfo()
            .nested_slave_data_bridge()
            .push_mode(1),
    );
    let mut batch = Batch::default();
    batch.add(&request, "set hairpin mode of", name);
    socket.execute(batch)
}

/// Brings up the link `name`.
pub(crate) fn up(batch: &mut Batch, name: &str) {
    let header = Ifinfomsg { ifi_flags: UP, ifi_change: UP, ..Ifinfomsg::new() };
    let mut request = rt_link::Request::new().op_setlink_do(&header);
    request.encode().push_ifname(&name_bytes(name));
    batch.add(&request, "bring up", name);
}

/// Adds an address to link `index`.
pub(crate) fn add_address(batch: &mut Batch, index: u32, address: Ipv4Addr, prefix: u8) {
    let header =
        Ifaddrmsg { ifa_family: FAMILY, ifa_prefixlen: prefix, ifa_index: index, ..Ifaddrmsg::new() };
    let subnet = Subnet::of(address, prefix);
    let broadcast = Ipv4Addr::from_bits(subnet.address.to_bits() | !subnet.mask().to_bits());
    let mut request = rt_addr::Request::new().set_create().set_excl().op_newaddr_do(&header);
    request
        .encode()
        .push_local(IpAddr::V4(address))
        .push_address(IpAddr::V4(address))
        .push_broadcast(broadcast);
    batch.add(&request, "add address", format!("{address}/{prefix}"));
}

/// Adds the default route.
pub(crate) fn add_default_route(batch: &mut Batch, gateway: Ipv4Addr) {
    let header = Rtmsg {
        rtm_family: FAMILY,
        rtm_table: libc::RT_TABLE_MAIN,
        rtm_protocol: libc::RTPROT_BOOT,
        rtm_scope: libc::RT_SCOPE_UNIVERSE,
        rtm_type: libc::RTN_UNICAST,
        ..Rtmsg::new()
    };
    let mut request = rt_route::Request::new().set_create().set_excl().op_newroute_do(&header);
    request.encode().push_gateway(IpAddr::V4(gateway));
    batch.add(&request, "add default route via", gateway.to_string());
}

/// Deletes the link `name`; a missing one is no error.
pub(crate) fn delete(socket: &mut Socket, name: &str) -> Result<()> {
    let mut request = rt_link::Request::new().op_dellink_do(&Ifinfomsg::new());
    request.encode().push_ifname(&name_bytes(name));
    let mut batch = Batch::default();
    batch.add(&request, "delete link", name);
    match socket.execute(batch) {
        Err(error) if is_errno(&error, libc::ENODEV) => Ok(()),
        result => result,
    }
}

/// As [`delete`], of the link that had the name when its index was looked up: one that has got it since stays.
pub(crate) fn delete_index(socket: &mut Socket, index: u32, name: &str) -> Result<()> {
    let header = Ifinfomsg { ifi_index: index.cast_signed(), ..Ifinfomsg::new() };
    let request = rt_link::Request::new().op_dellink_do(&header);
    let mut batch = Batch::default();
    batch.add(&request, "delete link", name);
    match socket.execute(batch) {
        Err(error) if is_errno(&error, libc::ENODEV) => Ok(()),
        result => result,
    }
}

/// The hardware address that goes with an address: locally administered, and the same whenever the address is given
/// out again, so that neighbours' ARP caches stay right.
pub(crate) fn mac_of(address: Ipv4Addr) -> [u8; 6] {
    let [a, b, c, d] = address.octets();
    [0x02, 0x6b, a, b, c, d]
}

/// The IPv4 address in attribute `kind` of a message whose attributes begin at `start`.
fn address_in(payload: &[u8], start: usize, kind: u16) -> Option<IpAddr> {
    let mut attributes = payload.get(start..)?;
    loop {
        let header = attributes.first_chunk::<4>()?;
        let length = usize::from(u16::from_ne_bytes([header[0], header[1]]));
        let value = attributes.get(4..length)?;
        if u16::from_ne_bytes([header[2], header[3]]) == kind {
            return Some(IpAddr::V4(Ipv4Addr::from(*value.first_chunk::<4>()?)));
        }
        attributes = attributes.get(length.next_multiple_of(4)..)?;
    }
}
