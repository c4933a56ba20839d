//! The bridge network as packets see it: from the host, from its neighbour, and between containers. Needs root.
#![allow(clippy::unwrap_used)] // The lint's own exception covers `#[test]` functions, not what they share.

mod support;

use std::net::{IpAddr, Ipv4Addr, UdpSocket};
use std::time::Duration;

use support::{Container, HOST, NEIGHBOUR, World, ask_tcp, ask_udp, serve_tcp, serve_udp, world};

const PORTS: [&str; 2] = ["80", "53/udp"];

fn server(world: &World) -> Container {
    let container = world.container("server", &PORTS);
    serve_tcp(&container.netns, 80);
    serve_udp(&container.netns, 53);
    container
}

#[test]
fn a_published_port_is_reached_from_the_hosts_loopback() {
    let world = world();
    let server = server(&world);
    let gateway = IpAddr::V4(server.lease().gateway);
    for address in [Ipv4Addr::LOCALHOST, Ipv4Addr::new(127, 0, 0, 9)] {
        assert_eq!(ask_tcp(address, server.host_port(0)).unwrap(), gateway, "{address}");
        assert_eq!(ask_udp(address, server.host_port(1)).unwrap(), gateway, "{address}");
    }
}

#[test]
fn a_published_port_is_reached_from_the_hosts_own_address() {
    let world = world();
    let server = server(&world);
    for address in [HOST, server.lease().gateway] {
        assert_eq!(ask_tcp(address, server.host_port(0)).unwrap(), IpAddr::V4(address));
        assert_eq!(ask_udp(address, server.host_port(1)).unwrap(), IpAddr::V4(address));
    }
}

#[test]
fn a_published_port_is_reached_by_a_neighbour_who_keeps_its_address() {
    let world = world();
    let server = server(&world);
    let (tcp, udp) = (server.host_port(0), server.host_port(1));
    world.neighbour.run(|| {
        assert_eq!(ask_tcp(HOST, tcp).unwrap(), IpAddr::V4(NEIGHBOUR));
        assert_eq!(ask_udp(HOST, udp).unwrap(), IpAddr::V4(NEIGHBOUR));
    });
}

#[test]
fn a_published_port_is_reached_by_containers_through_the_hosts_address() {
    let world = world();
    let server = server(&world);
    let client = world.container("client", &[]);
    let (tcp, udp) = (server.host_port(0), server.host_port(1));
    for (who, container) in [("another", &client), ("the server itself", &server)] {
        container.netns.run(|| {
            for address in [HOST, server.lease().gateway] {
                ask_tcp(address, tcp).unwrap_or_else(|error| panic!("{who}, tcp, {address}: {error}"));
                ask_udp(address, udp).unwrap_or_else(|error| panic!("{who}, udp, {address}: {error}"));
            }
        });
    }
}

#[test]
fn containers_reach_each_other_directly_and_the_world_with_the_hosts_address() {
    let world = world();
    let server = server(&world);
    let client = world.container("client", &[]);
    serve_tcp(&world.neighbour, 8000);
    serve_udp(&world.neighbour, 8000);
    client.netns.run(|| {
        let own = IpAddr::V4(client.lease().address);
        assert_eq!(ask_tcp(server.lease().address, 80).unwrap(), own);
        assert_eq!(ask_udp(server.lease().address, 53).unwrap(), own);
        assert_eq!(ask_tcp(NEIGHBOUR, 8000).unwrap(), IpAddr::V4(HOST));
        assert_eq!(ask_udp(NEIGHBOUR, 8000).unwrap(), IpAddr::V4(HOST));
    });
}

#[test]
fn a_client_that_keeps_sending_udp_reaches_the_container_that_has_the_port_now() {
    let world = world();
    let client = world.neighbour.run(|| UdpSocket::bind("0.0.0.0:5000").unwrap());
    client.set_read_timeout(Some(Duration::from_millis(500))).unwrap();
    let answered = || {
        client.send_to(b"?", (HOST, 5353)).unwrap();
        client.recv(&mut [0; 64]).is_ok()
    };
    assert!(!answered(), "nobody has the port yet");
    for name in ["first", "second"] {
        let server = world.container(name, &["5353:53/udp"]);
        serve_udp(&server.netns, 53);
        // A datagram may be lost on a busy host. A flow to the container before would swallow them all: each keeps it alive.
        assert!((0..10).any(|_| answered()), "{name}");
        drop(server);
        world.network.release(&support::id(name)).unwrap();
    }
}
