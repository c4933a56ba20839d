//! Images through the real binary: archives, names, registries (Debian's docker-registry on loopback), and what happens when
//! something is hostile, broken or killed.

#![allow(clippy::unwrap_used, clippy::expect_used)]

mod archives;
mod fixture;
mod kills;
mod proxy;
mod pulls;
mod registry;
