//! A host, its neighbour and containers, all in network namespaces of their own: a test sees nothing of the machine it
//! runs on, and leaves nothing when its threads end.
#![allow(dead_code)] // Each test file uses its own part.

use std::fs::File;
use std::io::{Read, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::os::fd::AsFd;
use std::process::Command;
use std::thread;
use std::time::Duration;

use nix::sched::{CloneFlags, setns, unshare};
use rkvm_net::{Lease, Network, PortMapping, Reservation};

/// The host's address towards its neighbour.
pub const HOST: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 1);
/// The neighbour's address.
pub const NEIGHBOUR: Ipv4Addr = Ipv4Addr::new(192, 0, 2, 2);

const SHORT: Duration = Duration::from_millis(700);
const LONG: Duration = Duration::from_secs(5);

/// A network namespace that lives as long as this.
pub struct Netns(File);

impl Netns {
    pub fn new() -> Self {
        Self(spawned(|| {
            unshare(CloneFlags::CLONE_NEWNET).unwrap();
            File::open("/proc/thread-self/ns/net").unwrap()
        }))
    }

    /// Runs `work` inside.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> T {
        spawned(|| {
            setns(self.0.as_fd(), CloneFlags::CLONE_NEWNET).unwrap();
            work()
        })
    }

    pub fn ip(&self, arguments: &str) {
        self.run(|| ip(arguments));
    }

    pub fn fd(&self) -> std::os::fd::BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn spawned<T: Send>(work: impl FnOnce() -> T + Send) -> T {
    thread::scope(|scope| scope.spawn(work).join().unwrap())
}

pub fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().unwrap();
    assert!(output.status.success(), "ip {arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// What a command prints, for comparing before with after.
pub fn print(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program).args(arguments).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// The calling thread becomes the host; the neighbour is linked to it.
pub struct World {
    pub folder: tempfile::TempDir,
    pub network: Network,
    pub neighbour: Netns,
}

pub fn world() -> World {
    unshare(CloneFlags::CLONE_NEWNET).unwrap();
    let neighbour = Netns::new();
    ip("link set lo up");
    // The neighbour's end is moved by naming the thread that holds its namespace open.
    let fd = format!("/proc/{}/fd/{}", std::process::id(), std::os::fd::AsRawFd::as_raw_fd(&neighbour.0));
    ip(&format!("link add uplink type veth peer name uplink netns {fd}"));
    ip(&format!("address add {HOST}/24 dev uplink"));
    ip("link set uplink up");
    neighbour.ip("link set lo up");
    neighbour.ip(&format!("address add {NEIGHBOUR}/24 dev uplink"));
    neighbour.ip("link set uplink up");
    let folder = tempfile::tempdir().unwrap();
    let network = Network::open(folder.path());
    World { folder, network, neighbour }
}

/// A connected container.
pub struct Container {
    pub netns: Netns,
    pub reservation: Reservation,
}

impl Container {
    pub fn lease(&self) -> &Lease {
        self.reservation.lease()
    }

    pub fn host_port(&self, index: usize) -> u16 {
        self.lease().ports[index].host_port
    }
}

impl World {
    pub fn container(&self, name: &str, ports: &[&str]) -> Container {
        let reservation = self.network.reserve(&id(name), name, &mappings(ports)).unwrap();
        let netns = Netns::new();
        self.network.connect(netns.fd(), &reservation).unwrap();
        Container { netns, reservation }
    }
}

pub fn mappings(ports: &[&str]) -> Vec<PortMapping> {
    ports.iter().flat_map(|port| PortMapping::parse(port).unwrap()).collect()
}

/// An id as the engine makes them, the same for the same name.
pub fn id(name: &str) -> String {
    let digits: String = name.bytes().map(|byte| format!("{byte:02x}")).collect();
    format!("{digits:0<64}")
}

/// Serves TCP in `netns`: each client is told the address that it was seen with.
pub fn serve_tcp(netns: &Netns, port: u16) {
    netns.run(|| serve_tcp_at(Ipv4Addr::UNSPECIFIED, port));
}

/// As [`serve_tcp`], in the calling thread's namespace.
pub fn serve_tcp_at(address: Ipv4Addr, port: u16) {
    let listener = TcpListener::bind((address, port)).unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let peer = stream.peer_addr().unwrap().ip().to_string();
            let _ = stream.write_all(peer.as_bytes());
        }
    });
}

/// As [`serve_tcp`], over UDP.
pub fn serve_udp(netns: &Netns, port: u16) {
    let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, port)).unwrap());
    thread::spawn(move || {
        let mut buffer = [0; 64];
        while let Ok((_, peer)) = socket.recv_from(&mut buffer) {
            let _ = socket.send_to(peer.ip().to_string().as_bytes(), peer);
        }
    });
}

/// The address that a TCP server sees the calling thread with.
pub fn ask_tcp(address: impl Into<IpAddr>, port: u16) -> std::io::Result<IpAddr> {
    connect_within(address.into(), port, LONG)
}

/// As [`ask_tcp`], for servers that are not to be reached.
pub fn ask_tcp_in_vain(address: impl Into<IpAddr>, port: u16) {
    let result = connect_within(address.into(), port, SHORT);
    assert!(result.is_err(), "reached, and was seen as {result:?}");
}

fn connect_within(address: IpAddr, port: u16, time: Duration) -> std::io::Result<IpAddr> {
    let mut stream = TcpStream::connect_timeout(&SocketAddr::new(address, port), time)?;
    stream.set_read_timeout(Some(time))?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    text.parse().map_err(std::io::Error::other)
}

/// The address that a UDP server sees the calling thread with.
pub fn ask_udp(address: impl Into<IpAddr>, port: u16) -> std::io::Result<IpAddr> {
    let socket = UdpSocket::bind("0.0.0.0:0")?;
    // Connected: an answer from another address than the one asked is dropped, as every resolver does.
    socket.connect((address.into(), port))?;
    socket.set_read_timeout(Some(LONG))?;
    socket.send(b"?")?;
    let mut buffer = [0; 64];
    let length = socket.recv(&mut buffer)?;
    String::from_utf8_lossy(&buffer[..length]).parse().map_err(std::io::Error::other)
}
