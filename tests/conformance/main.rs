//! The conformance suite for OCI runtimes: one table of cases, each run against `rkvm-oci` with every isolation backend, and
//! against `runc` as an oracle, so that a case which expects something odd fails there too.
//!
//! `cargo test --test conformance -- runc/mounts` runs a part; names are `runtime/topic/case`.

// Test code: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::process::ExitCode;

use libtest_mimic::{Arguments, Trial};
use rkvm_testing::{have, reap};

mod bad_input;
mod capabilities;
mod cgroups;
mod devices;
mod escapes;
mod exec;
mod hooks;
mod lifecycle;
mod mounts;
mod namespaces;
mod not_in_a_vm;
mod output;
mod process;
mod rootfs;
mod seccomp;
mod subject;
mod terminal;

use subject::{Runtime, Subject};

/// On which runtimes a case runs.
pub enum On {
    /// All of them.
    Every,
    /// Only ours: runc 1.1 cannot do it, or does it differently for the reason given.
    Rkvm(&'static str),
}

/// One behaviour that a runtime must show.
pub struct Case {
    name: &'static str,
    on: On,
    run: fn(&Subject),
}

/// A case for every runtime.
pub const fn case(name: &'static str, run: fn(&Subject)) -> Case {
    Case { name, on: On::Every, run }
}

/// A case that the oracle cannot be asked, and why.
pub const fn only_rkvm(name: &'static str, why: &'static str, run: fn(&Subject)) -> Case {
    Case { name, on: On::Rkvm(why), run }
}

const TOPICS: &[(&str, &[Case])] = &[
    ("lifecycle", lifecycle::CASES),
    ("output", output::CASES),
    ("bad-input", bad_input::CASES),
    ("namespaces", namespaces::CASES),
    ("rootfs", rootfs::CASES),
    ("mounts", mounts::CASES),
    ("devices", devices::CASES),
    ("process", process::CASES),
    ("capabilities", capabilities::CASES),
    ("seccomp", seccomp::CASES),
    ("cgroups", cgroups::CASES),
    ("terminal", terminal::CASES),
    ("hooks", hooks::CASES),
    ("exec", exec::CASES),
    ("escapes", escapes::CASES),
];

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    reap::become_subreaper();
    let mut trials = vec![];
    for (topic, cases) in TOPICS {
        for Case { name, on, run } in *cases {
            trials.push(trial("container", topic, name, *run, Runtime::rkvm));
            match not_in_a_vm::reason(topic, name) {
                None => trials.push(trial("vm", topic, name, *run, Runtime::vm)),
                Some(why) => trials.push(not_asked("vm", topic, name, why)),
            }
            match on {
                On::Every => trials.push(trial("runc", topic, name, *run, Runtime::runc)),
                On::Rkvm(why) => trials.push(not_asked("runc", topic, name, why)),
            }
        }
    }
    let names: Vec<_> =
        TOPICS.iter().flat_map(|(topic, cases)| cases.iter().map(move |case| (*topic, case.name))).collect();
    assert!(not_in_a_vm::all_are_cases(&names), "not_in_a_vm.rs names a case that does not exist");
    if !have("runc") {
        eprintln!("runc, the oracle, is not installed: its cases will fail (apt-get install runc)");
    }
    libtest_mimic::run(&arguments, trials).exit_code()
}

/// Shown in the report as ignored, with the reason in its name.
fn not_asked(runtime: &str, topic: &str, name: &str, why: &str) -> Trial {
    Trial::test(format!("{runtime}/{topic}/{name} (not asked: {why})"), || Ok(())).with_ignored_flag(true)
}

fn trial(runtime: &str, topic: &str, name: &str, run: fn(&Subject), make: fn() -> Runtime) -> Trial {
    Trial::test(format!("{runtime}/{topic}/{name}"), move || {
        run(&Subject::new(make()));
        Ok(())
    })
}
