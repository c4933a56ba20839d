//! `cp`: files and folders between the host and a container, whether it runs or not.
//!
//! A container may change its files while they are copied and point symbolic links anywhere. So nothing is ever named by a
//! path of the host: each object is reached through a descriptor, each path inside a container is resolved by the kernel
//! with the container's root as root (`openat2`, `RESOLVE_IN_ROOT`), and below that no link is followed.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};

mod archive;
mod mount;
mod object;
mod root;
#[cfg(test)]
mod tests;
mod tree;

pub use archive::{pack, unpack};
pub use mount::container_root;
pub use root::Root;
pub use tree::copy;

/// Result of copying.
pub type Result<T, E = CopyError> = std::result::Result<T, E>;

/// Why something cannot be copied.
#[derive(Debug, thiserror::Error)]
pub enum CopyError {
    /// Nothing is there.
    #[error("{side}:{path}: no such file or folder", path = path.display())]
    NotFound {
        /// Where it was looked for.
        side: Side,
        /// The path.
        path: PathBuf,
    },
    /// The destination's folder has to exist.
    #[error("{side}:{path}: the folder does not exist; make it first", path = path.display())]
    NoParent {
        /// On which side.
        side: Side,
        /// The destination.
        path: PathBuf,
    },
    /// A folder is wanted and something else is there.
    #[error("{side}:{path} is not a folder", path = path.display())]
    NotAFolder {
        /// On which side.
        side: Side,
        /// The path.
        path: PathBuf,
    },
    /// A file cannot take the place of a folder.
    #[error("{side}:{path} is a folder, and cannot be replaced by a file", path = path.display())]
    IsAFolder {
        /// On which side.
        side: Side,
        /// The path.
        path: PathBuf,
    },
    /// An archive's entry has a name or type that is not taken.
    #[error("entry {entry:?} of the archive: {reason}")]
    Entry {
        /// The entry's name.
        entry: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The archive cannot be read or written.
    #[error("cannot {action} the archive")]
    Archive {
        /// "read" or "write".
        action: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A file operation failed.
    #[error("cannot {action} {side}:{path}", path = path.display())]
    Io {
        /// The verb phrase.
        action: &'static str,
        /// On which side.
        side: Side,
        /// On what.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A microVM refused; in its own words.
    #[error("{message}")]
    Inside {
        /// What it said.
        message: String,
    },
    /// The container's root filesystem cannot be reached.
    #[error(transparent)]
    Engine(Box<crate::Error>),
}

/// Whose path it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The host's.
    Host,
    /// The container's.
    Container,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Host => "host",
            Self::Container => "container",
        })
    }
}

/// Who owns the copies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ownership {
    /// On the host whoever runs the command, in a container its root (Docker's default).
    Destination,
    /// The same user and group ids as at the source (`--archive`), and the set-user-id bits stay.
    Preserve,
}

/// What is done with a symbolic link that is itself named as the source.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Links {
    /// The link is copied.
    Keep,
    /// What it points to is copied (`--follow-link`).
    Follow,
}

/// What was copied.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Report {
    /// Bytes of content.
    pub bytes: u64,
    /// Sockets and devices, which are not copied.
    pub skipped: Vec<PathBuf>,
}

/// A path as the user wrote it, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Named {
    /// Without what is at its end; relative to the root.
    path: PathBuf,
    /// It ends with `/` or `/.`: it must be a folder.
    folder: bool,
    /// It ends with `/.`, or is the root itself: what is in the folder is meant, not the folder.
    contents: bool,
}

impl Named {
    pub(crate) fn parse(path: &Path) -> Self {
        use std::os::unix::ffi::OsStrExt;
        let bytes = path.as_os_str().as_bytes();
        let contents = bytes.ends_with(b"/.") || bytes == b"." || bytes.iter().all(|byte| *byte == b'/');
        let folder = contents || bytes.ends_with(b"/");
        let relative: PathBuf = path.components().filter(|part| !is_skipped(*part)).collect();
        Self { path: relative, folder, contents }
    }
}

fn is_skipped(part: std::path::Component<'_>) -> bool {
    use std::path::Component::{CurDir, Prefix, RootDir};
    matches!(part, CurDir | Prefix(_) | RootDir)
}
