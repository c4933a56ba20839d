//! The command lines: `rkvm` (the engine, Docker's words) and `rkvm-oci` (the OCI runtime, runc's words).
//!
//! Nothing here but parsing, calling the libraries, printing and exit codes.

pub mod attach;
pub mod backend;
pub mod commands;
pub mod context;
mod each;
pub mod flags;
pub mod oci;
pub mod output;
pub mod pulling;
mod start;
mod timings;
