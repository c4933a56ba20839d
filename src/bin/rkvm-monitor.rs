//! `rkvm-monitor`, started by `rkvm`, one a container.

use std::process::ExitCode;

fn main() -> ExitCode {
    rkvm_monitor::main(rkvm::backend::backend)
}
