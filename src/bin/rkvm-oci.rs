//! `rkvm-oci`, the OCI runtime: runc's words and flags.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(rkvm::oci::main())
}
