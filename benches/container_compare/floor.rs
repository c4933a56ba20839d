//! What the kernel itself takes: no runtime can be faster.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;
use std::time::Instant;

use rkvm_testing::Sandbox;

use crate::contest::{Contestant, static_true};
use crate::sys;

/// clone3 with six namespaces, pivot_root, exec, wait.
pub struct Floor {
    rootfs: PathBuf,
}

impl Floor {
    pub fn new(sandbox: &Sandbox) -> Self {
        let rootfs = sandbox.path().join("floor");
        fs::create_dir_all(&rootfs).expect("folder");
        fs::write(rootfs.join("true"), static_true()).expect("write the static program");
        fs::set_permissions(rootfs.join("true"), fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { rootfs }
    }
}

impl Contestant for Floor {
    fn name(&self) -> String {
        "floor: clone3+pivot_root+exec+wait".to_owned()
    }

    fn run(&mut self) -> Vec<(&'static str, u64)> {
        let start = Instant::now();
        let code = sys::run_in_namespaces(&self.rootfs);
        let time = start.elapsed().as_nanos() as u64;
        assert_eq!(code, 0, "the floor's child failed at step {code}");
        vec![("all", time)]
    }
}

/// Three processes one after the other: what `create`, `start` and `delete` take before they do anything.
pub struct ThreeProcesses {
    program: PathBuf,
}

impl ThreeProcesses {
    pub fn new(sandbox: &Sandbox) -> Self {
        let program = sandbox.path().join("three");
        fs::write(&program, static_true()).expect("write the static program");
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).expect("chmod");
        Self { program }
    }
}

impl Contestant for ThreeProcesses {
    fn name(&self) -> String {
        "three static processes".to_owned()
    }

    fn run(&mut self) -> Vec<(&'static str, u64)> {
        let start = Instant::now();
        for _ in 0..3 {
            assert!(Command::new(&self.program).status().expect("run the static program").success());
        }
        vec![("all", start.elapsed().as_nanos() as u64)]
    }
}
