//! Bridge, veth, tap, addresses, published ports and the container's resolver files.
//!
//! The way of one container: [`Network::open`], [`Network::reserve`] (an address, and the host ports held by bound
//! sockets), [`Network::connect`] (link, routes and port rules of its network namespace) or, for a microVM,
//! [`Network::connect_tap`], [`Network::release`].
//! The process that reserves keeps the [`Reservation`] as long as the container runs. Nothing here needs a daemon
//! or a helper program: links and rules are set over netlink.

pub mod files;

mod conntrack;
mod error;
mod holder;
mod lease;
mod link;
mod netlink;
mod network;
mod nft;
mod port;
mod splice;
mod subnet;
mod sys;
mod table;
mod tap;

pub use error::{Error, Holder, Result};
pub use lease::{Lease, PublishedPort};
pub use network::{Network, Reservation, link_name, loopback_up};
pub use port::{HostPorts, PortMapping, Protocol};
pub use splice::{Spliced, splice};
pub use subnet::Subnet;
pub use tap::VNET_HEADER_BYTES;
