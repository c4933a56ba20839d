//! The namespaces that are made before the sandbox: the user namespace, whose mapping the root filesystem needs, and the
//! network namespace, which is wired before the program starts.

use std::fs::{self, File};
use std::io;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use crate::error::{Error, Result};
use crate::paths::Paths;
use crate::sys::NamespaceHolder;

/// How many user and group ids a container has: 0 to 65535.
pub const RANGE: u32 = 65_536;
/// First and last host id of the range that systemd sets aside for containers (systemd's "Users, Groups, UIDs and GIDs").
const FIRST: u32 = 524_288;
const LAST: u32 = 1_879_048_191;

/// A user id range that no other container uses, until it is dropped.
#[derive(Debug)]
pub struct UidRange {
    base: u32,
    link: PathBuf,
}

impl UidRange {
    /// Host id of the container's user and group 0, a multiple of [`RANGE`].
    pub fn base(&self) -> u32 {
        self.base
    }

    /// Takes a range for the container with this full id: the one that its id gives, or the next that is free.
    ///
    /// # Errors
    /// The folder of ranges cannot be written.
    pub fn take(paths: &Paths, id: &str) -> Result<Self> {
        let folder = paths.uid_ranges();
        crate::store::make_folder(&folder)?;
        let slots = (LAST - FIRST + 1) / RANGE;
        let wanted = id.get(..8).and_then(|digits| u32::from_str_radix(digits, 16).ok()).unwrap_or(0);
        for slot in (0..slots).map(|step| (wanted % slots + step) % slots) {
            let base = FIRST + slot * RANGE;
            let link = folder.join(base.to_string());
            match std::os::unix::fs::symlink(id, &link) {
                Ok(()) => return Ok(Self { base, link }),
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                Err(source) => return Err(Error::file("create", link, source)),
            }
            // Ours from a run that was cut short. A monitor that was killed is cleaned up before the next one starts, so its
            // link is either this or gone.
            if fs::read_link(&link).is_ok_and(|holder| holder.as_os_str() == id) {
                return Ok(Self { base, link });
            }
        }
        Err(Error::NoUidRange { folder })
    }

    /// Frees whatever range container `id` was left with.
    pub fn free(paths: &Paths, id: &str) {
        let Ok(entries) = fs::read_dir(paths.uid_ranges()) else { return };
        for link in entries.filter_map(|entry| Some(entry.ok()?.path())) {
            if fs::read_link(&link).is_ok_and(|holder| holder.as_os_str() == id) {
                let _ = fs::remove_file(link);
            }
        }
    }
}

impl Drop for UidRange {
    fn drop(&mut self) {
        let _ = fs::remove_file(&self.link);
    }
}

/// Whether a network namespace is made along with a user namespace.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NetNamespace {
    /// A new one.
    New,
    /// None: the container shares one.
    Shared,
}

/// Namespaces without a process.
#[derive(Debug)]
pub struct Namespaces {
    /// The user namespace; `None` for the host's.
    pub user: Option<OwnedFd>,
    /// The network namespace, owned by the user namespace; `None` when the container shares one.
    pub net: Option<OwnedFd>,
}

impl Namespaces {
    /// Makes a user namespace whose ids from 0 on are the host's from `uid_base` on (`None`: the host's user namespace), and a
    /// network namespace.
    ///
    /// # Errors
    /// The kernel refuses one of them.
    pub fn new(uid_base: Option<u32>, net: NetNamespace) -> Result<Self> {
        let mut flags = 0;
        if uid_base.is_some() {
            flags |= libc::CLONE_NEWUSER;
        }
        if net == NetNamespace::New {
            flags |= libc::CLONE_NEWNET;
        }
        if flags == 0 {
            return Ok(Self { user: None, net: None });
        }
        let holder = NamespaceHolder::new(flags).map_err(|source| Error::Namespaces { source })?;
        let proc = PathBuf::from(format!("/proc/{}", holder.pid()));
        let open = |name: &str| {
            let path = proc.join("ns").join(name);
            File::open(&path).map(OwnedFd::from).map_err(|source| Error::file("open", path, source))
        };
        let user = match uid_base {
            Some(base) => {
                for name in ["uid_map", "gid_map"] {
                    let path = proc.join(name);
                    fs::write(&path, format!("0 {base} {RANGE}"))
                        .map_err(|source| Error::file("write", path, source))?;
                }
                Some(open("user")?)
            }
            None => None,
        };
        let net = match net {
            NetNamespace::New => Some(open("net")?),
            NetNamespace::Shared => None,
        };
        Ok(Self { user, net })
    }
}
