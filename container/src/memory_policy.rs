//! `linux.memoryPolicy` (set_mempolicy(2)), and the lists of numbers that it and CPU affinity use.

use oci_spec::runtime::{LinuxMemoryPolicy, MemoryPolicyFlagType, MemoryPolicyModeType};
use rkvm_oci::{Error, Result};

/// A memory policy as the kernel takes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MemoryPolicy {
    /// Mode and flags.
    pub mode: i32,
    /// Bit mask of nodes.
    pub nodes: Vec<u64>,
}

impl MemoryPolicy {
    /// Understands the configuration.
    ///
    /// # Errors
    /// The list of nodes cannot be read.
    pub fn new(configured: &LinuxMemoryPolicy) -> Result<Self> {
        // Numbers of linux/mempolicy.h.
        let mode = match configured.mode() {
            MemoryPolicyModeType::MpolDefault => 0,
            MemoryPolicyModeType::MpolPreferred => 1,
            MemoryPolicyModeType::MpolBind => 2,
            MemoryPolicyModeType::MpolInterleave => 3,
            MemoryPolicyModeType::MpolLocal => 4,
            MemoryPolicyModeType::MpolPreferredMany => 5,
            MemoryPolicyModeType::MpolWeightedInterleave => 6,
        };
        let flags = configured.flags().iter().flatten().fold(0, |flags, flag| {
            flags
                | match flag {
                    MemoryPolicyFlagType::MpolFStaticNodes => 1 << 15,
                    MemoryPolicyFlagType::MpolFRelativeNodes => 1 << 14,
                    MemoryPolicyFlagType::MpolFNumaBalancing => 1 << 13,
                }
        });
        let nodes = configured.nodes().as_deref().unwrap_or_default();
        Ok(Self { mode: mode | flags, nodes: bit_mask("linux.memoryPolicy.nodes", nodes)? })
    }
}

/// Largest number in a list: far above any machine's CPUs, and small enough for its mask.
const MAX_NUMBER: usize = 65_535;

/// A list like `0-3,7` as a bit mask; empty for an empty list.
///
/// # Errors
/// It is not such a list; the message names `field`.
pub fn bit_mask(field: &str, list: &str) -> Result<Vec<u64>> {
    let error = || Error::invalid_spec(field, format!("{list:?} is not a list like 0-3,7"));
    let mut mask: Vec<u64> = vec![];
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let first: usize = first.trim().parse().map_err(|_| error())?;
        let last: usize = last.trim().parse().map_err(|_| error())?;
        if first > last || last > MAX_NUMBER {
            return Err(error());
        }
        mask.resize(mask.len().max(last / 64 + 1), 0);
        for number in first..=last {
            mask[number / 64] |= 1 << (number % 64);
        }
    }
    Ok(mask)
}

#[cfg(test)]
mod tests {
    use super::bit_mask;

    #[test]
    fn lists_of_numbers() {
        assert_eq!(bit_mask("x", "0-3,7").unwrap(), [0b1000_1111]);
        assert_eq!(bit_mask("x", "64").unwrap(), [0, 1]);
        assert!(bit_mask("x", "").unwrap().is_empty());
        for bad in ["a", "3-1", "1-", "-1", "99999999"] {
            assert!(bit_mask("field", bad).unwrap_err().to_string().contains("field"), "{bad}");
        }
    }
}
