//! Leases: which container has which address and host ports.
//!
//! `lib/net/` holds `network.json` (the instance's subnet) and `leases/ID@ADDRESS`, one file a container. The folder is its
//! own lock. Leases do not outlive the kernel that they were made under: its boot id is part of `network.json`.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io;
use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};

use nix::fcntl::{Flock, FlockArg};
use serde::{Deserialize, Serialize};

use crate::error::{Error, Result};
use crate::port::Protocol;
use crate::subnet::Subnet;

const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// A container's place in the network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lease {
    /// The container's id.
    pub container_id: String,
    /// The container's name when it was connected.
    pub container_name: String,
    /// Its address.
    pub address: Ipv4Addr,
    /// Length of the subnet's prefix, in bits.
    pub prefix: u8,
    /// The host's address in the subnet: default route, and `host-gateway`.
    pub gateway: Ipv4Addr,
    /// Hardware address of its interface.
    pub mac: [u8; 6],
    /// Name of the host's end of its link.
    pub host_link: String,
    /// Its published ports.
    pub ports: Vec<PublishedPort>,
    /// The process that holds the ports (the container's monitor).
    pub owner_pid: u32,
}

impl Lease {
    /// Whether the process that took it still lives. One that was killed may have left it behind.
    pub(crate) fn has_owner(&self) -> bool {
        Path::new(&format!("/proc/{}", self.owner_pid)).exists()
    }
}

/// A container port and the host port it is reachable on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PublishedPort {
    /// The host's address; 0.0.0.0 for all of them.
    pub host_ip: Ipv4Addr,
    /// The host's port.
    pub host_port: u16,
    /// The container's port.
    pub container_port: u16,
    /// tcp or udp.
    pub protocol: Protocol,
}

/// `network.json`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Settings {
    pub subnet: Subnet,
    pub boot_id: String,
}

/// The locked folder.
#[derive(Debug)]
pub(crate) struct Leases {
    dir: PathBuf,
    _lock: Flock<File>,
}

impl Leases {
    /// Makes the folder where it is missing, and locks it.
    pub(crate) fn lock(dir: &Path) -> Result<Self> {
        let leases = dir.join("leases");
        loop {
            fs::create_dir_all(&leases).map_err(Error::file("create", &leases))?;
            if let Some(locked) = Self::lock_existing(dir)? {
                return Ok(locked);
            }
        }
    }

    /// Locks the folder; `None` when there is none.
    pub(crate) fn lock_existing(dir: &Path) -> Result<Option<Self>> {
        use std::os::unix::fs::MetadataExt;
        let file = match File::open(dir) {
            Ok(file) => file,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::file("open", dir)(error)),
        };
        let lock = Flock::lock(file, FlockArg::LockExclusive)
            .map_err(|(_, errno)| Error::file("lock", dir)(errno.into()))?;
        // Its holder before us may have removed the folder.
        let same = match (lock.metadata(), fs::metadata(dir)) {
            (Ok(held), Ok(named)) => held.dev() == named.dev() && held.ino() == named.ino(),
            _ => false,
        };
        Ok(same.then(|| Self { dir: dir.to_owned(), _lock: lock }))
    }

    /// The instance's subnet, and forgets all leases when the host has been rebooted since.
    pub(crate) fn settings(&self) -> Result<Option<Settings>> {
        let path = self.dir.join("network.json");
        let Some(settings) = read_json::<Settings>(&path)? else { return Ok(None) };
        if settings.boot_id != boot_id()? {
            let leases = self.dir.join("leases");
            for name in names(&leases)? {
                remove_file(&leases.join(name))?;
            }
        }
        Ok(Some(settings))
    }

    /// Keeps the instance's subnet.
    pub(crate) fn keep_settings(&self, subnet: Subnet) -> Result<()> {
        write_json(&self.dir.join("network.json"), &Settings { subnet, boot_id: boot_id()? })
    }

    /// Container ids and their addresses, without reading a file. What a killed writer has left is removed on the way:
    /// only the holder of the lock writes here.
    pub(crate) fn addresses(&self) -> Result<HashMap<Ipv4Addr, String>> {
        let leases = self.dir.join("leases");
        for name in names(&leases)?.iter().filter(|name| name.ends_with(ASIDE)) {
            remove_file(&leases.join(name))?;
        }
        addresses(&self.dir)
    }

    /// The lease of a container.
    pub(crate) fn find(&self, container_id: &str) -> Result<Option<Lease>> {
        let taken = self.addresses()?;
        match taken.into_iter().find(|(_, id)| id == container_id) {
            Some((address, id)) => read_json(&self.path(&id, address)),
            None => Ok(None),
        }
    }

    pub(crate) fn write(&self, lease: &Lease) -> Result<()> {
        write_json(&self.path(&lease.container_id, lease.address), lease)
    }

    pub(crate) fn remove(&self, lease: &Lease) -> Result<()> {
        remove_file(&self.path(&lease.container_id, lease.address))
    }

    /// Says that a lease is being released, until what is returned is dropped ([`wait_for_releases`]).
    pub(crate) fn begin_release(&self) -> Result<Flock<File>> {
        lock_releases(&self.dir, FlockArg::LockShared)
    }

    /// Removes the folder; the lock goes with it.
    pub(crate) fn remove_all(self) -> Result<()> {
        fs::remove_dir_all(&self.dir).map_err(Error::file("remove", &self.dir))
    }

    fn path(&self, container_id: &str, address: Ipv4Addr) -> PathBuf {
        self.dir.join("leases").join(format!("{container_id}@{address}"))
    }
}

/// Waits until every release that is under way has ended. Never with the folder locked: a release ends with a change in it.
pub(crate) fn wait_for_releases(dir: &Path) -> Result<()> {
    match lock_releases(dir, FlockArg::LockExclusive) {
        Err(Error::File { source, .. }) if source.kind() == io::ErrorKind::NotFound => Ok(()),
        result => result.map(drop),
    }
}

fn lock_releases(dir: &Path, how: FlockArg) -> Result<Flock<File>> {
    let leases = dir.join("leases");
    let file = File::open(&leases).map_err(Error::file("open", &leases))?;
    Flock::lock(file, how).map_err(|(_, errno)| Error::file("lock", &leases)(errno.into()))
}

/// All leases, without the lock: each file is whole, and may be a moment old.
pub(crate) fn all(dir: &Path) -> Result<Vec<Lease>> {
    let leases = dir.join("leases");
    let mut all = vec![];
    for (address, id) in addresses(dir)? {
        all.extend(read_json::<Lease>(&leases.join(format!("{id}@{address}")))?);
    }
    all.sort_by(|a, b| a.container_id.cmp(&b.container_id));
    Ok(all)
}

fn addresses(dir: &Path) -> Result<HashMap<Ipv4Addr, String>> {
    let parse = |name: String| {
        let (id, address) = name.rsplit_once('@')?;
        Some((address.parse().ok()?, id.to_owned()))
    };
    Ok(names(&dir.join("leases"))?.into_iter().filter_map(parse).collect())
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let entries = match fs::read_dir(dir) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(error) => return Err(Error::file("read", dir)(error)),
    };
    Ok(entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect())
}

/// End of the name of a file that is being written.
const ASIDE: &str = ".new";

fn boot_id() -> Result<String> {
    let text = fs::read_to_string(BOOT_ID).map_err(Error::file("read", BOOT_ID))?;
    Ok(text.trim().to_owned())
}

fn read_json<T: serde::de::DeserializeOwned>(path: &Path) -> Result<Option<T>> {
    match fs::read(path) {
        Ok(text) => serde_json::from_slice(&text)
            .map(Some)
            .map_err(|source| Error::Malformed { path: path.to_owned(), source }),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(Error::file("read", path)(error)),
    }
}

fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let text =
        serde_json::to_vec(value).map_err(|source| Error::Malformed { path: path.to_owned(), source })?;
    let mut aside = path.as_os_str().to_owned();
    aside.push(ASIDE);
    let aside = PathBuf::from(aside);
    fs::write(&aside, text).and_then(|()| fs::rename(&aside, path)).map_err(Error::file("write", path))
}

fn remove_file(path: &Path) -> Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(Error::file("remove", path)(error)),
        _ => Ok(()),
    }
}
