//! `rkvm-oci`, the OCI runtime: runc's words and flags.

fn main() {}
