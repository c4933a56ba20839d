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

    /// Adds a tap device `tap0` with this address and prefix, which says nothing to a guest before the guest has spoken.
    ///
    /// A request for the guest's address that the host sends while the guest boots is lost, and Linux sends the next one a second later: the
    /// figure would be that second. Asking more often is no way out: packets that come before its driver is ready have left guests deaf.
    /// So the host's packet waits for what the guest tells of itself; see [`super::guest`].
    ///
    /// # Errors
    /// The kernel refuses, or `ip` is missing.
    pub fn add_tap(&self, address: &str) -> Result<()> {
        inside(|| {
            setns(&self.0, CloneFlags::CLONE_NEWNET)
                .map_err(|errno| Error::file("enter", self.path(), errno.into()))?;
            ip(&["tuntap", "add", "tap0", "mode", "tap"])?;
            SILENT.iter().try_for_each(|(name, value)| set(name, value))?;
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

/// Settings of a tap device whose host waits for the guest's first word (Documentation/networking/ip-sysctl.rst, arp(7)).
const SILENT: [(&str, &str); 4] = [
    // No router solicitations, no groups.
    ("ipv6/conf/tap0/disable_ipv6", "1"),
    // What the guest announces is believed, also when nobody has asked.
    ("ipv4/conf/tap0/arp_accept", "1"),
    // For three seconds a program of the host's would be asked for the address, and none is there: only then the guest is.
    ("ipv4/neigh/tap0/app_solicit", "3"),
    // Of the packets that wait meanwhile the last is sent: those before it are of connections that were given up.
    ("ipv4/neigh/tap0/unres_qlen_bytes", "1"),
];

/// Sets a variable below /proc/sys/net of the thread's network namespace. One that the kernel does not have needs no setting.
fn set(name: &str, value: &str) -> Result<()> {
    let path = PathBuf::from("/proc/sys/net").join(name);
    match std::fs::write(&path, value) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(Error::file("write", path, error)),
        _ => Ok(()),
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
