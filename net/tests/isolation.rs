//! What must not be reachable through the bridge. Needs root.
#![allow(clippy::unwrap_used)] // The lint's own exception covers `#[test]` functions, not what they share.

mod support;

use std::net::Ipv4Addr;

use support::{HOST, NEIGHBOUR, Netns, ask_tcp, ask_tcp_in_vain, serve_tcp, serve_tcp_at, world};

#[test]
fn a_neighbour_that_routes_the_subnet_to_the_host_reaches_published_ports_only() {
    let world = world();
    let server = world.container("server", &["80"]);
    serve_tcp(&server.netns, 80);
    serve_tcp(&server.netns, 81);
    let subnet = world.network.subnet().unwrap().unwrap();
    world.neighbour.ip(&format!("route add {subnet} via {HOST}"));
    let (address, published) = (server.lease().address, server.host_port(0));
    world.neighbour.run(|| {
        ask_tcp_in_vain(address, 80);
        ask_tcp_in_vain(address, 81);
        ask_tcp(HOST, published).unwrap();
    });
    // The host itself may: it is not forwarding then.
    ask_tcp(address, 81).unwrap();
}

#[test]
fn a_container_cannot_reach_services_on_the_hosts_loopback() {
    let world = world();
    let container = world.container("attacker", &["80"]);
    serve_tcp_at(Ipv4Addr::LOCALHOST, 9999);
    // As an attacker with raw sockets would: loopback addresses sent through the bridge.
    let lease = container.lease();
    container.netns.ip("rule add pref 100 lookup local");
    container.netns.ip("rule delete pref 0");
    container.netns.ip("rule add pref 10 to 127.0.0.0/8 lookup 99");
    container.netns.ip(&format!("route add 127.0.0.0/8 via {} table 99", lease.gateway));
    container.netns.run(|| {
        std::fs::write("/proc/sys/net/ipv4/conf/eth0/route_localnet", "1").unwrap();
        std::fs::write("/proc/sys/net/ipv4/conf/all/rp_filter", "0").unwrap();
        ask_tcp_in_vain(Ipv4Addr::LOCALHOST, 9999);
    });
    // That it is the rule that keeps it out, and not a flaw of the attack:
    support::print("nft", &["flush", "chain", "ip", world.network.name(), "guard"]);
    container.netns.run(|| ask_tcp(Ipv4Addr::LOCALHOST, 9999).unwrap());
}

#[test]
fn networks_of_two_instances_do_not_reach_each_other_but_by_published_ports() {
    let world = world();
    let other_folder = tempfile::tempdir().unwrap();
    let other = rkvm_net::Network::open(other_folder.path());
    let server = world.container("server", &["80"]);
    serve_tcp(&server.netns, 80);
    let reservation = other.reserve(&support::id("client"), "client", &[]).unwrap();
    let client = Netns::new();
    other.connect(client.fd(), &reservation).unwrap();
    assert_ne!(world.network.name(), other.name());
    assert_ne!(world.network.subnet().unwrap(), other.subnet().unwrap());
    let (address, published) = (server.lease().address, server.host_port(0));
    client.run(|| {
        ask_tcp_in_vain(address, 80);
        ask_tcp(HOST, published).unwrap();
    });
    serve_tcp(&world.neighbour, 8000);
    client.run(|| ask_tcp(NEIGHBOUR, 8000).unwrap());
}

#[test]
fn a_port_published_on_one_address_is_not_open_on_another() {
    let world = world();
    let server = world.container("server", &["127.0.0.1::80", &format!("{HOST}::80")]);
    serve_tcp(&server.netns, 80);
    let (loopback, outside) = (server.host_port(0), server.host_port(1));
    ask_tcp(Ipv4Addr::LOCALHOST, loopback).unwrap();
    ask_tcp_in_vain(HOST, loopback);
    ask_tcp_in_vain(Ipv4Addr::LOCALHOST, outside);
    world.neighbour.run(|| {
        ask_tcp(HOST, outside).unwrap();
        ask_tcp_in_vain(HOST, loopback);
    });
}
