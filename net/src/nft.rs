//! The few nf_tables expressions that the engine's rules are written with (linux/netfilter/nf_tables.h).

use std::net::Ipv4Addr;

use netlink_bindings::nftables::{
    self as nl, CmpOps, CtKeys, FibFlags, MetaKeys, PayloadBase, PushExprListAttrs, VerdictCode,
};
use netlink_bindings::utils::{self, Pusher};

use crate::subnet::Subnet;

/// First of the two 4-byte registers that values pass through (`NFT_REG32_00`); a key or value of two fields takes both.
pub(crate) const FIRST: u32 = 8;
/// The second (`NFT_REG32_01`).
pub(crate) const SECOND: u32 = 9;
/// The third (`NFT_REG32_02`).
pub(crate) const THIRD: u32 = 10;
const VERDICT: u32 = 0;
/// `NFT_FIB_RESULT_ADDRTYPE`; the bindings number these results from 0 where the kernel begins at 1.
const FIB_ADDRESS_TYPE: u32 = 3;
/// `RTN_LOCAL` of linux/rtnetlink.h.
const TYPE_LOCAL: u32 = 2;
/// Established (bit 1) and related (bit 2) of `ct state`.
const STATE_FOLLOWING: u32 = 0b110;
/// `IPS_DST_NAT` of linux/netfilter/nf_conntrack_common.h.
const STATUS_DNAT: u32 = 1 << 5;

/// Whether a packet field is to be equal or not.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Is {
    Equal,
    NotEqual,
}

/// An interface of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Interface {
    In,
    Out,
}

/// An address of a packet.
#[derive(Debug, Clone, Copy)]
pub(crate) enum End {
    Source,
    Destination,
}

/// What happens to a packet that all expressions before matched.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Verdict {
    Accept,
    Drop,
}

/// A rule's expressions, in order; methods are named after what `nft list ruleset` prints.
pub(crate) struct Rule<P: Pusher>(pub(crate) PushExprListAttrs<P>);

impl<P: Pusher> Rule<P> {
    fn meta(self, key: MetaKeys, register: u32) -> Self {
        Self(
            self.0
                .nested_elem()
                .nested_data_meta()
                .push_key(key as u32)
                .push_dreg(register)
                .end_nested()
                .end_nested(),
        )
    }

    fn payload(self, base: PayloadBase, offset: u32, length: u32, register: u32) -> Self {
        Self(
            self.0
                .nested_elem()
                .nested_data_payload()
                .push_dreg(register)
                .push_base(base as u32)
                .push_offset(offset)
                .push_len(length)
                .end_nested()
                .end_nested(),
        )
    }

    fn mask(self, mask: &[u8]) -> Self {
        Self(
            self.0
                .nested_elem()
                .nested_data_bitwise()
                .push_sreg(FIRST)
                .push_dreg(FIRST)
                .push_len(mask.len() as u32)
                .nested_mask()
                .push_value(mask)
                .end_nested()
                .nested_xor()
                .push_value(&vec![0; mask.len()])
                .end_nested()
                .end_nested()
                .end_nested(),
        )
    }

    fn compare(self, is: Is, value: &[u8]) -> Self {
        let operation = match is {
            Is::Equal => CmpOps::Eq,
            Is::NotEqual => CmpOps::Neq,
        };
        Self(
            self.0
                .nested_elem()
                .nested_data_cmp()
                .push_sreg(FIRST)
                .push_op(operation as u32)
                .nested_data()
                .push_value(value)
                .end_nested()
                .end_nested()
                .end_nested(),
        )
    }

    fn ct(self, key: CtKeys) -> Self {
        Self(
            self.0
                .nested_elem()
                .nested_data_ct()
                .push_dreg(FIRST)
                .push_key(key as u32)
                .end_nested()
                .end_nested(),
        )
    }

    /// Written by hand: the bindings number these attributes in another order than the kernel does.
    fn lookup(self, map: &str) -> Self {
        const SET: u16 = 1;
        const SOURCE: u16 = 2;
        const DESTINATION: u16 = 3;
        const DATA: u16 = 2;
        let mut expression = self.0.nested_elem().push_name(c"lookup");
        let buffer = expression.as_vec_mut();
        let data = utils::push_nested_header(buffer, DATA);
        utils::push_header(buffer, SET, map.len() as u16 + 1);
        buffer.extend(map.as_bytes());
        buffer.push(0);
        for attribute in [SOURCE, DESTINATION] {
            utils::push_header(buffer, attribute, 4);
            buffer.extend(FIRST.to_be_bytes());
        }
        utils::finalize_nested_header(buffer, data);
        Self(expression.end_nested())
    }

    /// `iifname == name`, `oifname != name`, ...
    pub(crate) fn interface(self, interface: Interface, is: Is, name: &str) -> Self {
        let key = match interface {
            Interface::In => MetaKeys::Iifname,
            Interface::Out => MetaKeys::Oifname,
        };
        let mut padded = [0; libc::IFNAMSIZ];
        padded[..name.len()].copy_from_slice(name.as_bytes());
        self.meta(key, FIRST).compare(is, &padded)
    }

    /// `oifname == bridge`: the packet goes to a container.
    pub(crate) fn towards(self, bridge: &str) -> Self {
        self.interface(Interface::Out, Is::Equal, bridge)
    }

    /// `ip saddr subnet`, `ip daddr subnet`.
    pub(crate) fn within(self, end: End, subnet: Subnet) -> Self {
        let offset = match end {
            End::Source => 12,
            End::Destination => 16,
        };
        self.payload(PayloadBase::NetworkHeader, offset, 4, FIRST)
            .mask(&subnet.mask().octets())
            .compare(Is::Equal, &subnet.address.octets())
    }

    /// `fib daddr type local`: the packet is for the host itself.
    pub(crate) fn for_this_host(self) -> Self {
        Self(
            self.0
                .nested_elem()
                .nested_data_fib()
                .push_dreg(FIRST)
                .push_result(FIB_ADDRESS_TYPE)
                .push_flags(FibFlags::Daddr as u32)
                .end_nested()
                .end_nested(),
        )
        .compare(Is::Equal, &TYPE_LOCAL.to_ne_bytes())
    }

    /// `ct state established,related`.
    pub(crate) fn of_known_connection(self) -> Self {
        self.ct(CtKeys::State).mask(&STATE_FOLLOWING.to_ne_bytes()).compare(Is::NotEqual, &[0; 4])
    }

    /// `ct status dnat`: the connection came through a published port.
    pub(crate) fn of_published_port(self) -> Self {
        self.ct(CtKeys::Status).mask(&STATUS_DNAT.to_ne_bytes()).compare(Is::NotEqual, &[0; 4])
    }

    /// `meta l4proto . th dport`, with `ip daddr` before it where `address` is set, looked up in the map and taken as the
    /// new destination.
    pub(crate) fn dnat_by_map(self, map: &str, key: Key) -> Self {
        let rule = match key {
            Key::Port => {
                self.meta(MetaKeys::L4Proto, FIRST).payload(PayloadBase::TransportHeader, 2, 2, SECOND)
            }
            Key::AddressAndPort => self
                .payload(PayloadBase::NetworkHeader, 16, 4, FIRST)
                .meta(MetaKeys::L4Proto, SECOND)
                .payload(PayloadBase::TransportHeader, 2, 2, THIRD),
        };
        Self(
            rule.lookup(map)
                .0
                .nested_elem()
                .nested_data_nat()
                // NFT_NAT_DNAT
                .push_type(1)
                .push_family(libc::NFPROTO_IPV4 as u32)
                .push_reg_addr_min(FIRST)
                .push_reg_proto_min(SECOND)
                .end_nested()
                .end_nested(),
        )
    }

    /// `masquerade`.
    pub(crate) fn masquerade(self) -> Self {
        Self(self.0.nested_elem().push_name(c"masq").end_nested())
    }

    /// `accept`, `drop`.
    pub(crate) fn verdict(self, verdict: Verdict) -> Self {
        let code = match verdict {
            Verdict::Accept => VerdictCode::Accept,
            Verdict::Drop => VerdictCode::Drop,
        };
        Self(
            self.0
                .nested_elem()
                .nested_data_immediate()
                .push_dreg(VERDICT)
                .nested_data()
                .nested_verdict()
                .push_code(code as u32)
                .end_nested()
                .end_nested()
                .end_nested()
                .end_nested(),
        )
    }
}

/// What a map of published ports is looked up by.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Key {
    /// Protocol and port: published on every address of the host.
    Port,
    /// Address, protocol and port: published on one.
    AddressAndPort,
}

impl Key {
    /// The key's type as `nft` prints it: ids of its data types (libnftables), six bits each.
    pub(crate) fn kind(self) -> u32 {
        const ADDRESS: u32 = 7;
        const PROTOCOL: u32 = 12;
        const PORT: u32 = 13;
        match self {
            Self::Port => PROTOCOL << 6 | PORT,
            Self::AddressAndPort => ADDRESS << 12 | PROTOCOL << 6 | PORT,
        }
    }

    /// Length in bytes: each field fills a register.
    pub(crate) fn length(self) -> u32 {
        match self {
            Self::Port => 8,
            Self::AddressAndPort => 12,
        }
    }

    /// The key as the registers hold it.
    pub(crate) fn bytes(self, address: Ipv4Addr, protocol: u8, port: u16) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(12);
        if self == Self::AddressAndPort {
            bytes.extend(address.octets());
        }
        bytes.extend([protocol, 0, 0, 0]);
        bytes.extend(port.to_be_bytes());
        bytes.extend([0; 2]);
        bytes
    }
}

/// Header of every nf_tables message about IPv4.
pub(crate) fn header() -> nl::Nfgenmsg {
    nl::Nfgenmsg { nfgen_family: libc::NFPROTO_IPV4 as u8, ..nl::Nfgenmsg::new() }
}
