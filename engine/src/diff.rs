//! What a container changed in its root filesystem: its write layer against the image's layers.

use std::collections::BTreeSet;
use std::ffi::OsString;
use std::fmt;
use std::fs::{self, Metadata};
use std::io;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::layers::OPAQUE;
use crate::store::Container;

/// How a path differs from the image.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// It is in the image, too, but not like this.
    Changed,
    /// It is not in the image.
    Added,
    /// It is only in the image.
    Deleted,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Changed => "C",
            Self::Added => "A",
            Self::Deleted => "D",
        })
    }
}

/// Every path that differs, sorted.
///
/// # Errors
/// The write layer or an image layer cannot be read.
pub fn changes(container: &Container) -> Result<Vec<(PathBuf, Change)>> {
    let upper = container.paths.overlay().join("upper");
    let mut found = vec![];
    if upper.exists() {
        walk(&upper, &container.record.image.layers, Path::new(""), Below::Visible, &mut found)?;
    }
    found.sort();
    Ok(found)
}

/// Whether the image's content of a folder can be seen through the write layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Below {
    Visible,
    /// The folder, or one above it, was removed and made again.
    Hidden,
}

/// `lower`: the image's layers, the topmost first.
fn walk(
    upper: &Path,
    lower: &[PathBuf],
    path: &Path,
    below: Below,
    found: &mut Vec<(PathBuf, Change)>,
) -> Result<()> {
    let folder = upper.join(path);
    let below = if is_opaque(&folder)? { Below::Hidden } else { below };
    let mut present = BTreeSet::new();
    for entry in fs::read_dir(&folder).map_err(|source| Error::file("read", &folder, source))? {
        let entry = entry.map_err(|source| Error::file("read", &folder, source))?;
        present.insert(entry.file_name());
        let inner = path.join(entry.file_name());
        // Not followed: a link is itself what was changed.
        let Some(metadata) = look(&entry.path())? else { continue };
        let seen = visible(lower, &inner)?;
        let change = match (is_whiteout(&metadata), seen.is_some()) {
            // A file that was made and removed again, or was hidden already, leaves a mark without meaning.
            (true, false) => continue,
            (true, true) => Change::Deleted,
            (false, true) => Change::Changed,
            (false, false) => Change::Added,
        };
        found.push((Path::new("/").join(&inner), change));
        if metadata.is_dir() {
            walk(upper, lower, &inner, below, found)?;
        }
    }
    if below == Below::Hidden {
        let hidden = lower_names(lower, path)?;
        found.extend(
            hidden.difference(&present).map(|name| (Path::new("/").join(path).join(name), Change::Deleted)),
        );
    }
    Ok(())
}

/// The topmost object at `path` in the image's layers, unless a layer above it removed it.
fn visible(lower: &[PathBuf], path: &Path) -> Result<Option<Metadata>> {
    for layer in lower {
        match look(&layer.join(path))? {
            Some(metadata) if is_whiteout(&metadata) => return Ok(None),
            Some(metadata) => return Ok(Some(metadata)),
            None => {}
        }
        // A layer in which a parent was removed or replaced hides what is below it.
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            let place = layer.join(parent);
            match look(&place)? {
                Some(metadata) if !metadata.is_dir() || is_opaque(&place)? => return Ok(None),
                _ => {}
            }
        }
    }
    Ok(None)
}

/// Names in the folder `path` of the image's layers.
fn lower_names(lower: &[PathBuf], path: &Path) -> Result<BTreeSet<OsString>> {
    let mut names = BTreeSet::new();
    for layer in lower {
        let Ok(entries) = fs::read_dir(layer.join(path)) else { continue };
        for name in entries.flatten().map(|entry| entry.file_name()) {
            if visible(lower, &path.join(&name))?.is_some() {
                names.insert(name);
            }
        }
    }
    Ok(names)
}

fn look(path: &Path) -> Result<Option<Metadata>> {
    match fs::symlink_metadata(path) {
        Ok(metadata) => Ok(Some(metadata)),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            Ok(None)
        }
        Err(source) => Err(Error::file("look at", path, source)),
    }
}

/// overlayfs marks a removed path with a character device 0/0 (kernel, Documentation/filesystems/overlayfs.rst).
fn is_whiteout(metadata: &Metadata) -> bool {
    metadata.file_type().is_char_device() && metadata.rdev() == 0
}

/// overlayfs marks a folder that hides those below it with an attribute.
fn is_opaque(folder: &Path) -> Result<bool> {
    for name in OPAQUE {
        let mut value = [0_u8; 1];
        match rustix::fs::lgetxattr(folder, name, &mut value) {
            Ok(_) if value == *b"y" => return Ok(true),
            Ok(_)
            | Err(rustix::io::Errno::NODATA | rustix::io::Errno::OPNOTSUPP | rustix::io::Errno::RANGE) => {}
            Err(errno) => return Err(Error::file("read the attributes of", folder, errno)),
        }
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use nix::sys::stat::{Mode, SFlag, mknod};
    use rustix::fs::XattrFlags;

    use super::*;
    use crate::view::ps::tests::container;

    #[test]
    fn each_kind_of_change() {
        let folder = tempfile::tempdir().unwrap();
        let paths = crate::paths::Paths::new(folder.path().join("run"), folder.path().join("lib"));
        let mut container = container("web");
        container.paths = paths.container(container.id());
        let (top, bottom) = (folder.path().join("top"), folder.path().join("bottom"));
        let upper = container.paths.overlay().join("upper");
        container.record.image.layers = vec![top.clone(), bottom.clone()];
        let whiteout = |path: PathBuf| mknod(&path, SFlag::S_IFCHR, Mode::empty(), 0).unwrap();
        for (root, files) in [
            (&bottom, &["etc/conf", "etc/old", "srv/a", "srv/b", "srv/d/old", "gone/x"][..]),
            (&top, &["etc/new"]),
            (&upper, &["etc/conf", "etc/mine", "srv/b", "srv/c", "srv/d/new", "gone/x"]),
        ] {
            for file in files {
                fs::create_dir_all(root.join(file).parent().unwrap()).unwrap();
                fs::write(root.join(file), "").unwrap();
            }
        }
        whiteout(top.join("gone"));
        whiteout(upper.join("etc/old"));
        whiteout(upper.join("etc/never"));
        rustix::fs::lsetxattr(upper.join("srv"), "trusted.overlay.opaque", b"y", XattrFlags::empty())
            .unwrap();
        let shown: Vec<String> = changes(&container)
            .unwrap()
            .iter()
            .map(|(path, change)| format!("{change} {}", path.display()))
            .collect();
        assert_eq!(
            shown,
            [
                "C /etc",
                "C /etc/conf",
                "A /etc/mine",
                "D /etc/old",
                "A /gone",
                "A /gone/x",
                "C /srv",
                "D /srv/a",
                "C /srv/b",
                "A /srv/c",
                "C /srv/d",
                "A /srv/d/new",
                "D /srv/d/old",
            ]
        );
    }
}
