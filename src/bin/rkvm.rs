//! `rkvm`, the engine: Docker's words.

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(rkvm::commands::main())
}
