//! What a workload does: its system calls and what they are about, seen by answering each of them (seccomp_unotify(2)).
//!
//! Every call but `write` waits until this agent has noted it and decided as the workload's own filter would. So nothing is
//! missed and nothing is allowed that would not be otherwise; but it takes longer, and is no measurement of time.

mod agent;
pub mod capabilities;
mod memory;
mod policy;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};

pub use agent::{Agent, profile};
pub use policy::Policy;

/// How often a call was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Calls {
    /// All of them.
    pub made: u64,
    /// Those that the workload's filter refuses.
    pub refused: u64,
}

/// What was seen of a workload from its first program on. Calls are seen before they are made, so that what they came to is not known:
/// all but [`Self::programs`] is what it asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Observed {
    /// Each system call by its name; `write` is never among them.
    pub calls: BTreeMap<String, Calls>,
    /// Processes and threads, as the host sees them.
    pub tasks: BTreeSet<u32>,
    /// Programs it executed, by the paths it gave; those alone that were there and made a call of their own.
    pub programs: BTreeSet<String>,
    /// Paths below /dev that it tried to open.
    pub devices: BTreeSet<String>,
    /// What it tried to mount, `TYPE on TARGET`.
    pub mounts: BTreeSet<String>,
    /// Families of the sockets it asked for, e.g. `AF_INET`.
    pub families: BTreeSet<String>,
    /// Addresses it tried to bind.
    pub bound: BTreeSet<String>,
    /// Addresses it tried to connect to.
    pub connected: BTreeSet<String>,
    /// Namespaces it asked for, e.g. `user` (clone, unshare).
    pub namespaces: BTreeSet<String>,
    /// When its first program began, CLOCK_MONOTONIC; `None`: it never did.
    pub began_ns: Option<u64>,
}

impl Observed {
    /// Number of calls.
    pub fn total(&self) -> u64 {
        self.calls.values().map(|calls| calls.made).sum()
    }

    /// Names of calls that the filter refuses.
    pub fn refused(&self) -> Vec<&str> {
        let refused = self.calls.iter().filter(|(_, calls)| calls.refused > 0);
        refused.map(|(name, _)| name.as_str()).collect()
    }

    /// Which of `names` it called.
    pub fn called<'a>(&self, names: &[&'a str]) -> Vec<&'a str> {
        names.iter().copied().filter(|name| self.calls.contains_key(*name)).collect()
    }
}
