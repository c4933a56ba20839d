//! What the engine reports: what failed, on what, what to do next.

use std::path::PathBuf;

use crate::state::ContainerStatus;

/// Result of any operation in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// What went wrong.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No container has this name or id.
    #[error("no such container: {0} (`rkvm ps -a` shows those that exist)")]
    NoSuchContainer(String),
    /// An id prefix fits several containers.
    #[error("{reference:?} fits {} containers ({}): give more characters of the id", .ids.len(), .ids.join(", "))]
    Ambiguous {
        /// What was asked for.
        reference: String,
        /// Short ids of those that fit.
        ids: Vec<String>,
    },
    /// The name is taken.
    #[error(
        "the container name {name:?} is in use by container {holder}: remove or rename that container, or choose another name"
    )]
    NameTaken {
        /// The name.
        name: String,
        /// Short id of the container that has it.
        holder: String,
    },
    /// A name has characters that it may not have.
    #[error("{name:?} is not a valid name: use [a-zA-Z0-9][a-zA-Z0-9_.-]+")]
    InvalidName {
        /// The name.
        name: String,
    },
    /// The operation does not fit the container's state.
    #[error("cannot {verb} container {name}: it is {status}{}", hint.map(|hint| format!(" ({hint})")).unwrap_or_default())]
    WrongState {
        /// "start", "remove", ...
        verb: &'static str,
        /// The container's name.
        name: String,
        /// The state it is in.
        status: ContainerStatus,
        /// What to do.
        hint: Option<&'static str>,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    File {
        /// "read", "write", "lock", ...
        action: &'static str,
        /// The file or folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A record is damaged.
    #[error("{path} is damaged; `rkvm rm -f` with the container's id removes it")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A `--filter` makes no sense.
    #[error(transparent)]
    Filter(#[from] crate::format::FilterError),
    /// A `--format` makes no sense.
    #[error(transparent)]
    Template(#[from] crate::format::TemplateError),
    /// A volume operation failed.
    #[error(transparent)]
    Volume(#[from] crate::volume::VolumeError),
    /// The monitor ended without a word.
    #[error(
        "the monitor of container {id} was killed; what it left has been cleaned up by the time of the next command"
    )]
    MonitorLost {
        /// The container's id.
        id: String,
    },
    /// Every user id range is taken.
    #[error("every user id range is in use (links in {folder}): stop a container, or use --userns=host")]
    NoUidRange {
        /// The folder of links.
        folder: PathBuf,
    },
    /// The kernel refuses a namespace.
    #[error("cannot make the container's namespaces (rkvm must run as root, with user namespaces enabled)")]
    Namespaces {
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// A file system cannot show owners through a mapping.
    #[error(
        "the file system of {path} cannot be mounted with mapped owners: move it to ext4, xfs, btrfs or tmpfs, or use --userns=host"
    )]
    CannotIdmap {
        /// The folder.
        path: PathBuf,
        /// Why.
        #[source]
        source: std::io::Error,
    },
    /// More layers than one overlay mount takes.
    #[error(
        "the image's {layers} layers need {bytes} bytes of mount options, and the kernel takes 4095: use an image with fewer layers"
    )]
    TooManyLayers {
        /// How many layers.
        layers: usize,
        /// Length of the options.
        bytes: usize,
    },
    /// A value that the user or the image gave cannot be used.
    #[error("{what} {value:?} is not valid: {reason}")]
    Invalid {
        /// What it is: "port", "user", ...
        what: &'static str,
        /// The value.
        value: String,
        /// What is wrong, and what is right.
        reason: String,
    },
    /// A part of config.json could not be made.
    #[error("cannot make config.json")]
    Spec(#[from] oci_spec::OciSpecError),
    /// A seccomp profile makes no sense.
    #[error("the seccomp profile given with --security-opt cannot be used")]
    Seccomp(#[from] crate::seccomp::ProfileError),
    /// The network failed.
    #[error(transparent)]
    Network(#[from] rkvm_net::Error),
    /// The image store failed.
    #[error(transparent)]
    Image(#[from] rkvm_image::Error),
    /// The runtime failed.
    #[error(transparent)]
    Runtime(#[from] rkvm_oci::Error),
}

impl Error {
    /// Builds [`Error::File`].
    pub fn file(action: &'static str, path: impl Into<PathBuf>, source: impl Into<std::io::Error>) -> Self {
        Self::File { action, path: path.into(), source: source.into() }
    }

    /// Exit code of a command that ends with this error (Docker's convention: 125, and 126 or 127 for a program that cannot
    /// be executed).
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Runtime(error) => error.exit_code(),
            _ => 125,
        }
    }
}
