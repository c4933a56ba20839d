//! Looking into a microVM that runs.
//!
//! Its files are joined inside the guest, and its processes are the guest kernel's, so neither can be reached from the host. What
//! the host does to a container itself it has done here by a program inside: the monitor's own, bound read-only to
//! [`AGENT_DIR`]`/agent` and executed as `exec` executes a program. Both halves are in this module.
//!
//! | command | standard input | standard output |
//! |---|---|---|
//! | `pack LINKS PATH` | | a tar archive of `PATH` |
//! | `unpack OWNERSHIP PATH` | a tar archive | a [`Report`](crate::copy::Report) |
//! | `place OWNERSHIP NAME PATH` | | a report; copies `NAME` of [`AGENT_DIR`]`/transfer` to `PATH` |
//! | `processes` | | the lines of `top` |
//!
//! The guest is not trusted: what comes back is read as what a stranger wrote. Names in an archive cannot leave the folder that it is unpacked
//! in, and a program that answers nothing is what `exec` of it would be.

mod guest;
mod host;

pub use guest::{is_asked_for, run};
pub use host::Inside;

use crate::copy::{Links, Ownership};

/// Folder inside a microVM that has the agent's program and the transfer folder.
pub const AGENT_DIR: &str = "/dev/.rkvm";

const NAMES_OF_LINKS: [(&str, Links); 2] = [("keep", Links::Keep), ("follow", Links::Follow)];
const NAMES_OF_OWNERSHIP: [(&str, Ownership); 2] =
    [("preserve", Ownership::Preserve), ("destination", Ownership::Destination)];

fn name_of<T: PartialEq>(names: &[(&'static str, T)], value: &T) -> &'static str {
    names.iter().find(|(_, other)| other == value).map_or("", |(name, _)| name)
}

fn by_name<T: Copy>(names: &[(&'static str, T)], name: &str) -> Option<T> {
    names.iter().find(|(other, _)| *other == name).map(|(_, value)| *value)
}
