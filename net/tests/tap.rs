//! A guest on a tap, as packets see it. The guest is a network namespace whose own tap is wired to the first one frame by frame.
//! Needs root.
#![allow(clippy::unwrap_used)] // The lint's own exception covers `#[test]` functions, not what they share.

mod support;

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr};
use std::os::fd::{AsFd, OwnedFd};
use std::thread;
use std::time::Duration;

use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use rkvm_net::{Network, Reservation, VNET_HEADER_BYTES};
use support::{HOST, NEIGHBOUR, Netns, World, ask_tcp, id, ip, mappings, print, serve_tcp, world};

/// A guest that is up as long as this.
struct Guest {
    inside: Netns,
    reservation: Reservation,
    _folder: tempfile::TempDir,
}

fn guest(world: &World, name: &str, ports: &[&str]) -> Guest {
    let reservation = world.network.reserve(&id(name), name, &mappings(ports)).unwrap();
    let tap = world.network.connect_tap(&reservation).unwrap();
    let inside = Netns::new();
    let folder = tempfile::tempdir().unwrap();
    let lease = reservation.lease();
    let card = inside.run(|| {
        // The card is a tap too; its bridge is of no use here.
        let network = Network::open(folder.path());
        let own = network.reserve(&id(name), name, &[]).unwrap();
        let card = network.connect_tap(&own).unwrap();
        ip(&format!("link delete {}", network.name()));
        let link = &own.lease().host_link;
        let mac = lease.mac.map(|byte| format!("{byte:02x}")).join(":");
        ip("link set lo up");
        ip(&format!("link set {link} address {mac} up"));
        ip(&format!("address add {}/{} dev {link}", lease.address, lease.prefix));
        ip(&format!("route add default via {}", lease.gateway));
        card
    });
    wire(tap, card);
    Guest { inside, reservation, _folder: folder }
}

/// Carries frames both ways until one end is closed.
fn wire(a: OwnedFd, b: OwnedFd) {
    let ends = [File::from(a), File::from(b)];
    thread::spawn(move || {
        let mut frame = vec![0; 70_000];
        loop {
            let mut polled = ends.each_ref().map(|end| PollFd::new(end.as_fd(), PollFlags::POLLIN));
            poll(&mut polled, PollTimeout::NONE).unwrap();
            for (from, to) in [(0, 1), (1, 0)] {
                while let Ok(length) = (&ends[from]).read(&mut frame) {
                    assert!(length > VNET_HEADER_BYTES.into(), "a frame has a header");
                    let _ = (&ends[to]).write(&frame[..length]);
                }
            }
        }
    });
}

#[test]
fn a_guest_has_the_same_network_as_a_container() {
    let world = world();
    let guest = guest(&world, "guest", &["80"]);
    let container = world.container("container", &["80"]);
    let other = self::guest(&world, "other", &[]);
    for netns in [&guest.inside, &container.netns] {
        serve_tcp(netns, 80);
    }
    serve_tcp(&world.neighbour, 8000);
    let lease = guest.reservation.lease();
    let port = lease.ports[0].host_port;
    let gateway = IpAddr::V4(lease.gateway);
    assert_eq!(ask_tcp(Ipv4Addr::LOCALHOST, port).unwrap(), gateway, "published on the loopback");
    assert_eq!(ask_tcp(HOST, port).unwrap(), IpAddr::V4(HOST), "published on the host's address");
    world.neighbour.run(|| assert_eq!(ask_tcp(HOST, port).unwrap(), IpAddr::V4(NEIGHBOUR)));
    container.netns.run(|| {
        assert_eq!(ask_tcp(lease.address, 80).unwrap(), IpAddr::V4(container.lease().address));
    });
    guest.inside.run(|| {
        assert_eq!(ask_tcp(container.lease().address, 80).unwrap(), IpAddr::V4(lease.address));
        assert_eq!(ask_tcp(NEIGHBOUR, 8000).unwrap(), IpAddr::V4(HOST));
        assert_eq!(ask_tcp(HOST, port).unwrap(), gateway, "a port that it publishes itself");
    });
    other.inside.run(|| {
        assert_eq!(
            ask_tcp(lease.address, 80).unwrap(),
            IpAddr::V4(other.reservation.lease().address),
            "guest to guest"
        );
    });
}

#[test]
fn a_tap_ends_with_its_descriptor_and_its_lease_is_released_without_it() {
    let world = world();
    let reservation = world.network.reserve(&id("guest"), "guest", &mappings(&["80"])).unwrap();
    let link = reservation.lease().host_link.clone();
    let tap = world.network.connect_tap(&reservation).unwrap();
    let shown = print("ip", &["-d", "link", "show", &link]);
    for property in ["tun type tap", "vnet_hdr on", "persist off", "bridge_slave", "UP"] {
        assert!(shown.contains(property), "{property} is not in {shown}");
    }
    drop(tap);
    for _ in 0..100 {
        if !print("ip", &["link"]).contains(&link) {
            break;
        }
        thread::sleep(Duration::from_millis(20));
    }
    assert!(!print("ip", &["link"]).contains(&link), "the tap outlives its descriptor");
    world.network.release(&id("guest")).unwrap();
    assert!(world.network.leases().unwrap().is_empty());
    world.network.remove().unwrap();
}

#[test]
fn releasing_takes_a_tap_that_is_still_held() {
    let world = world();
    let reservation = world.network.reserve(&id("guest"), "guest", &[]).unwrap();
    let tap = world.network.connect_tap(&reservation).unwrap();
    world.network.release(&id("guest")).unwrap();
    assert!(!print("ip", &["link"]).contains(&reservation.lease().host_link));
    let mut frame = [0; 100];
    assert!(File::from(tap).read(&mut frame).is_err(), "the descriptor has no link behind it any more");
}

#[test]
fn a_restart_takes_over_from_the_run_before() {
    let world = world();
    let reservation = world.network.reserve(&id("guest"), "guest", &[]).unwrap();
    let _before = world.network.connect_tap(&reservation).unwrap();
    let _now = world.network.connect_tap(&reservation).unwrap();
    // As a container, in a namespace that is on its way out.
    let netns = Netns::new();
    world.network.connect(netns.fd(), &reservation).unwrap();
    let _again = world.network.connect_tap(&reservation).unwrap();
    world.network.release(&id("guest")).unwrap();
    world.network.remove().unwrap();
}
