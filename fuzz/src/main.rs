//! libFuzzer over `rkvm_vmm::fuzzing`. One program for all targets, of which `RKVM_FUZZ_TARGET` names one; `./x fuzz` builds and runs it.

#![no_main]

use std::sync::LazyLock;

static TARGET: LazyLock<String> = LazyLock::new(|| std::env::var("RKVM_FUZZ_TARGET").unwrap_or_default());

libfuzzer_sys::fuzz_target!(|input: &[u8]| rkvm_vmm::fuzzing::run(&TARGET, input));
