//! Leases, ports and links from the first container to an empty host. Needs root.
#![allow(clippy::unwrap_used)] // The lint's own exception covers `#[test]` functions, not what they share.

mod support;

use std::net::{Ipv4Addr, TcpListener, UdpSocket};
use std::time::{Duration, Instant};

use nix::fcntl::{Flock, FlockArg};
use rkvm_net::{Error, Holder, HostPorts, PortMapping, Protocol};
use support::{Netns, ask_tcp, ask_udp, id, ip, mappings, print, serve_tcp, serve_udp, world};

/// Names of links, addresses and rules of the calling thread's namespace.
fn traces() -> String {
    let links = print("ip", &["-brief", "link"]);
    let links: Vec<_> = links.lines().filter_map(|line| line.split(' ').next()).collect();
    links.join(" ") + &print("ip", &["-o", "-4", "address"]) + &print("nft", &["list", "ruleset"])
}

#[test]
fn nothing_is_left_when_the_network_is_removed() {
    let world = world();
    let before = traces();
    let web = world.container("web", &["80", "53/udp"]);
    assert_ne!(traces(), before);
    let in_use = world.network.remove().unwrap_err();
    assert!(matches!(in_use, Error::InUse { count: 1, .. }), "{in_use}");
    world.network.release(&id("web")).unwrap();
    world.network.release(&id("web")).unwrap();
    assert_eq!(world.network.leases().unwrap(), []);
    drop(web);
    world.network.remove().unwrap();
    world.network.remove().unwrap();
    assert_eq!(traces(), before);
    assert_eq!(std::fs::read_dir(world.folder.path()).unwrap().count(), 0);
}

#[test]
fn a_released_container_leaves_the_network_as_it_was() {
    let world = world();
    let _first = world.container("first", &[]);
    let before = traces();
    let second = world.container("second", &["80", "127.0.0.1::53/udp"]);
    drop(second);
    world.network.release(&id("second")).unwrap();
    assert_eq!(traces(), before);
}

#[test]
fn a_second_container_is_told_who_has_the_port_and_leaves_nothing() {
    let world = world();
    let first = world.container("first", &["80", "53/udp"]);
    let before = (traces(), world.network.leases().unwrap());
    for (port, protocol) in [(first.host_port(0), Protocol::Tcp), (first.host_port(1), Protocol::Udp)] {
        for wanted in [format!("{port}:1/{protocol}"), format!("127.0.0.1:{port}:1/{protocol}")] {
            let error =
                world.network.reserve(&id("second"), "second", &mappings(&["7", &wanted])).unwrap_err();
            assert!(error.to_string().contains("container \"first\""), "{error}");
            assert!(error.to_string().contains(&format!("{port}/{protocol}")), "{error}");
        }
    }
    assert_eq!((traces(), world.network.leases().unwrap()), before);
}

#[test]
fn addresses_of_killed_owners_are_given_away_when_no_other_is_free() {
    let world = world();
    let first = world.network.reserve(&id("first"), "first", &[]).unwrap();
    let lease = first.lease();
    // The subnet's other addresses, all taken.
    let fill = |owner: u32| {
        let network = u32::from(lease.address) & (u32::MAX << (32 - lease.prefix));
        for host in 1..1 << (32 - lease.prefix) {
            let mut other = lease.clone();
            other.address = Ipv4Addr::from(network + host);
            if other.address == lease.address || other.address == lease.gateway {
                continue;
            }
            other.container_id = id(&host.to_string());
            other.host_link = format!("rkvtest{host}");
            other.owner_pid = owner;
            let name = format!("{}@{}", other.container_id, other.address);
            let path = world.folder.path().join("net/leases").join(name);
            std::fs::write(path, serde_json::to_vec(&other).unwrap()).unwrap();
        }
    };
    fill(std::process::id());
    let none = world.network.reserve(&id("second"), "second", &[]).unwrap_err();
    assert!(matches!(none, Error::NoAddress { .. }), "{none}");
    fill(i32::MAX as u32);
    let second = world.network.reserve(&id("second"), "second", &[]).unwrap();
    assert_eq!(world.network.leases().unwrap(), [lease.clone(), second.lease().clone()]);
}

#[test]
fn a_process_that_has_the_port_is_named() {
    let world = world();
    for address in ["0.0.0.0:0", "[::]:0", "127.0.0.1:0"] {
        let listener = TcpListener::bind(address).unwrap();
        let port = listener.local_addr().unwrap().port();
        let error =
            world.network.reserve(&id("web"), "web", &mappings(&[&format!("{port}:80")])).unwrap_err();
        let own = std::process::id().cast_signed();
        assert!(
            matches!(&error, Error::PortTaken { holder: Holder::Process { pid, .. }, .. } if *pid == own),
            "{error}"
        );
    }
    assert_eq!(world.network.leases().unwrap(), []);
}

#[test]
fn a_container_that_asks_twice_for_a_port_is_told_so() {
    let world = world();
    let wanted = mappings(&["8080:80", "8080:81"]);
    let error = world.network.reserve(&id("web"), "web", &wanted).unwrap_err();
    assert!(error.to_string().contains("container \"web\""), "{error}");
    // One port for each protocol is fine.
    world.network.reserve(&id("web"), "web", &mappings(&["8080:80", "8080:80/udp"])).unwrap();
}

#[test]
fn no_process_can_take_a_published_port() {
    let world = world();
    let server = world.container("server", &["80", "53/udp"]);
    let (tcp, udp) = (server.host_port(0), server.host_port(1));
    for address in [Ipv4Addr::UNSPECIFIED, Ipv4Addr::LOCALHOST] {
        TcpListener::bind((address, tcp)).unwrap_err();
        UdpSocket::bind((address, udp)).unwrap_err();
    }
}

#[test]
fn ranges_pick_the_first_free_port_and_fail_when_there_is_none() {
    let world = world();
    let taken = TcpListener::bind("0.0.0.0:20000").unwrap();
    let wanted = mappings(&["20000-20001:80"]);
    let first = world.network.reserve(&id("first"), "first", &wanted).unwrap();
    assert_eq!(first.lease().ports[0].host_port, 20001);
    let error = world.network.reserve(&id("second"), "second", &wanted).unwrap_err();
    assert!(error.to_string().contains("20000 to 20001"), "{error}");
    drop(taken);
}

#[test]
fn a_port_chosen_by_the_kernel_is_never_one_that_was_asked_for() {
    let world = world();
    // Leave the kernel one port to choose from beside the one that is asked for.
    std::fs::write("/proc/sys/net/ipv4/ip_local_port_range", "20000 20001").unwrap();
    let wanted = mappings(&["80", "20000:81"]);
    let reservation = world.network.reserve(&id("web"), "web", &wanted).unwrap();
    let ports: Vec<_> =
        reservation.lease().ports.iter().map(|port| (port.container_port, port.host_port)).collect();
    assert_eq!(ports, [(80, 20001), (81, 20000)]);
}

#[test]
fn an_address_the_host_does_not_have_is_named() {
    let world = world();
    let error = world.network.reserve(&id("web"), "web", &mappings(&["203.0.113.7:80:80"])).unwrap_err();
    assert!(error.to_string().contains("203.0.113.7"), "{error}");
    assert!(error.to_string().contains("no such address"), "{error}");
}

#[test]
fn what_a_killed_monitor_left_is_repaired() {
    let world = world();
    let _alive = world.container("alive", &["80"]);
    let before = traces();
    let killed = world.container("killed", &["80", "53/udp"]);
    // Its sockets are gone with it; its rules, its lease and, until the kernel is done, its link are not.
    drop(killed);
    assert_ne!(traces(), before);
    let repaired = world.network.repair(|lease| lease.container_name == "alive").unwrap();
    assert_eq!(repaired.len(), 1);
    assert_eq!(repaired[0].container_name, "killed");
    assert_eq!(traces(), before);
}

#[test]
fn a_lease_whose_writing_was_killed_is_removed_with_its_container() {
    let world = world();
    let _alive = world.container("alive", &[]);
    let leases = world.folder.path().join("net/leases");
    let unfinished = leases.join(format!("{}@10.0.0.9.new", id("killed")));
    std::fs::write(&unfinished, "{").unwrap();
    world.network.release(&id("killed")).unwrap();
    assert!(!unfinished.exists());
    assert_eq!(world.network.leases().unwrap().len(), 1);
}

#[test]
fn prune_keeps_a_network_that_is_used_and_removes_one_that_is_not() {
    let world = world();
    let before = traces();
    let container = world.container("web", &["80"]);
    world.network.prune().unwrap();
    assert_eq!(world.network.leases().unwrap().len(), 1);
    let lease = world.folder.path().join(format!("net/leases/{}@{}", id("web"), container.lease().address));
    let text = std::fs::read_to_string(&lease).unwrap();
    // No process can have this number (proc(5), pid_max).
    let owner = format!("\"ownerPid\":{}", std::process::id());
    std::fs::write(&lease, text.replace(&owner, "\"ownerPid\":4194305")).unwrap();
    world.network.prune().unwrap();
    assert_eq!(traces(), before);
}

#[test]
fn the_port_of_a_killed_monitor_can_be_taken_at_once() {
    let world = world();
    let killed = world.container("killed", &["80"]);
    let port = killed.host_port(0);
    drop(killed);
    let next = world.container("next", &[&format!("{port}:80")]);
    serve_tcp(&next.netns, 80);
    ask_tcp(Ipv4Addr::LOCALHOST, port).unwrap();
    // Releasing the dead one must not take the port from the living.
    world.network.release(&id("killed")).unwrap();
    ask_tcp(Ipv4Addr::LOCALHOST, port).unwrap();
}

#[test]
fn a_restarted_container_keeps_its_address_and_ports() {
    let world = world();
    let mut server = world.container("server", &["80", "53/udp"]);
    for _ in 0..3 {
        // The next run begins while the namespace of the one before may still be going away.
        server.netns = Netns::new();
        world.network.connect(server.netns.fd(), &server.reservation).unwrap();
        serve_tcp(&server.netns, 80);
        serve_udp(&server.netns, 53);
        ask_tcp(Ipv4Addr::LOCALHOST, server.host_port(0)).unwrap();
        ask_udp(Ipv4Addr::LOCALHOST, server.host_port(1)).unwrap();
    }
}

#[test]
fn a_network_that_was_torn_down_by_others_is_made_again() {
    let world = world();
    let first = world.container("first", &["80"]);
    serve_tcp(&first.netns, 80);
    let made = print("nft", &["list", "ruleset"]);
    print("nft", &["flush", "ruleset"]);
    let _second = world.container("second", &[]);
    assert_eq!(print("nft", &["list", "ruleset"]), made);
    ask_tcp(Ipv4Addr::LOCALHOST, first.host_port(0)).unwrap();

    ip(&format!("link delete {}", world.network.name()));
    let third = world.container("third", &["80"]);
    serve_tcp(&third.netns, 80);
    ask_tcp(Ipv4Addr::LOCALHOST, third.host_port(0)).unwrap();
}

#[test]
fn leases_do_not_survive_a_reboot_but_the_subnet_does() {
    let world = world();
    let web = world.container("web", &[]);
    let subnet = world.network.subnet().unwrap();
    drop(web);
    let settings = world.folder.path().join("net/network.json");
    let text = std::fs::read_to_string(&settings).unwrap();
    let boot_id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    std::fs::write(&settings, text.replace(boot_id.trim(), "another-boot")).unwrap();
    // After a reboot the kernel has neither link nor rules.
    ip(&format!("link delete {}", world.network.name()));
    print("nft", &["flush", "ruleset"]);
    let next = world.container("next", &["80"]);
    assert_eq!(world.network.subnet().unwrap(), subnet);
    let names: Vec<_> =
        world.network.leases().unwrap().into_iter().map(|lease| lease.container_name).collect();
    assert_eq!(names, ["next"]);
    drop(next);
}

#[test]
fn a_subnet_that_the_host_uses_is_passed_over() {
    let world = world();
    ip("route add 10.160.0.0/13 via 192.0.2.2");
    ip("address add 10.168.0.1/13 dev uplink");
    let error = world.network.reserve(&id("web"), "web", &[]).unwrap_err();
    assert!(error.to_string().contains("10.160.0.0/12"), "{error}");
    ip("address delete 10.168.0.1/13 dev uplink");
    let web = world.container("web", &[]);
    assert!(web.lease().address >= Ipv4Addr::new(10, 168, 0, 0), "{:?}", web.lease());
}

#[test]
fn many_containers_at_once_get_addresses_and_ports_of_their_own() {
    let world = world();
    let netns = std::fs::File::open("/proc/thread-self/ns/net").unwrap();
    let range = PortMapping {
        host_ip: Ipv4Addr::UNSPECIFIED,
        host: HostPorts::FirstFree(21000..=21063),
        container: 80,
        protocol: Protocol::Tcp,
    };
    let containers: Vec<_> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..32)
            .map(|number| {
                let (network, netns, range) = (&world.network, &netns, range.clone());
                scope.spawn(move || {
                    nix::sched::setns(netns, nix::sched::CloneFlags::CLONE_NEWNET).unwrap();
                    let name = format!("c{number}");
                    let reservation = network.reserve(&id(&name), &name, &[range]).unwrap();
                    let inside = Netns::new();
                    network.connect(inside.fd(), &reservation).unwrap();
                    (inside, reservation)
                })
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let mut addresses: Vec<_> =
        containers.iter().map(|(_, reservation)| reservation.lease().address).collect();
    let mut ports: Vec<_> =
        containers.iter().map(|(_, reservation)| reservation.lease().ports[0].host_port).collect();
    addresses.sort();
    addresses.dedup();
    ports.sort();
    ports.dedup();
    assert_eq!((addresses.len(), ports.len()), (32, 32));
    world.network.repair(|_| false).unwrap();
    world.network.remove().unwrap();
}

#[test]
fn a_thousand_ports_are_published_and_withdrawn() {
    let world = world();
    let server = world.container("server", &["22000-22999:1-1000"]);
    serve_tcp(&server.netns, 1000);
    ask_tcp(Ipv4Addr::LOCALHOST, 22999).unwrap();
    world.network.release(&id("server")).unwrap();
    let rules = print("nft", &["list", "ruleset"]);
    assert!(!rules.contains("22000"), "{rules}");
}

#[test]
fn a_container_without_a_network_has_loopback() {
    let _world = world();
    let netns = Netns::new();
    rkvm_net::loopback_up(netns.fd()).unwrap();
    serve_tcp(&netns, 80);
    netns.run(|| ask_tcp(Ipv4Addr::LOCALHOST, 80).unwrap());
}

#[test]
fn closed_ports_are_free_at_once_and_the_rest_goes_later() {
    let world = world();
    let first = world.container("first", &["80"]);
    let port = first.host_port(0);
    let address = first.lease().address;
    drop(first.reservation);
    world.network.close_ports(&id("first")).unwrap();
    world.network.close_ports(&id("first")).unwrap();
    let second = world.container("second", &[&format!("{port}:80")]);
    serve_tcp(&second.netns, 80);
    ask_tcp(Ipv4Addr::LOCALHOST, port).unwrap();
    // The address is not given out while the link is there.
    assert!(world.network.leases().unwrap().iter().any(|lease| lease.address == address));
    world.network.release_own(&id("first")).unwrap();
    assert_eq!(world.network.leases().unwrap().len(), 1);
    ask_tcp(Ipv4Addr::LOCALHOST, port).unwrap();
}

#[test]
fn a_monitor_does_not_release_what_the_next_one_has_reserved() {
    let world = world();
    let container = world.container("web", &[]);
    let lease = world.folder.path().join(format!("net/leases/{}@{}", id("web"), container.lease().address));
    let text = std::fs::read_to_string(&lease).unwrap();
    let own = format!("\"ownerPid\":{}", std::process::id());
    assert!(text.contains(&own), "{text}");
    std::fs::write(&lease, text.replace(&own, "\"ownerPid\":1")).unwrap();
    world.network.release_own(&id("web")).unwrap();
    assert_eq!(world.network.leases().unwrap().len(), 1);
    world.network.release(&id("web")).unwrap();
    assert_eq!(world.network.leases().unwrap(), []);
}

#[test]
fn a_release_under_way_holds_up_the_networks_removal_and_no_other_container() {
    let world = world();
    drop(world.container("first", &[]));
    world.network.release(&id("first")).unwrap();
    // As a release holds it while the kernel removes the link.
    let leases = std::fs::File::open(world.folder.path().join("net/leases")).unwrap();
    let under_way = Flock::lock(leases, FlockArg::LockShared).unwrap();
    drop(world.container("second", &[]));
    world.network.release(&id("second")).unwrap();
    std::thread::scope(|scope| {
        let removal = scope.spawn(|| world.network.remove());
        std::thread::sleep(Duration::from_millis(100));
        assert!(!removal.is_finished());
        drop(under_way);
        removal.join().unwrap().unwrap();
    });
}

/// Prints what a container's network costs (`cargo test -p rkvm-net cost -- --nocapture`).
#[test]
fn cost_of_a_containers_network() {
    const ROUNDS: usize = 20;
    const STEPS: [&str; 4] = ["reserve", "connect", "close_ports", "release"];
    let world = world();
    let first = world.container("first", &[]);
    let mut spent = [0; STEPS.len()];
    for round in 0..ROUNDS {
        let name = format!("{round:02}");
        let netns = Netns::new();
        let mut times = vec![Instant::now()];
        let reservation = world.network.reserve(&id(&name), &name, &mappings(&["80"])).unwrap();
        times.push(Instant::now());
        world.network.connect(netns.fd(), &reservation).unwrap();
        times.push(Instant::now());
        world.network.close_ports(&id(&name)).unwrap();
        times.push(Instant::now());
        world.network.release(&id(&name)).unwrap();
        times.push(Instant::now());
        for (sum, pair) in spent.iter_mut().zip(times.windows(2)) {
            *sum += (pair[1] - pair[0]).as_micros();
        }
    }
    for (step, sum) in STEPS.iter().zip(spent) {
        println!("{step}: {} us", sum / ROUNDS as u128);
    }
    drop(first);
}
