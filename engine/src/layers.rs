//! The root filesystem of a container, read through its layers without mounting them.
//!
//! A microVM's root is joined inside the guest, so on the host there is nothing mounted to look at; and a mount costs more than the two small
//! files that a start reads. Each layer is asked for a path in turn, the topmost first, as overlayfs would
//! (Documentation/filesystems/overlayfs.rst), and the kernel keeps every lookup beneath the layer (`openat2`).

use std::collections::VecDeque;
use std::ffi::OsString;
use std::fs::{self, File};
use std::os::fd::{AsRawFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2};
use nix::sys::stat::Mode;

use crate::paths::ContainerPaths;

/// As the kernel's own limit (path_resolution(7)).
const MAX_LINKS: usize = 40;
/// How overlayfs marks a folder that hides those below it; the second in the write layer of a microVM, whose overlay is mounted
/// with `userxattr`.
pub(crate) const OPAQUE: [&str; 2] = ["trusted.overlay.opaque", "user.overlay.opaque"];

/// Where the files of a container's root are found.
#[derive(Debug)]
pub enum RootView {
    /// Mounted at this folder.
    Mounted(PathBuf),
    /// In these layers, the topmost first; the write layer is one of them.
    Layers(Vec<PathBuf>),
}

impl RootView {
    /// A container's own layers: its write layer and its image's.
    pub fn layers(files: &ContainerPaths, image: &[PathBuf]) -> Self {
        Self::Layers([files.overlay().join("upper")].into_iter().chain(image.iter().cloned()).collect())
    }

    /// The file at `path` for reading; links on the way are followed and never leave the root. `None` when there is none, or
    /// it cannot be opened.
    pub fn open(&self, path: &Path) -> Option<File> {
        match self {
            Self::Mounted(root) => {
                let root = File::open(root).ok()?;
                // The image chooses what is at this path: a link out of the root would read the host's file, a fifo would block.
                let how = OpenHow::new()
                    .flags(OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_CLOEXEC)
                    .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
                let path = path.strip_prefix("/").unwrap_or(path);
                Some(openat2(&root, path, how).ok()?.into())
            }
            Self::Layers(layers) => {
                let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
                let layers: Vec<OwnedFd> =
                    layers.iter().filter_map(|layer| open(layer, flags, Mode::empty()).ok()).collect();
                let found = resolve(&layers, path)?;
                // Only a regular file's descriptor is opened again: a device or fifo would do something.
                let is_file = metadata(&found)?.is_file();
                is_file.then(|| File::open(by_fd(&found)).ok()).flatten()
            }
        }
    }
}

/// Follows `path` through the layers.
fn resolve(layers: &[OwnedFd], path: &Path) -> Option<OwnedFd> {
    let mut todo: VecDeque<OsString> = parts(path);
    let mut here = PathBuf::new();
    let mut links = 0;
    let mut found = None;
    while let Some(part) = todo.pop_front() {
        if part == ".." {
            here.pop();
            continue;
        }
        let next = here.join(&part);
        let object = visible(layers, &next)?;
        let kind = metadata(&object)?.file_type();
        if kind.is_symlink() {
            links += 1;
            let target = nix::fcntl::readlinkat(&object, "").ok()?;
            let target = Path::new(&target);
            if links > MAX_LINKS {
                return None;
            }
            if target.is_absolute() {
                here = PathBuf::new();
            }
            for part in parts(target).into_iter().rev() {
                todo.push_front(part);
            }
        } else if kind.is_dir() {
            here = next;
        } else if !todo.is_empty() {
            return None;
        }
        found = Some(object);
    }
    found
}

fn parts(path: &Path) -> VecDeque<OsString> {
    let part = |component: Component<'_>| match component {
        Component::Normal(name) => Some(name.to_owned()),
        Component::ParentDir => Some("..".into()),
        _ => None,
    };
    path.components().filter_map(part).collect()
}

/// What overlayfs shows at `path`, whose parents are folders and no links.
fn visible(layers: &[OwnedFd], path: &Path) -> Option<OwnedFd> {
    for layer in layers {
        match look(layer, path) {
            Ok(found) => {
                let metadata = metadata(&found)?;
                let whiteout = metadata.file_type().is_char_device() && metadata.rdev() == 0;
                return (!whiteout).then_some(found);
            }
            // A parent that is no folder here hides what is below.
            Err(Errno::ENOTDIR | Errno::ELOOP) => return None,
            Err(_) => {}
        }
        let hidden = path.ancestors().skip(1).any(|parent| {
            !parent.as_os_str().is_empty() && look(layer, parent).is_ok_and(|folder| is_opaque(&folder))
        });
        if hidden {
            return None;
        }
    }
    None
}

fn look(layer: &OwnedFd, path: &Path) -> nix::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC)
        .resolve(ResolveFlag::RESOLVE_BENEATH | ResolveFlag::RESOLVE_NO_SYMLINKS);
    openat2(layer, path, how)
}

fn is_opaque(folder: &OwnedFd) -> bool {
    OPAQUE.iter().any(|name| {
        let mut value = [0_u8; 1];
        rustix::fs::getxattr(by_fd(folder), *name, &mut value).is_ok() && value == *b"y"
    })
}

fn metadata(object: &OwnedFd) -> Option<fs::Metadata> {
    // A link's own: `by_fd` names the object that the descriptor is open on, and nothing after it is followed.
    fs::metadata(by_fd(object)).ok()
}

fn by_fd(object: &OwnedFd) -> PathBuf {
    PathBuf::from(format!("/proc/self/fd/{}", object.as_raw_fd()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::{SFlag, mknod};
    use rustix::fs::XattrFlags;

    use super::*;

    /// Layers `0` (topmost), `1`, ... with these files; a content that begins with `->` is a link, `-` a whiteout, `o` an opaque folder.
    fn view(files: &[(&str, &str)]) -> (tempfile::TempDir, RootView) {
        let folder = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = (0..3).map(|index| folder.path().join(index.to_string())).collect();
        for layer in &layers {
            fs::create_dir(layer).unwrap();
        }
        for (path, content) in files {
            let path = folder.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            match content.strip_prefix("->") {
                Some(target) => symlink(target, &path).unwrap(),
                None if *content == "-" => mknod(&path, SFlag::S_IFCHR, Mode::empty(), 0).unwrap(),
                None if content.starts_with("o:") => {
                    fs::create_dir_all(&path).unwrap();
                    rustix::fs::setxattr(&path, &content[2..], b"y", XattrFlags::empty()).unwrap();
                }
                None => fs::write(&path, content).unwrap(),
            }
        }
        (folder, RootView::Layers(layers))
    }

    fn read(view: &RootView, path: &str) -> Option<String> {
        let mut text = String::new();
        view.open(Path::new(path))?.read_to_string(&mut text).unwrap();
        Some(text)
    }

    #[test]
    fn the_topmost_layer_that_has_it_wins() {
        let (_folder, view) = view(&[
            ("0/etc/passwd", "top"),
            ("1/etc/passwd", "middle"),
            ("1/etc/group", "middle"),
            ("2/etc/shadow", "low"),
            ("0/gone", "-"),
            ("2/gone", "low"),
            ("0/folder", "a file"),
            ("2/folder/x", "low"),
            ("0/opaque", "o:user.overlay.opaque"),
            ("2/opaque/x", "low"),
            ("1/hidden", "o:trusted.overlay.opaque"),
            ("1/hidden/kept", "middle"),
            ("2/hidden/x", "low"),
        ]);
        for (path, expected) in [
            ("/etc/passwd", Some("top")),
            ("etc/group", Some("middle")),
            ("/etc/shadow", Some("low")),
            ("/etc/../etc/./shadow", Some("low")),
            ("/gone", None),
            ("/folder/x", None),
            ("/folder", Some("a file")),
            ("/opaque/x", None),
            ("/hidden/x", None),
            ("/hidden/kept", Some("middle")),
            ("/etc", None),
            ("/none", None),
        ] {
            assert_eq!(read(&view, path).as_deref(), expected, "{path}");
        }
    }

    #[test]
    fn links_are_followed_across_layers_and_never_out_of_them() {
        let secret = tempfile::NamedTempFile::new().unwrap();
        fs::write(secret.path(), "the host's").unwrap();
        let out = format!("->{}", secret.path().display());
        let (_folder, view) = view(&[
            ("0/etc/passwd", "->../nix/store/passwd"),
            ("2/nix/store/passwd", "low"),
            ("0/abs", "->/etc/passwd"),
            ("0/host", out.as_str()),
            ("0/up", "->../../../../../../../../etc/hostname"),
            ("0/round", "->round"),
            // A link here, a folder above: what is below is the folder's alone.
            ("0/both/mine", "top"),
            ("1/both", "->/tmp"),
            ("2/both/low", "low"),
        ]);
        for (path, expected) in [
            ("/etc/passwd", Some("low")),
            ("/abs", Some("low")),
            ("/host", None),
            ("/up", None),
            ("/round", None),
            ("/both/mine", Some("top")),
            ("/both/low", None),
        ] {
            assert_eq!(read(&view, path).as_deref(), expected, "{path}");
        }
    }
}
