//! Which namespaces a container gets: new ones and joined ones.

use std::fs::File;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;

use oci_spec::runtime::{LinuxNamespaceType, Spec};
use rkvm_oci::{Error, Result};

/// A namespace that is joined.
#[derive(Debug)]
pub struct Joined {
    /// Its kind, a `CLONE_NEW*` flag.
    pub flag: i32,
    /// The namespace.
    pub fd: OwnedFd,
    /// Where it was found, for messages.
    pub path: String,
}

/// The namespaces of `linux.namespaces`.
#[derive(Debug, Default)]
pub struct Namespaces {
    /// `CLONE_NEW*` flags of the new ones.
    pub new: i32,
    /// The joined ones, a user namespace first: it must be entered before the others can be.
    pub joined: Vec<Joined>,
}

/// Name of a namespace kind below /proc/PID/ns.
pub fn proc_name(flag: i32) -> &'static str {
    match flag {
        libc::CLONE_NEWNS => "mnt",
        libc::CLONE_NEWCGROUP => "cgroup",
        libc::CLONE_NEWUTS => "uts",
        libc::CLONE_NEWIPC => "ipc",
        libc::CLONE_NEWUSER => "user",
        libc::CLONE_NEWPID => "pid",
        libc::CLONE_NEWNET => "net",
        _ => "time",
    }
}

fn flag(kind: LinuxNamespaceType) -> i32 {
    match kind {
        LinuxNamespaceType::Mount => libc::CLONE_NEWNS,
        LinuxNamespaceType::Cgroup => libc::CLONE_NEWCGROUP,
        LinuxNamespaceType::Uts => libc::CLONE_NEWUTS,
        LinuxNamespaceType::Ipc => libc::CLONE_NEWIPC,
        LinuxNamespaceType::User => libc::CLONE_NEWUSER,
        LinuxNamespaceType::Pid => libc::CLONE_NEWPID,
        LinuxNamespaceType::Network => libc::CLONE_NEWNET,
        LinuxNamespaceType::Time => libc::CLONE_NEWTIME,
    }
}

impl Namespaces {
    /// Reads `linux.namespaces` and opens those that are joined. A path to this process's own namespace of that kind
    /// means "do not unshare", as in runc.
    ///
    /// # Errors
    /// A kind is given twice, or a path cannot be opened.
    pub fn open(spec: &Spec) -> Result<Self> {
        let mut namespaces = Self::default();
        let mut seen = 0;
        let list = spec.linux().as_ref().and_then(|linux| linux.namespaces().as_ref());
        for (index, namespace) in list.into_iter().flatten().enumerate() {
            let flag = flag(namespace.typ());
            let field = || format!("linux.namespaces[{index}]");
            if seen & flag != 0 {
                return Err(Error::invalid_spec(
                    field(),
                    format!("a second {} namespace; list each kind once", proc_name(flag)),
                ));
            }
            seen |= flag;
            let path = match namespace.path() {
                Some(path) if !path.as_os_str().is_empty() => path,
                _ => {
                    namespaces.new |= flag;
                    continue;
                }
            };
            let failed = |source| {
                Error::failed("open namespace", path.display(), source)
                    .hint("the process or file that kept it may be gone")
            };
            if !path.is_absolute() {
                return Err(Error::invalid_spec(field(), "the path must be absolute"));
            }
            let file = File::open(path).map_err(failed)?;
            let there = file.metadata().map_err(failed)?;
            let own = std::fs::metadata(format!("/proc/self/ns/{}", proc_name(flag)));
            if own.is_ok_and(|own| own.ino() == there.ino() && own.dev() == there.dev()) {
                continue;
            }
            namespaces.joined.push(Joined { flag, fd: file.into(), path: path.display().to_string() });
        }
        namespaces.joined.sort_by_key(|joined| joined.flag != libc::CLONE_NEWUSER);
        Ok(namespaces)
    }

    /// Whether the container has its own namespace of this kind, new or joined.
    pub fn has(&self, flag: i32) -> bool {
        self.new & flag != 0 || self.joined(flag).is_some()
    }

    /// The joined namespace of this kind.
    pub fn joined(&self, flag: i32) -> Option<&Joined> {
        self.joined.iter().find(|joined| joined.flag == flag)
    }

    /// All kinds, new and joined.
    pub fn all(&self) -> i32 {
        self.joined.iter().fold(self.new, |all, joined| all | joined.flag)
    }

    /// Enters every joined namespace.
    ///
    /// # Errors
    /// A privilege is missing or it is of another kind.
    pub fn join(&self) -> Result<()> {
        for joined in &self.joined {
            crate::sys::spawn::setns(joined.fd.as_fd(), joined.flag).map_err(|source| {
                Error::failed(format!("join {} namespace", proc_name(joined.flag)), &joined.path, source)
            })?;
        }
        Ok(())
    }
}
