//! The engine's nf_tables table: NAT out, published ports, and what may not be forwarded.
//!
//! `nft list table ip NAME` shows it in nft's words. Publishing a port is one element of a map, in one transaction; the rules
//! themselves never change.

use std::net::Ipv4Addr;

use netlink_bindings::nftables as nl;

use crate::error::Result;
use crate::lease::PublishedPort;
use crate::netlink::{Batch, Socket, is_errno};
use crate::nft::{End, Interface, Is, Key, Rule, Verdict, header};
use crate::subnet::Subnet;

/// Ports published on every address of the host.
const PORTS: &str = "ports";
/// Ports published on one address of the host.
const PORTS_AT: &str = "ports_at";
/// `ipv4_addr . inet_service` as `nft` prints it, and its length.
const TARGET_KIND: u32 = 7 << 6 | 13;
const TARGET_LENGTH: u32 = 8;
/// Elements a message: well below the 64 KiB that an attribute can hold.
const ELEMENTS: usize = 256;
const LOOPBACK: Subnet = Subnet { address: Ipv4Addr::new(127, 0, 0, 0), prefix: 8 };

/// Hooks of linux/netfilter.h and priorities of linux/netfilter_ipv4.h.
#[derive(Debug, Clone, Copy)]
struct Chain {
    name: &'static str,
    kind: &'static str,
    hook: u32,
    priority: i32,
}

const GUARD: Chain = Chain { name: "guard", kind: "filter", hook: 0, priority: -300 };
const PREROUTING: Chain = Chain { name: "prerouting", kind: "nat", hook: 0, priority: -100 };
const OUTPUT: Chain = Chain { name: "output", kind: "nat", hook: 3, priority: -100 };
const FORWARD: Chain = Chain { name: "forward", kind: "filter", hook: 2, priority: 0 };
const POSTROUTING: Chain = Chain { name: "postrouting", kind: "nat", hook: 4, priority: 100 };

/// The table `name`, which is also the bridge's name.
#[derive(Debug)]
pub(crate) struct Table<'a> {
    pub name: &'a str,
}

/// Requests of one transaction.
struct Transaction<'a> {
    batch: Batch,
    table: &'a str,
}

impl Table<'_> {
    /// Whether it is there.
    pub(crate) fn exists(&self, socket: &mut Socket) -> Result<bool> {
        let mut request = nl::Request::new().op_gettable_do(&header());
        request.encode().push_name_bytes(self.name.as_bytes());
        match socket.query(&request, "look up table", self.name, |_| {}) {
            Ok(()) => Ok(true),
            Err(error) if is_errno(&error, libc::ENOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Makes it with all its rules, in one transaction.
    pub(crate) fn make(&self, socket: &mut Socket, subnet: Subnet) -> Result<()> {
        let bridge = self.name;
        let mut change = Transaction::begin(bridge);
        change.table();
        for chain in [GUARD, PREROUTING, OUTPUT, FORWARD, POSTROUTING] {
            change.chain(chain);
        }
        change.map(PORTS, Key::Port, 1);
        change.map(PORTS_AT, Key::AddressAndPort, 2);
        // The bridge routes loopback addresses so that ports can be published on 127.0.0.1; without this rule a container
        // could send packets to 127.0.0.1 through it and reach services that listen on the host's loopback only.
        change.rule(GUARD, |rule| {
            rule.interface(Interface::In, Is::Equal, bridge)
                .within(End::Destination, LOOPBACK)
                .verdict(Verdict::Drop)
        });
        for chain in [PREROUTING, OUTPUT] {
            change.rule(chain, |rule| rule.for_this_host().dnat_by_map(PORTS_AT, Key::AddressAndPort));
            change.rule(chain, |rule| rule.for_this_host().dnat_by_map(PORTS, Key::Port));
        }
        // What is not published must not be reachable by a neighbour of the host that routes the subnet to it, nor from
        // another engine's network.
        change.rule(FORWARD, |rule| {
            rule.towards(bridge).interface(Interface::In, Is::Equal, bridge).verdict(Verdict::Accept)
        });
        change.rule(FORWARD, |rule| rule.towards(bridge).of_known_connection().verdict(Verdict::Accept));
        change.rule(FORWARD, |rule| rule.towards(bridge).of_published_port().verdict(Verdict::Accept));
        change.rule(FORWARD, |rule| rule.towards(bridge).verdict(Verdict::Drop));
        change.rule(POSTROUTING, |rule| {
            rule.within(End::Source, subnet).interface(Interface::Out, Is::NotEqual, bridge).masquerade()
        });
        // From 127.0.0.1 to a published port: the container's answer must come back to the host.
        change.rule(POSTROUTING, |rule| {
            rule.within(End::Source, LOOPBACK).interface(Interface::Out, Is::Equal, bridge).masquerade()
        });
        // From a container to a port that a container publishes on the host: without it the answer would take the short way
        // over the bridge, from an address that the asker never spoke to.
        change.rule(POSTROUTING, |rule| {
            rule.within(End::Source, subnet)
                .interface(Interface::Out, Is::Equal, bridge)
                .of_published_port()
                .masquerade()
        });
        change.commit(socket)
    }

    /// Deletes it; a missing one is no error.
    pub(crate) fn remove(&self, socket: &mut Socket) -> Result<()> {
        let mut change = Transaction::begin(self.name);
        let mut request = nl::Request::new().op_deltable_do(&header());
        request.encode().push_name_bytes(self.name.as_bytes());
        change.batch.add(&request, "delete table", self.name);
        ignore_missing(change.commit(socket))
    }

    /// Sends what arrives at `ports` of the host to `address`.
    pub(crate) fn publish(
        &self,
        socket: &mut Socket,
        address: Ipv4Addr,
        ports: &[PublishedPort],
    ) -> Result<()> {
        let mut change = Transaction::begin(self.name);
        for (map, key, chosen) in by_map(ports) {
            for chunk in chosen.chunks(ELEMENTS) {
                let mut request = nl::Request::new().set_create().op_newsetelem_do(&header());
                let mut elements = request
                    .encode()
                    .push_table_bytes(self.name.as_bytes())
                    .push_set_bytes(map.as_bytes())
                    .nested_elements();
                for port in chunk {
                    let mut target = address.octets().to_vec();
                    target.extend(port.container_port.to_be_bytes());
                    target.extend([0; 2]);
                    elements = elements
                        .nested_elem()
                        .nested_key()
                        .push_value(&key.bytes(port.host_ip, port.protocol.number(), port.host_port))
                        .end_nested()
                        .nested_data()
                        .push_value(&target)
                        .end_nested()
                        .end_nested();
                }
                drop(elements);
                change.batch.add(&request, "publish ports in table", self.name);
            }
        }
        change.commit(socket)
    }

    /// Takes `ports` back; missing ones are no error.
    pub(crate) fn withdraw(&self, socket: &mut Socket, ports: &[PublishedPort]) -> Result<()> {
        // One transaction a port: a port that is missing already must not keep the others.
        for (map, key, chosen) in by_map(ports) {
            for port in chosen {
                let mut change = Transaction::begin(self.name);
                let mut request = nl::Request::new().op_delsetelem_do(&header());
                drop(
                    request
                        .encode()
                        .push_table_bytes(self.name.as_bytes())
                        .push_set_bytes(map.as_bytes())
                        .nested_elements()
                        .nested_elem()
                        .nested_key()
                        .push_value(&key.bytes(port.host_ip, port.protocol.number(), port.host_port)),
                );
                change.batch.add(&request, "withdraw ports from table", self.name);
                ignore_missing(change.commit(socket))?;
            }
        }
        Ok(())
    }
}

fn ignore_missing(result: Result<()>) -> Result<()> {
    match result {
        Err(error) if is_errno(&error, libc::ENOENT) => Ok(()),
        result => result,
    }
}

fn by_map(ports: &[PublishedPort]) -> [(&'static str, Key, Vec<&PublishedPort>); 2] {
    let (everywhere, at_one): (Vec<_>, Vec<_>) = ports.iter().partition(|port| port.host_ip.is_unspecified());
    [(PORTS, Key::Port, everywhere), (PORTS_AT, Key::AddressAndPort, at_one)]
}

impl<'a> Transaction<'a> {
    fn begin(table: &'a str) -> Self {
        let mut batch = Batch::default();
        batch.add_silent(&nl::Request::new().op_batch_begin_do(&batch_header()), "begin transaction");
        Self { batch, table }
    }

    fn commit(mut self, socket: &mut Socket) -> Result<()> {
        let end = nl::Request::new();
        self.batch.add_silent(&end.op_batch_end_do(&batch_header()), "commit transaction");
        socket.execute(self.batch)
    }

    fn table(&mut self) {
        let mut request = nl::Request::new().set_create().set_excl().op_newtable_do(&header());
        request.encode().push_name_bytes(self.table.as_bytes());
        self.batch.add(&request, "create table", self.table);
    }

    fn chain(&mut self, chain: Chain) {
        let mut request = nl::Request::new().set_create().op_newchain_do(&header());
        request
            .encode()
            .push_table_bytes(self.table.as_bytes())
            .push_name_bytes(chain.name.as_bytes())
            .push_type_bytes(chain.kind.as_bytes())
            .nested_hook()
            .push_num(chain.hook)
            .push_priority(chain.priority)
            .end_nested();
        self.batch.add(&request, "create chain", chain.name);
    }

    fn map(&mut self, name: &'static str, key: Key, id: u32) {
        let mut request = nl::Request::new().set_create().op_newset_do(&header());
        request
            .encode()
            .push_table_bytes(self.table.as_bytes())
            .push_name_bytes(name.as_bytes())
            .push_flags(nl::SetFlags::Map as u32)
            .push_key_type(key.kind())
            .push_key_len(key.length())
            .push_data_type(TARGET_KIND)
            .push_data_len(TARGET_LENGTH)
            .push_id(id);
        self.batch.add(&request, "create map", name);
    }

    fn rule(
        &mut self,
        chain: Chain,
        expressions: impl for<'r> FnOnce(
            Rule<nl::PushRuleAttrs<&'r mut Vec<u8>>>,
        ) -> Rule<nl::PushRuleAttrs<&'r mut Vec<u8>>>,
    ) {
        let mut request = nl::Request::new().set_create().set_append().op_newrule_do(&header());
        let list = request
            .encode()
            .push_table_bytes(self.table.as_bytes())
            .push_chain_bytes(chain.name.as_bytes())
            .nested_expressions();
        drop(expressions(Rule(list)));
        self.batch.add(&request, "add a rule to chain", chain.name);
    }
}

/// Header of the messages around a transaction: `NFNL_SUBSYS_NFTABLES` in network byte order.
fn batch_header() -> nl::Nfgenmsg {
    nl::Nfgenmsg {
        nfgen_family: libc::AF_UNSPEC as u8,
        _res_id_be: (libc::NFNL_SUBSYS_NFTABLES as u16).to_be(),
        ..nl::Nfgenmsg::new()
    }
}
