//! The command lines: `rkvm` (the engine, Docker's words) and `rkvm-oci` (the OCI runtime, runc's words).
//!
//! Nothing here but parsing, calling the libraries, printing and exit codes.

pub mod backend;
pub mod commands;
pub mod context;
pub mod oci;
pub mod output;
pub mod pulling;
