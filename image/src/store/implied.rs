//! Folders that a layer has things in without an entry of their own.
//!
//! `tmp/x` in a layer without `tmp/` needs a folder, and overlayfs shows the uppermost folder's owner and mode: the one that was
//! made for it would hide the 1777 that a layer below says. As layers are unpacked once for all images, the folder itself cannot
//! take what is below it in one of them. Instead, an image that needs it gets one more layer on top, of nothing but folders with
//! the attributes that they should show.

use std::collections::{BTreeSet, HashSet};
use std::fs;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, CWD, Timespec, Timestamps, XattrFlags, utimensat};

use super::Store;
use super::lock::Lock;
use super::snapshot::{LayerInfo, Unpacked};
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};

/// overlayfs' own attributes say how layers combine, not what a folder is.
const OVERLAY_ATTRIBUTES: &str = "trusted.overlay.";
const OPAQUE_ATTRIBUTE: &str = "trusted.overlay.opaque";
/// Longest list of names, and longest value, of attributes (xattr(7)).
const XATTR_BYTES: usize = 65536;

/// A layer's folder, and those of its folders that have no entry.
struct Layer {
    root: PathBuf,
    implied: HashSet<PathBuf>,
}

/// What a layer has at a path.
enum Found {
    Nothing,
    Folder,
    /// Something that hides what the layers below have there.
    Other,
}

impl Store {
    /// Makes the layer that goes on top of `layers` (the lowest first), if they need one, and gives its name.
    pub(crate) fn add_implied_layer(&self, layers: &[Digest]) -> Result<Option<Digest>> {
        let mut stack = vec![];
        for layer in layers {
            let implied =
                self.layer_info(layer)?.implied.into_iter().filter(|path| path != Path::new("")).collect();
            stack.push(Layer { root: self.layer_dir(layer).join("fs"), implied });
        }
        let mut folders = BTreeSet::new();
        for path in stack.iter().flat_map(|layer| &layer.implied) {
            if let Some((_, true)) = stack_source(&stack, path) {
                folders.extend(path.ancestors().filter(|path| *path != Path::new("")).map(Path::to_path_buf));
            }
        }
        if folders.is_empty() {
            return Ok(None);
        }
        let mut name = Hasher::new();
        name.update(b"implied folders of");
        layers.iter().for_each(|layer| name.update(layer.hex().as_bytes()));
        let name = name.finish();
        let lock = Lock::exclusive(&self.lock_path(&format!("layer-{}", name.hex())))?;
        if !self.has_layer(&name) {
            let aside = self.root.join("ingest").join(format!("layer-{}", name.hex()));
            make(&aside, &stack, &folders)?;
            let entries = folders.len() as u64;
            self.publish(&[Unpacked { aside, target: self.layer_dir(&name), entries, _lock: lock }])?;
        }
        Ok(Some(name))
    }
}

fn make(aside: &Path, stack: &[Layer], folders: &BTreeSet<PathBuf>) -> Result<()> {
    if aside.exists() {
        fs::remove_dir_all(aside).map_err(Error::io("remove", aside))?;
    }
    let root = aside.join("fs");
    let mut builder = fs::DirBuilder::new();
    builder.mode(0o755).recursive(true).create(&root).map_err(Error::io("create", &root))?;
    // Sorted, so that each comes after the one that it is in.
    for path in folders {
        builder.create(root.join(path)).map_err(Error::io("create", root.join(path)))?;
    }
    // The lowest first: making something in a folder changes its time.
    for path in folders.iter().rev() {
        if let Some((source, _)) = stack_source(stack, path) {
            copy_attributes(&source, &root.join(path))?;
        }
    }
    let info = serde_json::to_vec(&LayerInfo { size: 0, implied: vec![] })
        .map_err(Error::malformed("layer.json"))?;
    fs::write(aside.join("layer.json"), info).map_err(Error::io("write", aside.join("layer.json")))
}

/// The uppermost folder `path` that has an entry and is not hidden, and whether one without is above it.
fn stack_source(stack: &[Layer], path: &Path) -> Option<(PathBuf, bool)> {
    let mut is_covered = false;
    for layer in stack.iter().rev() {
        let (found, is_opaque) = look(&layer.root, path);
        match found {
            Found::Other => return None,
            Found::Folder if !layer.implied.contains(path) => {
                return Some((layer.root.join(path), is_covered));
            }
            Found::Folder => is_covered = true,
            Found::Nothing => {}
        }
        if is_opaque {
            return None;
        }
    }
    None
}

/// What `root` has at `path`, and whether a folder on the way hides what is below. Links are not followed: overlayfs does not
/// either.
fn look(root: &Path, path: &Path) -> (Found, bool) {
    let mut at = root.to_path_buf();
    let mut is_opaque = false;
    for component in path {
        at.push(component);
        match fs::symlink_metadata(&at) {
            Err(_) => return (Found::Nothing, is_opaque),
            Ok(metadata) if !metadata.is_dir() => return (Found::Other, is_opaque),
            Ok(_) => {
                let mut value = [0; 1];
                let length = rustix::fs::lgetxattr(&at, OPAQUE_ATTRIBUTE, &mut value[..]);
                is_opaque |= length == Ok(1) && value == *b"y";
            }
        }
    }
    (Found::Folder, is_opaque)
}

fn copy_attributes(from: &Path, to: &Path) -> Result<()> {
    let metadata = fs::metadata(from).map_err(Error::io("look at", from))?;
    chown(to, Some(metadata.uid()), Some(metadata.gid())).map_err(Error::io("change the owner of", to))?;
    fs::set_permissions(to, fs::Permissions::from_mode(metadata.mode() & 0o7777))
        .map_err(Error::io("change the mode of", to))?;
    let failed = |errno: rustix::io::Errno| Error::io("copy the attributes to", to)(errno.into());
    let mut names = vec![0; XATTR_BYTES];
    let length = rustix::fs::llistxattr(from, &mut names[..]).map_err(failed)?;
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if name.starts_with(OVERLAY_ATTRIBUTES.as_bytes()) {
            continue;
        }
        let mut value = vec![0; XATTR_BYTES];
        let length = rustix::fs::lgetxattr(from, name, &mut value[..]).map_err(failed)?;
        rustix::fs::lsetxattr(to, name, &value[..length], XattrFlags::empty()).map_err(failed)?;
    }
    let time = Timespec { tv_sec: metadata.mtime(), tv_nsec: metadata.mtime_nsec() };
    let times = Timestamps { last_access: time, last_modification: time };
    utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW).map_err(failed)
}
