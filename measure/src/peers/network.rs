//! Network namespaces for peers that make none themselves: loopback alone, which is enough to be asked.

use std::fs::File;
use std::os::fd::AsRawFd;
use std::path::PathBuf;
use std::process::Command;
use std::thread;

use nix::sched::{CloneFlags, setns, unshare};

use crate::error::{Error, Result};
use crate::process::helper;

/// A network namespace that ends with this value and the processes in it.
#[derive(Debug)]
pub struct Namespace(File);

impl Namespace {
    /// A new one, its loopback up.
    ///
    /// # Errors
    /// The kernel refuses, or `ip` is missing.
    pub fn new() -> Result<Self> {
        inside(|| {
            let path = "/proc/thread-self/ns/net";
            unshare(CloneFlags::CLONE_NEWNET).map_err(|errno| Error::file("make", path, errno.into()))?;
            ip(&["link", "set", "lo", "up"])?;
            File::open(path).map(Self).map_err(|error| Error::file("open", path, error))
        })
    }

    /// Adds a tap device `tap0` with this address and prefix.
    ///
    /// # Errors
    /// The kernel refuses, or `ip` is missing.
    pub fn add_tap(&self, address: &str) -> Result<()> {
        inside(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::file("enter", self.path(), errno.into()))?;
            ip(&["tuntap", "add", "tap0", "mode", "tap"])?;
            ip(&["address", "add", address, "dev", "tap0"])?;
            ip(&["link", "set", "tap0", "up"])
        })
    }

    /// Its path for as long as this process holds it.
    pub fn path(&self) -> PathBuf {
        format!("/proc/{}/fd/{}", std::process::id(), self.0.as_raw_fd()).into()
    }

    /// A descriptor of it.
    ///
    /// # Errors
    /// Too many files are open.
    pub fn file(&self) -> Result<File> {
        self.0.try_clone().map_err(|error| Error::file("duplicate", self.path(), error))
    }
}

/// Works in a thread of its own: nobody else may find himself in another namespace.
fn inside<T: Send>(work: impl FnOnce() -> Result<T> + Send) -> Result<T> {
    let done = thread::scope(|scope| scope.spawn(work).join());
    done.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

fn ip(args: &[&str]) -> Result<()> {
    helper(Command::new("ip").args(args)).map(drop)
}
