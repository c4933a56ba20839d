//! What both isolation backends ask of the host's kernel.
//!
//! One backend makes a container of it, the other the jail of a microVM: mounts that are not attached yet, namespaces, id
//! mappings, capabilities, seccomp programs, terminals.

pub mod capabilities;
pub mod idmap;
pub mod mounts;
pub mod namespaces;
pub mod seccomp;
pub mod sys;
pub mod wait;
