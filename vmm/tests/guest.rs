//! The real guest kernel and init on our VMM: set-up, start, output, exit code, power-off.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod guest_support;

use guest_support::{Guest, shell};
use rkvm_oci::ExitStatus;
use rkvm_vmm::End;

#[test]
fn a_program_runs_and_its_output_and_exit_code_come_back() {
    let Some(guest) = Guest::boot() else { return };
    let run = guest.run(shell("echo out; echo err >&2; uname -r; exit 7"));
    assert_eq!(run.status, Ok(ExitStatus::Exited(7)));
    assert!(run.stdout.starts_with("out\n6.1."), "{}", run.stdout);
    assert_eq!(run.stderr, "err\n");
    assert_eq!(run.end, End::PowerOff);
}

#[test]
fn a_program_finds_every_processor() {
    let Some(guest) = Guest::boot_with(3) else { return };
    let run = guest.run(shell("nproc; cat /sys/devices/system/cpu/online"));
    assert_eq!((run.status, run.stdout.as_str()), (Ok(ExitStatus::Exited(0)), "3\n0-2\n"));
}
