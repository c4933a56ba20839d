//! Stands in for the crate `regex` (`[patch.crates-io]` in the workspace's Cargo.toml).
//!
//! `oci-spec` uses it for two patterns over ASCII text (image references, lists of CPUs). The real crate brings 700 KiB of automata and
//! Unicode tables into every binary, half of what the guest's init may have in all. `regex-lite`, of the same authors and with the same
//! interface, matches these patterns just as well in a tenth of that.

pub use regex_lite::{Captures, Error, Match, Regex, RegexBuilder};
