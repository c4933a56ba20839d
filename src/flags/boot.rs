//! Flags of what a microVM boots.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rkvm_engine::record::Boot;

/// See the module.
#[derive(Debug, clap::Args)]
pub struct BootFlags {
    /// Kernel of a microVM (ELF, bzImage or PVH) in place of rkvm's own
    #[arg(long, value_name = "FILE")]
    kernel: Option<PathBuf>,
    /// Initramfs of a microVM in place of rkvm's own
    #[arg(long, value_name = "FILE")]
    initrd: Option<PathBuf>,
    /// Append this to the kernel command line of a microVM
    #[arg(long, value_name = "TEXT")]
    cmdline: Option<String>,
}

impl BootFlags {
    /// What was given, files by their absolute paths: the container may be started from another folder.
    pub(super) fn boot(&self) -> Result<Boot> {
        let absolute = |flag: &str, path: &Option<PathBuf>| match path {
            Some(path) => std::fs::canonicalize(path)
                .with_context(|| format!("{flag} {}", Path::display(path)))
                .map(Some),
            None => Ok(None),
        };
        Ok(Boot {
            kernel: absolute("--kernel", &self.kernel)?,
            initrd: absolute("--initrd", &self.initrd)?,
            cmdline: self.cmdline.clone(),
        })
    }
}
