//! Flags of what a microVM boots.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use rkvm_engine::record::{Boot, Template};

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
    /// Whether a microVM goes on where another one had booted to [default: auto]
    #[arg(long, value_name = "auto|never", value_parser = template, hide_possible_values = true)]
    template: Option<Template>,
}

fn template(text: &str) -> Result<Template, String> {
    match text {
        "auto" => Ok(Template::Auto),
        "never" => Ok(Template::Never),
        _ => Err("auto (with a template, if there is one) or never (boot) is possible".to_owned()),
    }
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
            template: self.template,
        })
    }
}
