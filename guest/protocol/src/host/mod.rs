//! The host's half: one stream to the guest, and a process's streams relayed over it.
//!
//! Nothing here trusts the guest: every wait has a deadline, every buffer a bound.

mod connection;
mod relay;
#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::time::Duration;

pub use connection::{Connection, ask};
pub use relay::{Ended, Relay, Slot, Streams};

use rkvm_oci::failure::Failure;

/// What can go wrong with the guest.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The stream has ended.
    #[error("the guest has closed its stream: it has ended, or its init has failed")]
    Closed,
    /// The guest did not answer in time.
    #[error("the guest has not answered within {0:?}: it hangs, or has too little processor time")]
    TimedOut(Duration),
    /// The guest does not keep to the protocol.
    #[error("the guest does not keep to the protocol")]
    Protocol(#[from] crate::Error),
    /// The guest's init is of another build.
    #[error(
        "the guest's init speaks version {theirs} of the protocol, this is version {}; build the initramfs anew (./x guest)",
        crate::VERSION
    )]
    Version {
        /// What it speaks.
        theirs: u32,
    },
    /// The guest sent a message that does not belong here.
    #[error("the guest answered with a message that does not belong there")]
    Unexpected,
    /// The guest could not do it.
    #[error("{}", rkvm_oci::Error::from(.0.clone()))]
    Failed(Failure),
    /// The guest's socket cannot be reached.
    #[error("cannot connect to the guest through {path}")]
    Connect {
        /// The socket.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// The stream cannot be read, written or waited for.
    #[error("cannot {action} the guest's stream")]
    Stream {
        /// What was tried.
        action: &'static str,
        /// Why.
        #[source]
        source: std::io::Error,
    },
}

/// Result of anything here.
pub type Result<T, E = Error> = std::result::Result<T, E>;
