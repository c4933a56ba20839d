//! The process's root: image and write layer joined, the file systems on top of it, and the step into it.

use std::fs;
use std::path::{Component, Path, PathBuf};

use rkvm_guest_protocol::{FileSystem, GuestSetup};

use crate::fail::{Fail, Result};
use crate::sys;

const IMAGE: &str = "/run/image";
const WRITE: &str = "/run/write";
const ROOT: &str = "/run/root";

/// Mount flags by their name in config.json.
const FLAGS: [(&str, u64); 12] = [
    ("ro", libc::MS_RDONLY),
    ("nosuid", libc::MS_NOSUID),
    ("nodev", libc::MS_NODEV),
    ("noexec", libc::MS_NOEXEC),
    ("sync", libc::MS_SYNCHRONOUS),
    ("dirsync", libc::MS_DIRSYNC),
    ("noatime", libc::MS_NOATIME),
    ("nodiratime", libc::MS_NODIRATIME),
    ("relatime", libc::MS_RELATIME),
    ("strictatime", libc::MS_STRICTATIME),
    ("rw", 0),
    ("defaults", 0),
];

/// Joins the image and the write layer. Runs in init, once.
pub fn assemble(setup: &GuestSetup) -> Result<()> {
    for folder in [IMAGE, WRITE, ROOT] {
        fs::create_dir_all(folder).map_err(Fail::on("create", folder))?;
    }
    sys::mount(&setup.image_device, Path::new(IMAGE), "erofs", libc::MS_RDONLY, "")
        .map_err(Fail::on("mount the image", &setup.image_device))?;
    match &setup.write_device {
        Some(device) => sys::mount(device, Path::new(WRITE), "ext4", 0, "")
            .map_err(Fail::on("mount the write layer", device))?,
        None => sys::mount("tmpfs", Path::new(WRITE), "tmpfs", 0, "mode=0755")
            .map_err(Fail::on("mount", "the write layer"))?,
    }
    for folder in ["upper", "work"] {
        let path = Path::new(WRITE).join(folder);
        fs::create_dir_all(&path).map_err(Fail::on("create", path.display()))?;
    }
    let layers = format!("lowerdir={IMAGE},upperdir={WRITE}/upper,workdir={WRITE}/work");
    sys::mount("overlay", Path::new(ROOT), "overlay", 0, &layers)
        .map_err(Fail::on("join", "the image and the write layer"))
}

/// Mounts what is below the root, writes its files, and makes it `/`. Runs in the process, in namespaces of its own.
pub fn enter(setup: &GuestSetup) -> Result<()> {
    sys::mount_private().map_err(Fail::on("make private", "/"))?;
    let root = Path::new(ROOT);
    for mount in &setup.mounts {
        mount_one(root, mount)?;
    }
    for (path, content) in &setup.files {
        let target = below(root, path)?;
        make_parent(&target)?;
        fs::write(&target, content).map_err(Fail::on("write", path))?;
    }
    sys::pivot_root(root).map_err(Fail::on("make the image", "/"))?;
    for path in &setup.readonly_paths {
        sys::make_readonly(Path::new(path))
            .or_else(ignore_missing)
            .map_err(Fail::on("make read-only", path))?;
    }
    for path in &setup.masked_paths {
        sys::mask(Path::new(path)).or_else(ignore_missing).map_err(Fail::on("mask", path))?;
    }
    if setup.readonly_root {
        sys::make_readonly(Path::new("/")).map_err(Fail::on("make read-only", "/"))?;
    }
    Ok(())
}

fn ignore_missing(error: std::io::Error) -> std::io::Result<()> {
    if error.kind() == std::io::ErrorKind::NotFound { Ok(()) } else { Err(error) }
}

fn mount_one(root: &Path, mount: &FileSystem) -> Result<()> {
    let target = below(root, &mount.target)?;
    fs::create_dir_all(&target).map_err(Fail::on("create", &mount.target))?;
    let (mut flags, mut data) = (0, Vec::new());
    for option in &mount.options {
        match FLAGS.iter().find(|(name, _)| name == option) {
            Some((_, flag)) => flags |= flag,
            None => data.push(option.as_str()),
        }
    }
    sys::mount(&mount.source, &target, &mount.kind, flags, &data.join(","))
        .map_err(Fail::on("mount", &mount.target))
}

fn make_parent(path: &Path) -> Result<()> {
    match path.parent() {
        Some(parent) => fs::create_dir_all(parent).map_err(Fail::on("create", parent.display())),
        None => Ok(()),
    }
}

/// `path` below `root`, with symbolic links of the image resolved below `root` too: an image whose `/etc` is a link must not make
/// init write to its own.
fn below(root: &Path, path: &str) -> Result<PathBuf> {
    let mut resolved = root.to_owned();
    let mut pending: Vec<PathBuf> = vec![PathBuf::from(path)];
    let mut links = 0;
    while let Some(next) = pending.pop() {
        let mut components = next.components();
        let Some(component) = components.next() else { continue };
        let rest = components.as_path().to_owned();
        if !rest.as_os_str().is_empty() {
            pending.push(rest);
        }
        match component {
            Component::Normal(name) => {
                let candidate = resolved.join(name);
                match fs::read_link(&candidate) {
                    Ok(link) => {
                        links += 1;
                        if links > 40 {
                            return Err(Fail::on("resolve", path)(std::io::Error::from_raw_os_error(
                                libc::ELOOP,
                            )));
                        }
                        if link.is_absolute() {
                            resolved = root.to_owned();
                        }
                        pending.push(link);
                    }
                    Err(_) => resolved = candidate,
                }
            }
            Component::ParentDir => {
                if resolved != root {
                    resolved.pop();
                }
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    Ok(resolved)
}
