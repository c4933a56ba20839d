//! What every engine command is given: where the state lives.

use std::path::PathBuf;

use rkvm_engine::{Engine, Paths};

/// Folders of one engine instance.
#[derive(Debug, Clone)]
pub struct Context {
    /// State that ends with the host's uptime: `/run/rkvm`, or `ROOT/run`.
    pub run_dir: PathBuf,
    /// Images, containers, volumes: `/var/lib/rkvm`, or `ROOT/lib`.
    pub lib_dir: PathBuf,
    /// `--root`/`RKVM_ROOT`, for the commands that call this program again.
    pub root: Option<PathBuf>,
}

impl Context {
    /// The folders for `--root`/`RKVM_ROOT` (`root`), or the defaults without it.
    pub fn new(root: Option<PathBuf>) -> Self {
        match root {
            Some(root) => Self { run_dir: root.join("run"), lib_dir: root.join("lib"), root: Some(root) },
            None => Self { run_dir: "/run/rkvm".into(), lib_dir: "/var/lib/rkvm".into(), root: None },
        }
    }

    /// The engine with these folders.
    pub fn engine(&self) -> Engine {
        Engine::new(Paths::new(&self.run_dir, &self.lib_dir), crate::backend::backend)
    }
}
