//! Forgetting UDP flows (nfnetlink_conntrack).
//!
//! Rules decide about the first packet of a flow only. A client that keeps sending UDP from one port keeps its flow alive, so that
//! without this its packets would go where they went before a port was published, or to a container that is gone.

use netlink_bindings::nftables::Nfgenmsg;
use netlink_bindings::traits::{NetlinkRequest, Protocol as Netlink};
use netlink_bindings::utils;

use crate::error::Result;
use crate::lease::PublishedPort;
use crate::netlink::{Batch, Socket, is_errno};
use crate::nft;
use crate::port::Protocol;

// linux/netfilter/nfnetlink_conntrack.h
const CTA_TUPLE_ORIG: u16 = 1;
const CTA_TUPLE_PROTO: u16 = 2;
const CTA_PROTO_NUM: u16 = 1;
const CTA_PROTO_DST_PORT: u16 = 3;
const CTA_FILTER: u16 = 25;
const CTA_FILTER_ORIG_FLAGS: u16 = 1;
const IPCTNL_MSG_CT_DELETE: u16 = 2;
/// The filter compares the protocol and the destination port (net/netfilter/nf_internals.h).
const BY_PROTOCOL_AND_PORT: u32 = 1 << 3 | 1 << 5;

/// "Delete every flow that this filter matches"; the bindings have no word for it.
struct DeleteFlows(Vec<u8>);

impl NetlinkRequest for DeleteFlows {
    type ReplyType<'buf> = ();

    fn protocol(&self) -> Netlink {
        let request_type = (libc::NFNL_SUBSYS_CTNETLINK as u16) << 8 | IPCTNL_MSG_CT_DELETE;
        Netlink::Raw { protonum: libc::NETLINK_NETFILTER as u16, request_type }
    }

    fn flags(&self) -> u16 {
        0
    }

    fn payload(&self) -> &[u8] {
        &self.0
    }

    fn decode_reply(_: &[u8]) -> Self::ReplyType<'_> {}
}

impl DeleteFlows {
    fn to(port: &PublishedPort) -> Self {
        let mut message = nft::header().as_slice().to_vec();
        debug_assert_eq!(message.len(), Nfgenmsg::len());
        let tuple = utils::push_nested_header(&mut message, CTA_TUPLE_ORIG);
        let protocol = utils::push_nested_header(&mut message, CTA_TUPLE_PROTO);
        utils::push_header(&mut message, CTA_PROTO_NUM, 1);
        message.push(port.protocol.number());
        utils::push_header(&mut message, CTA_PROTO_DST_PORT, 2);
        message.extend(port.host_port.to_be_bytes());
        utils::finalize_nested_header(&mut message, protocol);
        utils::finalize_nested_header(&mut message, tuple);
        let filter = utils::push_nested_header(&mut message, CTA_FILTER);
        utils::push_header(&mut message, CTA_FILTER_ORIG_FLAGS, 4);
        message.extend(BY_PROTOCOL_AND_PORT.to_ne_bytes());
        utils::finalize_nested_header(&mut message, filter);
        Self(message)
    }
}

/// Forgets every UDP flow to the host ports given. TCP needs it not: its flows end with their connections.
pub(crate) fn forget_flows(socket: &mut Socket, ports: &[PublishedPort]) -> Result<()> {
    for port in ports.iter().filter(|port| port.protocol == Protocol::Udp) {
        let mut batch = Batch::default();
        batch.add(&DeleteFlows::to(port), "forget flows to", format!("{}/udp", port.host_port));
        match socket.execute(batch) {
            Err(error) if is_errno(&error, libc::ENOENT) => {}
            result => result?,
        }
    }
    Ok(())
}
