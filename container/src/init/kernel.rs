//! Kernel settings of the container's namespaces: sysctls, host name, security labels. Everything is written through a procfs that is
//! known to be one, and through no mount on top of it, so no image can put another file in its place.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rkvm_oci::{Error, Result};

use rkvm_linux::sys::{fs, mount};

/// An instance of procfs that nothing stands in for.
#[derive(Debug)]
pub struct Proc(OwnedFd);

/// Inode number of a procfs's root (linux/proc_ns.h, `PROC_ROOT_INO`).
const PROC_ROOT_INODE: u64 = 1;

impl Proc {
    /// The one on /proc below `root`, when it is a whole procfs; another, mounted for this alone and attached nowhere, otherwise. (Only
    /// otherwise, because letting go of that one takes an RCU grace period.)
    ///
    /// # Errors
    /// The user namespace may not see a whole procfs.
    pub fn open(root: Option<BorrowedFd<'_>>) -> Result<Self> {
        if let Some(there) = root.and_then(|root| Self::attached(root).ok().flatten()) {
            return Ok(there);
        }
        let error = |source| Error::failed("mount", "a private procfs", source);
        let context = mount::fsopen("proc").map_err(error)?;
        mount::fsmount(context.as_fd(), 0).map(Self).map_err(error)
    }

    fn attached(root: BorrowedFd<'_>) -> std::io::Result<Option<Self>> {
        let proc = fs::open_in_root(root, Path::new("/proc"), libc::O_PATH | libc::O_DIRECTORY)?;
        let kind = nix::sys::statfs::fstatfs(proc.as_fd())?.filesystem_type();
        let whole = nix::sys::stat::fstat(proc.as_fd())?.st_ino == PROC_ROOT_INODE;
        Ok((kind == nix::sys::statfs::PROC_SUPER_MAGIC && whole).then_some(Self(proc)))
    }

    fn write(&self, path: &Path, value: &str) -> std::io::Result<()> {
        let file = fs::open_same_fs(self.0.as_fd(), path, libc::O_WRONLY)?;
        nix::unistd::write(file, value.as_bytes()).map(drop).map_err(Into::into)
    }

    /// Writes a sysctl by its name with dots (or slashes).
    ///
    /// # Errors
    /// The kernel does not have it or refuses the value.
    pub fn sysctl(&self, name: &str, value: &str) -> Result<()> {
        let path = PathBuf::from("sys").join(sysctl_path(name));
        self.write(&path, value)
            .map_err(|source| Error::failed("set", format!("linux.sysctl {name} = {value}"), source))
    }

    /// Has the next execve change to a security label.
    ///
    /// # Errors
    /// The security module does not know it.
    pub fn label(&self, module: Module, label: &str) -> Result<()> {
        let (path, text) = match module {
            Module::AppArmor => ("self/attr/apparmor/exec", format!("exec {label}")),
            Module::Selinux => ("self/attr/exec", label.to_owned()),
        };
        self.write(Path::new(path), &text)
            .map_err(|source| Error::failed("change to security label", label, source))
    }
}

/// A Linux security module that labels processes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Module {
    /// `process.apparmorProfile`.
    AppArmor,
    /// `process.selinuxLabel`.
    Selinux,
}

impl Module {
    /// Whether this host has it.
    pub fn is_there(self) -> bool {
        match self {
            Self::AppArmor => std::fs::read("/sys/module/apparmor/parameters/enabled")
                .is_ok_and(|text| text.first() == Some(&b'Y')),
            Self::Selinux => Path::new("/sys/fs/selinux/enforce").exists(),
        }
    }
}

/// Path below /proc/sys: dots separate, and a slash stands for a dot inside a name (sysctl(8)).
pub fn sysctl_path(name: &str) -> String {
    let first = name.find(['.', '/']).map(|at| name.as_bytes()[at]);
    if first == Some(b'/') {
        return name.to_owned();
    }
    name.chars()
        .map(|c| match c {
            '.' => '/',
            '/' => '.',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    #[test]
    fn names_of_sysctls() {
        for (name, path) in [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            ("net.ipv4.conf.eth0/1.forwarding", "net/ipv4/conf/eth0.1/forwarding"),
            ("net/ipv4/conf/eth0.1/forwarding", "net/ipv4/conf/eth0.1/forwarding"),
        ] {
            assert_eq!(super::sysctl_path(name), path);
        }
    }
}
