//! The root filesystem: the image's layers and the write layer, joined by overlayfs in a mount namespace that nobody else sees.
//!
//! Owners on disk are the container's ids. The layers and the write layer are idmapped mounts *below* the overlay, so every
//! container sees its own range over the same unpacked layers.

use std::fs;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};

use crate::error::{Error, Result};
use crate::paths::ContainerPaths;
use crate::sys;

/// Moves this process into a mount namespace of its own that receives the host's mounts but shows none of its own: what
/// is mounted from now on ends with the process.
///
/// # Errors
/// The kernel refuses.
pub fn private_mounts() -> Result<()> {
    unshare(CloneFlags::CLONE_NEWNS).map_err(|errno| Error::Namespaces { source: errno.into() })?;
    let flags = MsFlags::MS_REC | MsFlags::MS_SLAVE;
    mount(None::<&str>, "/", None::<&str>, flags, None::<&str>)
        .map_err(|errno| Error::file("change the mount propagation of", "/", errno))
}

/// The identity that a container's files have on the host.
#[derive(Debug, Clone, Copy)]
pub struct Owner<'a> {
    /// The container's user namespace.
    pub userns: &'a OwnedFd,
    /// Host id of its user 0.
    pub uid_base: u32,
}

/// Makes the folders of a container's root filesystem: the mount point and the write layer.
///
/// A microVM's kernel takes the layer to be empty as long as overlayfs has not made a folder in `work` (`private_upper` in guest/init), so nobody
/// may write to `upper` but through overlayfs with this `work`.
///
/// # Errors
/// One cannot be made.
pub fn prepare(files: &ContainerPaths) -> Result<()> {
    for (folder, mode) in [
        (files.rootfs(), 0o755),
        (files.overlay(), 0o700),
        (files.overlay().join("upper"), 0o755),
        (files.overlay().join("work"), 0o700),
    ] {
        match fs::DirBuilder::new().mode(mode).create(&folder) {
            Ok(()) => {
                // The umask of whoever called must not decide how the container's / looks.
                fs::set_permissions(&folder, fs::Permissions::from_mode(mode))
                    .map_err(|source| Error::file("change the mode of", folder, source))?;
            }
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            Err(source) => return Err(Error::file("create", folder, source)),
        }
    }
    Ok(())
}

/// Mounts an image's layers, the topmost first, read-only at [`ContainerPaths::rootfs`]. Call it after [`private_mounts`].
///
/// # Errors
/// As [`mount_overlay`].
pub fn mount_image(files: &ContainerPaths, layers: &[PathBuf]) -> Result<()> {
    prepare(files)?;
    let rootfs = files.rootfs();
    // A read-only overlay has two layers at least; the empty mount point is one more.
    let options = lower_options(layers.iter().map(PathBuf::as_path).chain([rootfs.as_path()]));
    overlay_mount(&rootfs, layers.len(), &options, None)
}

/// Mounts the root filesystem of a microVM that does not run. Inside, its image is one layer, and its write layer has overlayfs'
/// marks as user attributes; so the layers are joined to one first.
///
/// # Errors
/// As [`mount_overlay`].
pub fn mount_guest_overlay(files: &ContainerPaths, layers: &[PathBuf]) -> Result<()> {
    mount_image(files, layers)?;
    let rootfs = files.rootfs();
    let image = fs::File::open(&rootfs).map_err(|source| Error::file("open", &rootfs, source))?;
    let lower = PathBuf::from(format!("/proc/self/fd/{}", image.as_raw_fd()));
    let options = format!("{},userxattr", all_options([lower.as_path()].into_iter(), &files.overlay()));
    overlay_mount(&rootfs, 1, &options, None)
}

/// Mounts the root filesystem of a container at [`ContainerPaths::rootfs`]. `layers` are the image's, the topmost first.
/// Call it after [`private_mounts`].
///
/// # Errors
/// A folder cannot be made, a layer's file system cannot be idmapped, or overlayfs refuses.
pub fn mount_overlay(files: &ContainerPaths, layers: &[PathBuf], owner: Option<Owner<'_>>) -> Result<()> {
    let rootfs = files.rootfs();
    let overlay = files.overlay();
    prepare(files)?;
    // An image without layers still needs a lower folder; the empty mount point serves.
    let bottom = [rootfs.clone()];
    let layers = if layers.is_empty() { &bottom[..] } else { layers };
    let Some(owner) = owner else {
        let options = all_options(layers.iter().map(PathBuf::as_path), &overlay);
        return overlay_mount(&rootfs, layers.len(), &options, None);
    };
    // Layers usually share one parent: idmap that once instead of every layer.
    let parent = common_parent(layers);
    let mut held = Vec::new();
    let mut idmapped = |path: &Path| -> Result<PathBuf> {
        let tree =
            sys::clone_mount(path).map_err(|source| Error::file("clone the mount of", path, source))?;
        sys::idmap_mount(tree.as_fd(), owner.userns.as_fd())
            .map_err(|source| Error::CannotIdmap { path: path.to_owned(), source })?;
        // overlayfs takes only mounts that are attached somewhere in this namespace; the mount point, which the overlay
        // then covers, is as good as any.
        sys::attach_mount(tree.as_fd(), &rootfs)
            .map_err(|source| Error::file("mount on", &rootfs, source))?;
        let path = PathBuf::from(format!("/proc/self/fd/{}", tree.as_raw_fd()));
        held.push(tree);
        Ok(path)
    };
    let layers: Vec<PathBuf> = match parent {
        Some(parent) => {
            let mapped = idmapped(parent)?;
            layers
                .iter()
                .map(|layer| layer.strip_prefix(parent).map_or(layer.clone(), |rest| mapped.join(rest)))
                .collect()
        }
        None => layers.iter().map(|layer| idmapped(layer)).collect::<Result<_>>()?,
    };
    let write_layer = idmapped(&overlay)?;
    let options = all_options(layers.iter().map(PathBuf::as_path), &write_layer);
    overlay_mount(&rootfs, layers.len(), &options, Some(owner.uid_base))
}

/// The folder that holds all of `layers`, when there is one above the file system's root.
fn common_parent(layers: &[PathBuf]) -> Option<&Path> {
    let mut parent = layers.first()?.parent()?;
    while !layers.iter().all(|layer| layer.starts_with(parent)) {
        parent = parent.parent()?;
    }
    (parent != Path::new("/")).then_some(parent)
}

fn lower_options<'a>(layers: impl Iterator<Item = &'a Path>) -> String {
    let mut options = String::from("lowerdir=");
    for (index, layer) in layers.enumerate() {
        if index > 0 {
            options.push(':');
        }
        push_escaped(&mut options, layer);
    }
    options
}

fn all_options<'a>(layers: impl Iterator<Item = &'a Path>, write: &Path) -> String {
    let mut options = lower_options(layers);
    for (name, folder) in [(",upperdir=", "upper"), (",workdir=", "work")] {
        options.push_str(name);
        push_escaped(&mut options, &write.join(folder));
    }
    options
}

fn overlay_mount(rootfs: &Path, layers: usize, options: &str, fs_owner: Option<u32>) -> Result<()> {
    let page = 4096;
    if options.len() >= page {
        return Err(Error::TooManyLayers { layers, bytes: options.len() });
    }
    let mount = || mount(Some("overlay"), rootfs, Some("overlay"), MsFlags::empty(), Some(options));
    // overlayfs makes files with the credentials of whoever mounts it, and below an idmapped write layer the host's root does
    // not exist: mount as the container's.
    let mounted = match fs_owner {
        Some(id) => sys::with_fs_owner(id, mount).map_err(|source| Error::Namespaces { source })?,
        None => mount(),
    };
    mounted.map_err(|errno| Error::file("mount the root filesystem on", rootfs, errno))
}

/// Appends a path in overlayfs's option syntax, where `:`, `,` and `\` have meanings.
fn push_escaped(options: &mut String, path: &Path) {
    for c in path.to_string_lossy().chars() {
        if matches!(c, ':' | ',' | '\\') {
            options.push('\\');
        }
        options.push(c);
    }
}
