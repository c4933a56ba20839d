//! An image as one read-only file system in a file (erofs), for guests, which cannot see the host's folders cheaply.
//!
//! Made at the first use and kept as long as the image: `images/erofs/HEX`, named by the image's id. What is in it is what overlayfs
//! shows of the layers, so whiteouts have taken effect, and owners, modes, times, attributes, devices and hard links are as in
//! a container. Below all layers lie the places of the mounts that every container has ([`PLACES`]), where no layer has them: made in the
//! guest they would be its first write, and cost a start several times what the mounts cost.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::SystemTime;

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use super::Store;
use super::index::sync_parent;
use super::lock::Lock;
use crate::digest::Digest;
use crate::error::{Error, Result};

/// Folders and, last, empty files that every container mounts something on.
const PLACES: [&str; 7] = ["dev/", "proc/", "sys/", "etc/", "etc/hostname", "etc/hosts", "etc/resolv.conf"];
const PROGRAM: &str = "mkfs.erofs";
/// One and the same for all images: nothing finds a file system by it, and a random one would make no two files alike.
const UUID: &str = "00000000-0000-0000-0000-000000000000";
/// mkfs.erofs writes the time of day into the file system, unless this variable (reproducible-builds.org) names a time, which then also
/// is the latest that a file shows. So: one that no file has, 9999-12-31T23:59:59Z.
const LATEST: (&str, &str) = ("SOURCE_DATE_EPOCH", "253402300799");

/// Size of the file of a small image, bytes.
const SMALLEST: u64 = 64 << 20;

impl Store {
    /// The erofs file of the image `id`, made if this is the first time that it is asked for. Two commands that ask at once make
    /// it once. The caller holds the image ([`Store::hold`]).
    ///
    /// # Errors
    /// [`Error::Tool`] when mkfs.erofs is missing or fails; [`Error::NotFound`]; or the layers cannot be joined.
    pub fn erofs(&self, id: &Digest) -> Result<PathBuf> {
        let path = self.erofs_path(id);
        if path.exists() {
            return Ok(path);
        }
        let _adding = self.adding()?;
        let _lock = Lock::exclusive(&self.lock_path(&format!("erofs-{}", id.hex())))?;
        if path.exists() {
            return Ok(path);
        }
        let layers = self.resolve(&id.to_string())?.layers;
        // A name of its own: should this command be killed, mkfs.erofs goes on for a while, and must not write into what the next
        // command makes.
        let ingest = self.root.join("ingest");
        let aside = tempfile::Builder::new()
            .prefix("erofs-")
            .tempdir_in(&ingest)
            .map_err(Error::io("create a folder in", &ingest))?;
        let made = aside.path().join("image");
        make(aside.path(), &layers, &made)?;
        pad(&made).map_err(Error::io("sync", &made))?;
        let folder = self.root.join("erofs");
        fs::create_dir_all(&folder).map_err(Error::io("create", &folder))?;
        fs::rename(&made, &path).map_err(Error::io("create", &path))?;
        sync_parent(&path)?;
        Ok(path)
    }

    pub(crate) fn erofs_path(&self, id: &Digest) -> PathBuf {
        self.root.join("erofs").join(id.hex())
    }
}

/// Writes the file `target` from `layers`, the lowest first, working in the folder `aside`.
fn make(aside: &Path, layers: &[PathBuf], target: &Path) -> Result<()> {
    let stage = aside.join("stage");
    fs::create_dir(&stage).map_err(Error::io("create", &stage))?;
    let work = || {
        let root = join(&stage, layers)?;
        run(&root, target)
    };
    // A thread, since a mount namespace is a thread's: what is mounted in it ends with the thread, or with a killed command.
    thread::scope(|scope| scope.spawn(work).join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
}

/// Mounts the layers' overlay, seen by the calling thread alone, and gives its path.
fn join(stage: &Path, layers: &[PathBuf]) -> Result<PathBuf> {
    let failed = |action, path: &Path| {
        let path = path.to_owned();
        move |errno: nix::errno::Errno| Error::io(action, path)(errno.into())
    };
    unshare(CloneFlags::CLONE_NEWNS).map_err(failed("make a mount namespace for", stage))?;
    let mount_at = |kind: Option<&str>, path: &Path, flags: MsFlags, options: Option<&str>| {
        mount(kind, path, kind, flags, options)
    };
    mount_at(None, Path::new("/"), MsFlags::MS_REC | MsFlags::MS_PRIVATE, None)
        .map_err(failed("change the mount propagation of", Path::new("/")))?;
    // Short names for the layers: all of an overlay's options must fit into one page.
    mount_at(Some("tmpfs"), stage, MsFlags::MS_NODEV | MsFlags::MS_NOSUID, None)
        .map_err(failed("mount a tmpfs on", stage))?;
    let root = stage.join("root");
    let bottom = stage.join("bottom");
    for folder in [&root, &bottom] {
        fs::create_dir(folder).map_err(Error::io("create", folder))?;
    }
    places(&bottom)?;
    if layers.is_empty() {
        return Ok(bottom);
    }
    let mut options = String::from("lowerdir=");
    for (index, layer) in layers.iter().enumerate().rev() {
        let name = stage.join(index.to_string());
        symlink(layer, &name).map_err(Error::io("create", &name))?;
        options.push_str(&format!("{index}:"));
    }
    // A read-only overlay has two layers at least.
    options.push_str("bottom");
    // The thread's folder is its own since it left the process's namespace.
    std::env::set_current_dir(stage).map_err(Error::io("enter", stage))?;
    mount_at(Some("overlay"), &root, MsFlags::MS_RDONLY, Some(&options))
        .map_err(failed("join the layers of an image on", &root))?;
    Ok(root)
}

/// Makes [`PLACES`] in `bottom`, all of the same age.
fn places(bottom: &Path) -> Result<()> {
    for place in PLACES {
        let path = bottom.join(place);
        let made = if place.ends_with('/') { fs::create_dir(&path) } else { fs::write(&path, "") };
        made.map_err(Error::io("create", &path))?;
    }
    // Folders after what is in them.
    for path in PLACES.iter().rev().map(|place| bottom.join(place)).chain([bottom.to_owned()]) {
        File::open(&path)
            .and_then(|file| file.set_modified(SystemTime::UNIX_EPOCH))
            .map_err(Error::io("set the time of", &path))?;
    }
    Ok(())
}

/// Rounds the file up to a size that many images share, with a hole, and syncs it. The kernels of two microVMs whose images have devices of
/// one size have booted alike: they can go on from one template.
fn pad(path: &Path) -> io::Result<()> {
    let file = File::options().write(true).open(path)?;
    file.set_len(file.metadata()?.len().next_power_of_two().max(SMALLEST))?;
    file.sync_all()
}

fn run(root: &Path, target: &Path) -> Result<()> {
    let failed = |reason: String| Error::Tool { program: PROGRAM, package: "erofs-utils", reason };
    let output = Command::new(PROGRAM)
        .args(["--quiet", "-d1", "-U", UUID])
        .args([target, root])
        .env(LATEST.0, LATEST.1)
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => failed("it is not installed".to_owned()),
            _ => failed(error.to_string()),
        })?;
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(failed(format!("{}: {}", output.status, said.trim())))
}

#[cfg(test)]
mod tests;
