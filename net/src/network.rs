//! The bridge network of one engine instance.

use std::fs::{self, File};
use std::io;
use std::net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket};
use std::os::fd::{AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::thread;

use nix::fcntl::{Flock, FlockArg};
use nix::sched::{CloneFlags, setns};

use crate::conntrack;
use crate::error::{Error, Holder, Result};
use crate::holder;
use crate::lease::{self, Lease, Leases, PublishedPort};
use crate::link::{self, Veth};
use crate::netlink::{Batch, Family, Socket, is_errno};
use crate::port::{HostPorts, PortMapping, Protocol};
use crate::subnet::{self, Subnet};
use crate::table::Table;
use crate::tap;

mod release;

/// State folder of the instance that has the plain bridge name.
const DEFAULT_LIB: &str = "/var/lib/rkvm";
const DEFAULT_NAME: &str = "rkvm0";
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";

/// The bridge network of one engine instance. Instances with another state folder have a bridge, a subnet and a table of their
/// own, so that they can neither collide nor reach each other's containers.
#[derive(Debug)]
pub struct Network {
    dir: PathBuf,
    name: String,
    seed: u32,
    // Opened once: closing a netfilter socket waits for an RCU grace period (10 ms) when rules were deleted just before, so that
    // must not happen between two steps of a container's start or end.
    route: Mutex<Option<Socket>>,
    rules: Mutex<Option<Socket>>,
}

/// A container's address and host ports. The ports are held by bound sockets: other processes' attempts to take them fail as
/// long as this lives. Dropping it frees the ports, but neither the address nor the rules; [`Network::release`] does.
#[derive(Debug)]
pub struct Reservation {
    lease: Lease,
    _sockets: Vec<OwnedFd>,
}

impl Reservation {
    /// The address, the gateway and the published ports.
    pub fn lease(&self) -> &Lease {
        &self.lease
    }
}

impl Network {
    /// The network of the instance whose lasting state is in `lib_dir`. Nothing is made before the first reservation.
    pub fn open(lib_dir: &Path) -> Self {
        let (name, seed) = if lib_dir == Path::new(DEFAULT_LIB) {
            (DEFAULT_NAME.to_owned(), 0)
        } else {
            let hash = fnv(lib_dir.as_os_str().as_encoded_bytes());
            (format!("rkvm-{:06x}", hash & 0x00ff_ffff), hash)
        };
        Self { dir: lib_dir.join("net"), name, seed, route: Mutex::default(), rules: Mutex::default() }
    }

    /// Name of its bridge and of its nf_tables table (family `ip`).
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its subnet, once the first container has been connected.
    ///
    /// # Errors
    /// The state folder cannot be read.
    pub fn subnet(&self) -> Result<Option<Subnet>> {
        match Leases::lock_existing(&self.dir)? {
            Some(leases) => Ok(leases.settings()?.map(|settings| settings.subnet)),
            None => Ok(None),
        }
    }

    /// Addresses and ports of all containers, in the order of their ids.
    ///
    /// # Errors
    /// The state folder cannot be read.
    pub fn leases(&self) -> Result<Vec<Lease>> {
        lease::all(&self.dir)
    }

    /// Takes an address and host ports for a container, and makes the bridge and the rules where they are missing. A lease that
    /// the same container had before is released first.
    ///
    /// # Errors
    /// [`Error::PortTaken`] names who has a port; then nothing is left behind. Else the network cannot be made.
    pub fn reserve(
        &self,
        container_id: &str,
        container_name: &str,
        ports: &[PortMapping],
    ) -> Result<Reservation> {
        let leases = Leases::lock(&self.dir)?;
        if let Some(old) = leases.find(container_id)? {
            self.release_lease(&leases, &old)?;
        }
        let (ports, sockets) = self.take_ports(container_id, container_name, ports)?;
        let subnet = self.ensure(&leases)?;
        let address = match free_address(&leases, subnet, container_id)? {
            Some(address) => address,
            None => {
                self.release_dead(&leases)?;
                free_address(&leases, subnet, container_id)?.ok_or(Error::NoAddress { subnet })?
            }
        };
        let lease = Lease {
            container_id: container_id.to_owned(),
            container_name: container_name.to_owned(),
            address,
            prefix: subnet.prefix,
            gateway: subnet.gateway(),
            mac: link::mac_of(address),
            host_link: link_name(container_id),
            ports,
            owner_pid: std::process::id(),
        };
        self.evict(&leases, &lease.ports)?;
        leases.write(&lease)?;
        Ok(Reservation { lease, _sockets: sockets })
    }

    /// Links the network namespace to the bridge, sets its address and routes, and opens the published ports. May be called
    /// again with a new namespace when the container is restarted.
    ///
    /// # Errors
    /// The kernel refuses a request; then neither link nor rules are left.
    pub fn connect(&self, netns: BorrowedFd<'_>, reservation: &Reservation) -> Result<()> {
        let lease = &reservation.lease;
        let bridge = self.bridge()?;
        let veth = Veth { host_name: &lease.host_link, mac: lease.mac, bridge, netns };
        self.route(|socket| match link::make_veth(socket, &veth) {
            // The namespace of the run before is on its way out and would take its link along in a moment.
            Err(error) if is_errno(&error, libc::EEXIST) => {
                link::delete(socket, &lease.host_link)?;
                link::make_veth(socket, &veth)
            }
            result => result,
        })?;
        self.open_or_undo(lease, || configure(netns, lease))
    }

    /// Makes a tap on the bridge under the name of the container's link, and opens the published ports. It ends with its last
    /// descriptor; whoever holds it sets the address inside. Frames have a header of [`crate::VNET_HEADER_BYTES`].
    ///
    /// # Errors
    /// [`Error::TapDevice`]; or the kernel refuses a request; then neither link nor rules are left.
    pub fn connect_tap(&self, reservation: &Reservation) -> Result<OwnedFd> {
        let lease = &reservation.lease;
        let bridge = self.bridge()?;
        let made = match tap::make(&lease.host_link) {
            // What the run before has not let go of yet: a tap that is attached, or a link of another kind.
            Err(error) if is_errno(&error, libc::EBUSY) || is_errno(&error, libc::EINVAL) => {
                self.route(|socket| link::delete(socket, &lease.host_link))?;
                tap::make(&lease.host_link)
            }
            result => result,
        }?;
        self.open_or_undo(lease, || self.route(|socket| link::attach(socket, &lease.host_link, bridge)))?;
        Ok(made)
    }

    /// The index of the bridge, which is made if somebody removed it.
    fn bridge(&self) -> Result<u32> {
        match self.route(|socket| link::find(socket, &self.name))? {
            Some(index) => Ok(index),
            None => {
                self.ensure(&Leases::lock(&self.dir)?)?;
                Ok(self.route(|socket| link::find(socket, &self.name))?.unwrap_or_default())
            }
        }
    }

    /// The rest of connecting: `configure` and the published ports. Nothing is left of the link when one fails.
    fn open_or_undo(&self, lease: &Lease, configure: impl FnOnce() -> Result<()>) -> Result<()> {
        let opened = configure().and_then(|()| self.publish(lease));
        if opened.is_err() {
            self.withdraw(&lease.ports)?;
            self.route(|socket| link::delete(socket, &lease.host_link))?;
        }
        opened
    }

    fn table(&self) -> Table<'_> {
        Table { name: &self.name }
    }

    fn route<T>(&self, work: impl FnOnce(&mut Socket) -> Result<T>) -> Result<T> {
        with_socket(&self.route, Family::Route, work)
    }

    fn rules<T>(&self, work: impl FnOnce(&mut Socket) -> Result<T>) -> Result<T> {
        with_socket(&self.rules, Family::Netfilter, work)
    }

    fn publish(&self, lease: &Lease) -> Result<()> {
        if lease.ports.is_empty() {
            return Ok(());
        }
        self.route(|socket| link::make_hairpin(socket, &lease.host_link))?;
        self.rules(|socket| {
            self.table().publish(socket, lease.address, &lease.ports)?;
            conntrack::forget_flows(socket, &lease.ports)
        })
    }

    fn withdraw(&self, ports: &[PublishedPort]) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        self.rules(|socket| {
            self.table().withdraw(socket, ports)?;
            conntrack::forget_flows(socket, ports)
        })
    }

    fn release_lease(&self, leases: &Leases, lease: &Lease) -> Result<()> {
        self.withdraw(&lease.ports)?;
        self.route(|socket| link::delete(socket, &lease.host_link))?;
        leases.remove(lease)
    }

    /// Frees the addresses of monitors that were killed when the last thing left to do was this.
    fn release_dead(&self, leases: &Leases) -> Result<()> {
        let dead = self.leases()?.into_iter().filter(|lease| !lease.has_owner());
        dead.into_iter().try_for_each(|lease| self.release_lease(leases, &lease))
    }

    /// Takes ports away from leases whose owner died: we hold the sockets now, so they cannot.
    fn evict(&self, leases: &Leases, ports: &[PublishedPort]) -> Result<()> {
        if ports.is_empty() {
            return Ok(());
        }
        let same = |a: &PublishedPort, b: &PublishedPort| {
            a.protocol == b.protocol
                && a.host_port == b.host_port
                && (a.host_ip == b.host_ip || a.host_ip.is_unspecified() || b.host_ip.is_unspecified())
        };
        for mut lease in self.leases()? {
            let (lost, kept): (Vec<_>, Vec<_>) =
                lease.ports.into_iter().partition(|old| ports.iter().any(|new| same(old, new)));
            if !lost.is_empty() {
                self.withdraw(&lost)?;
                lease.ports = kept;
                leases.write(&lease)?;
            }
        }
        Ok(())
    }

    /// Makes what is missing of bridge, rules and kernel settings.
    fn ensure(&self, leases: &Leases) -> Result<Subnet> {
        let settings = leases.settings()?;
        let bridge = self.route(|socket| link::find(socket, &self.name))?;
        let ruled = self.rules(|socket| self.table().exists(socket))?;
        if let Some(settings) = &settings
            && bridge.is_some()
        {
            if !ruled {
                self.rules(|socket| self.table().make(socket, settings.subnet))?;
                for lease in self.leases()? {
                    self.rules(|socket| self.table().publish(socket, lease.address, &lease.ports))?;
                }
            }
            return Ok(settings.subnet);
        }
        let _one_at_a_time = lock_host()?;
        self.unmake()?;
        let used = self.route(link::used_subnets)?;
        let subnet = settings
            .map(|settings| settings.subnet)
            .filter(|subnet| !used.iter().any(|other| subnet.overlaps(*other)))
            .or_else(|| subnet::choose(self.seed, &used))
            .ok_or(Error::NoSubnet { pool: subnet::POOL })?;
        self.route(|socket| link::make_bridge(socket, &self.name, subnet))?;
        let made = self
            .kernel_settings()
            .and_then(|()| self.rules(|socket| self.table().make(socket, subnet)))
            .and_then(|()| leases.keep_settings(subnet));
        if made.is_err() {
            self.unmake()?;
        }
        made.map(|()| subnet)
    }

    /// Removes rules and bridge, as far as they are there.
    fn unmake(&self) -> Result<()> {
        self.rules(|socket| self.table().remove(socket))?;
        self.route(|socket| link::delete(socket, &self.name))
    }

    fn kernel_settings(&self) -> Result<()> {
        let set = |path: &str, value: &str| fs::write(path, value).map_err(Error::file("write", path));
        // Published ports are reachable from 127.0.0.1: packets with a loopback address may be routed to the bridge.
        set(&format!("/proc/sys/net/ipv4/conf/{}/route_localnet", self.name), "1")?;
        let ipv6 = format!("/proc/sys/net/ipv6/conf/{}/disable_ipv6", self.name);
        if Path::new(&ipv6).exists() {
            set(&ipv6, "1")?;
        }
        let forwarding = fs::read_to_string(FORWARDING).map_err(Error::file("read", FORWARDING))?;
        if forwarding.trim() == "0" { set(FORWARDING, "1") } else { Ok(()) }
    }

    fn take_ports(
        &self,
        container_id: &str,
        container_name: &str,
        wanted: &[PortMapping],
    ) -> Result<(Vec<PublishedPort>, Vec<OwnedFd>)> {
        let mut taken: Vec<(usize, PublishedPort)> = vec![];
        let mut sockets = vec![];
        // Fixed ports first: a free port chosen by the kernel must not be one that a later mapping asks for.
        let mut order: Vec<(usize, &PortMapping)> = wanted.iter().enumerate().collect();
        order.sort_by_key(|(_, mapping)| match mapping.host {
            HostPorts::One(_) => 0,
            HostPorts::FirstFree(_) => 1,
            HostPorts::Any => 2,
        });
        for (index, mapping) in order {
            let (host_port, socket) = match &mapping.host {
                HostPorts::One(port) => take(mapping.host_ip, *port, mapping.protocol),
                HostPorts::Any => take(mapping.host_ip, 0, mapping.protocol),
                HostPorts::FirstFree(range) => range
                    .clone()
                    .map(|port| take(mapping.host_ip, port, mapping.protocol))
                    .find(|result| !matches!(result, Err(error) if is_taken(error)))
                    .unwrap_or(Err(Error::RangeTaken {
                        first: *range.start(),
                        last: *range.end(),
                        protocol: mapping.protocol,
                    })),
            }
            .map_err(|error| {
                let own = taken.iter().any(|(_, port)| mapping.host == HostPorts::One(port.host_port));
                self.name_holder(error, own.then_some((container_id, container_name)))
            })?;
            sockets.push(socket);
            taken.push((
                index,
                PublishedPort {
                    host_ip: mapping.host_ip,
                    host_port,
                    container_port: mapping.container,
                    protocol: mapping.protocol,
                },
            ));
        }
        taken.sort_by_key(|(index, _)| *index);
        Ok((taken.into_iter().map(|(_, port)| port).collect(), sockets))
    }

    /// Puts a name on "address in use".
    fn name_holder(&self, error: Error, own: Option<(&str, &str)>) -> Error {
        match error {
            Error::Bind { address, port, protocol, source } if source.kind() == io::ErrorKind::AddrInUse => {
                let holder = match own {
                    Some((id, name)) => Holder::Container { id: id.to_owned(), name: name.to_owned() },
                    None => holder::of_port(&self.leases().unwrap_or_default(), address, port, protocol),
                };
                Error::PortTaken { address, port, protocol, holder }
            }
            other => other,
        }
    }
}

/// Runs `work` with the socket, which is opened when it is first needed.
fn with_socket<T>(
    socket: &Mutex<Option<Socket>>,
    family: Family,
    work: impl FnOnce(&mut Socket) -> Result<T>,
) -> Result<T> {
    let mut socket = socket.lock().unwrap_or_else(PoisonError::into_inner);
    match &mut *socket {
        Some(open) => work(open),
        none => work(none.insert(Socket::open(family)?)),
    }
}

/// Brings up the loopback device of a namespace that has no other link (`--network none`).
///
/// # Errors
/// The namespace cannot be entered, or the kernel refuses.
pub fn loopback_up(netns: BorrowedFd<'_>) -> Result<()> {
    let mut batch = Batch::default();
    link::up(&mut batch, link::LOOPBACK);
    socket_in(netns)?.execute(batch)
}

/// Sets the container's side: loopback, address, default route.
fn configure(netns: BorrowedFd<'_>, lease: &Lease) -> Result<()> {
    let mut inside = socket_in(netns)?;
    let index = link::find(&mut inside, link::CONTAINER_LINK)?.unwrap_or_default();
    let mut batch = Batch::default();
    link::up(&mut batch, link::LOOPBACK);
    link::up(&mut batch, link::CONTAINER_LINK);
    link::add_address(&mut batch, index, lease.address, lease.prefix);
    link::add_default_route(&mut batch, lease.gateway);
    inside.execute(batch)
}

/// A route socket of another namespace. It is opened by a thread of its own, so that no failure can leave the caller there.
fn socket_in(netns: BorrowedFd<'_>) -> Result<Socket> {
    let open = || {
        setns(netns, CloneFlags::CLONE_NEWNET).map_err(|errno| {
            Error::file("enter network namespace", format!("/proc/self/fd/{}", netns.as_raw_fd()))(
                errno.into(),
            )
        })?;
        Socket::open(Family::Route)
    };
    thread::scope(|scope| match scope.spawn(open).join() {
        Ok(result) => result,
        Err(panic) => std::panic::resume_unwind(panic),
    })
}

/// Binds a host port; 0 is any free one. The TCP socket listens too: a bound one alone does not keep out a process that sets
/// SO_REUSEADDR (socket(7)).
fn take(address: Ipv4Addr, port: u16, protocol: Protocol) -> Result<(u16, OwnedFd)> {
    let wanted = SocketAddrV4::new(address, port);
    let bound = match protocol {
        Protocol::Tcp => TcpListener::bind(wanted)
            .and_then(|socket| Ok((socket.local_addr()?.port(), OwnedFd::from(socket)))),
        Protocol::Udp => UdpSocket::bind(wanted)
            .and_then(|socket| Ok((socket.local_addr()?.port(), OwnedFd::from(socket)))),
    };
    bound.map_err(|source| Error::Bind { address, port, protocol, source })
}

fn free_address(leases: &Leases, subnet: Subnet, container_id: &str) -> Result<Option<Ipv4Addr>> {
    let taken = leases.addresses()?;
    Ok(subnet.container_addresses(fnv(container_id.as_bytes())).find(|address| !taken.contains_key(address)))
}

fn is_taken(error: &Error) -> bool {
    matches!(error, Error::Bind { source, .. } if source.kind() == io::ErrorKind::AddrInUse)
}

/// Keeps two instances from choosing the same subnet. The folder is the kernel's list of links; locking it leaves nothing behind.
fn lock_host() -> Result<Flock<File>> {
    const LINKS: &str = "/sys/class/net";
    let file = File::open(LINKS).map_err(Error::file("open", LINKS))?;
    Flock::lock(file, FlockArg::LockExclusive).map_err(|(_, errno)| Error::file("lock", LINKS)(errno.into()))
}

/// Name of the host's end of a container's link: at most 15 characters (IFNAMSIZ).
pub fn link_name(container_id: &str) -> String {
    format!("rkv{}", container_id.get(..12).unwrap_or(container_id))
}

/// FNV-1a: a hash that is the same in every build, as names on the host depend on it.
fn fnv(bytes: &[u8]) -> u32 {
    bytes.iter().fold(0x811c_9dc5, |hash, byte| (hash ^ u32::from(*byte)).wrapping_mul(0x0100_0193))
}
