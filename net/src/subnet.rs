//! IPv4 subnets: the engine's pool, and choosing one that nothing on the host uses.

use std::fmt;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// An IPv4 network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subnet {
    /// The network's own address; its host bits are zero.
    pub address: Ipv4Addr,
    /// Bits of the network part, 0 to 32.
    pub prefix: u8,
}

/// Where subnets are taken from: private space (RFC 1918) away from the defaults of Docker (172.17/16 and up),
/// Podman (10.88/16, 10.89/16 and up) and most home and VPN networks.
pub(crate) const POOL: Subnet = Subnet { address: Ipv4Addr::new(10, 160, 0, 0), prefix: 12 };

/// Size of one instance's subnet: 1021 containers.
const PREFIX: u8 = 22;

impl Subnet {
    /// The subnet that `address` with `prefix` bits lies in.
    pub(crate) fn of(address: Ipv4Addr, prefix: u8) -> Self {
        Self { address: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    /// Whether the two have an address in common.
    pub(crate) fn overlaps(self, other: Self) -> bool {
        let mask = mask(self.prefix.min(other.prefix));
        (self.address.to_bits() ^ other.address.to_bits()) & mask == 0
    }

    /// The host's own address in it: the first.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() + 1)
    }

    /// Its netmask.
    pub(crate) fn mask(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(mask(self.prefix))
    }

    /// The addresses that containers can have, beginning at a place that `seed` decides. An address that was just freed
    /// is thus not the next one given out, so that nothing that still speaks to its last owner reaches a new one.
    pub(crate) fn container_addresses(self, seed: u32) -> impl Iterator<Item = Ipv4Addr> {
        // Without the network's address, the gateway and the broadcast address.
        let count = (1u32 << (32 - self.prefix)).saturating_sub(3);
        let base = self.address.to_bits() + 2;
        (0..count).map(move |step| Ipv4Addr::from_bits(base + (seed % count + step) % count))
    }
}

impl fmt::Display for Subnet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

/// The first subnet of the pool, counted from the one that `seed` decides, that overlaps with none of `used`.
pub(crate) fn choose(seed: u32, used: &[Subnet]) -> Option<Subnet> {
    let count = 1u32 << (PREFIX - POOL.prefix);
    let size = 1u32 << (32 - PREFIX);
    (0..count)
        .map(|step| (seed % count + step) % count)
        .map(|index| Subnet {
            address: Ipv4Addr::from_bits(POOL.address.to_bits() + index * size),
            prefix: PREFIX,
        })
        .find(|candidate| !used.iter().any(|other| candidate.overlaps(*other)))
}

fn mask(prefix: u8) -> u32 {
    u32::MAX.checked_shl(32 - u32::from(prefix)).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn subnet(a: u8, b: u8, c: u8, d: u8, prefix: u8) -> Subnet {
        Subnet { address: Ipv4Addr::new(a, b, c, d), prefix }
    }

    #[test]
    fn overlap_is_found_both_ways() {
        let small = subnet(10, 160, 4, 0, 22);
        for (other, expected) in [
            (subnet(10, 160, 5, 0, 24), true),
            (subnet(10, 0, 0, 0, 8), true),
            (subnet(10, 160, 8, 0, 22), false),
            (subnet(10, 160, 3, 255, 32), false),
            (subnet(10, 160, 7, 255, 32), true),
        ] {
            assert_eq!(small.overlaps(other), expected, "{other}");
            assert_eq!(other.overlaps(small), expected, "{other}");
        }
    }

    #[test]
    fn a_used_subnet_is_passed_over_and_a_full_pool_is_said() {
        assert_eq!(choose(0, &[]), Some(subnet(10, 160, 0, 0, 22)));
        assert_eq!(choose(0, &[subnet(10, 160, 1, 0, 24)]), Some(subnet(10, 160, 4, 0, 22)));
        assert_eq!(choose(1023, &[]), Some(subnet(10, 175, 252, 0, 22)));
        assert_eq!(choose(1023, &[subnet(10, 175, 252, 0, 22)]), Some(subnet(10, 160, 0, 0, 22)));
        assert_eq!(choose(7, &[subnet(10, 0, 0, 0, 8)]), None);
    }

    #[test]
    fn every_container_address_is_given_once_and_none_is_special() {
        let network = subnet(10, 160, 0, 0, 29);
        let mut all: Vec<_> = network.container_addresses(4_000_000_003).collect();
        all.sort();
        assert_eq!(all, (2..=6).map(|last| Ipv4Addr::new(10, 160, 0, last)).collect::<Vec<_>>());
    }
}
