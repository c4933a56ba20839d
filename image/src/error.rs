//! What went wrong with an image, on what, and what to do next.

use std::io;
use std::path::PathBuf;

use crate::digest::Digest;

/// Result of any operation in this crate.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// A failure of the store, an archive or a registry.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The text is not an image name.
    #[error("{name:?} is not an image name: {reason}")]
    InvalidReference {
        /// What was given.
        name: String,
        /// Which rule it breaks.
        reason: &'static str,
    },
    /// The text is not a digest that the store can name files by.
    #[error("{value:?} is not a digest that is supported here: `sha256:` and 64 lower-case hex digits")]
    InvalidDigest {
        /// What was given.
        value: String,
    },
    /// No image here has this name or id.
    #[error(
        "no such image: {name}; `rkvm pull {name}` fetches it, `rkvm load -i FILE` reads it from an archive, `rkvm images` lists those that are here"
    )]
    NotFound {
        /// The name or id asked for.
        name: String,
    },
    /// More than one image's id starts with the prefix.
    #[error("image id {prefix:?} is ambiguous: {matches} images start with it; give more digits")]
    Ambiguous {
        /// The prefix asked for.
        prefix: String,
        /// How many ids start with it.
        matches: usize,
    },
    /// A container needs the image.
    #[error("cannot remove image {name}: container {container} uses it; remove the container first{}", if *.forceable { ", or untag the image with -f" } else { "" })]
    InUse {
        /// The name or id asked for.
        name: String,
        /// The container.
        container: String,
        /// Whether -f would help.
        forceable: bool,
    },
    /// An id that more than one repository's names point to cannot be removed by id alone.
    #[error(
        "cannot remove image {id}: it has names in more than one repository ({names}); remove it by name, or all of them with -f"
    )]
    SeveralNames {
        /// The id asked for.
        id: String,
        /// Its names.
        names: String,
    },
    /// A file operation failed.
    #[error("cannot {action} {path}")]
    Io {
        /// The verb phrase: "write", "lock".
        action: &'static str,
        /// The file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// A JSON document could not be read.
    #[error("{what} is not valid")]
    Malformed {
        /// The document: a path, or the kind and digest of a blob.
        what: String,
        /// Where and why.
        #[source]
        source: serde_json::Error,
    },
    /// A document is valid JSON but not what image-spec asks for, or not what can be run here.
    #[error("{what} cannot be used: {reason}")]
    Unusable {
        /// The document or archive.
        what: String,
        /// Which rule it breaks.
        reason: String,
    },
    /// Content does not have the digest or size that names it.
    #[error("{what} is not what it should be: expected {expected}, got {actual}; nothing was kept of it")]
    Mismatch {
        /// What was being read.
        what: String,
        /// The digest or size that was promised.
        expected: String,
        /// What came.
        actual: String,
    },
    /// A stated limit was exceeded.
    #[error("{what} exceeds the limit of {limit} {unit}; {hint}")]
    Limit {
        /// What grew too large.
        what: String,
        /// The limit.
        limit: u64,
        /// What is counted: "bytes", "entries".
        unit: &'static str,
        /// How to raise it.
        hint: &'static str,
    },
    /// An archive entry that a layer must not have, or that could not be made.
    #[error("entry {entry:?}: {problem}")]
    Entry {
        /// The entry's name as the archive has it.
        entry: String,
        /// What is wrong.
        problem: EntryProblem,
    },
    /// The archive's own structure is broken.
    #[error("broken archive after entry {after:?}: {reason}")]
    Archive {
        /// The last entry that was whole.
        after: String,
        /// What is wrong.
        reason: String,
    },
    /// A layer could not be unpacked.
    #[error("cannot unpack layer {layer}")]
    Layer {
        /// Its digest.
        layer: Digest,
        /// Why.
        #[source]
        source: Box<Error>,
    },
    /// An index has no image for this platform.
    #[error("{name} has no image for {wanted}; it has: {available}")]
    Platform {
        /// The image asked for.
        name: String,
        /// `linux/amd64`.
        wanted: String,
        /// The platforms that it has.
        available: String,
    },
    /// The registry could not be reached.
    #[error(
        "cannot reach registry {registry} for {name} (without it, `rkvm load -i FILE` reads an image from an archive)"
    )]
    Unreachable {
        /// Its host and port.
        registry: String,
        /// The image asked for.
        name: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry's certificate is not trusted.
    #[error(
        "the certificate of registry {registry} is not trusted (put its authority's certificate into /etc/docker/certs.d/{registry}/ca.crt, or name a file with all that you trust in SSL_CERT_FILE)"
    )]
    Untrusted {
        /// Its host and port.
        registry: String,
        /// Why.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The registry does not have the image, or does not show it to these credentials.
    #[error("registry {registry} does not have {name} ({message}); check the name and the tag")]
    NotInRegistry {
        /// Its host and port.
        registry: String,
        /// The image asked for.
        name: String,
        /// What the registry said.
        message: String,
    },
    /// A registry named a place that cannot be asked.
    #[error("{url:?} is not an address that an image can be fetched from")]
    BadUrl {
        /// The text.
        url: String,
    },
    /// The registry refused the credentials, or wants some.
    #[error(
        "registry {registry} denies access to {repository}: {reason}; check the name, and the credentials in {config}"
    )]
    Denied {
        /// Its host and port.
        registry: String,
        /// The repository asked for.
        repository: String,
        /// What the registry said.
        reason: String,
        /// The credentials file that was looked at.
        config: PathBuf,
    },
    /// The registry answered something else than what was asked for.
    #[error("registry answered {status} for {url}: {message}")]
    Response {
        /// HTTP status.
        status: u16,
        /// What was asked for.
        url: String,
        /// The registry's own words, cut.
        message: String,
    },
    /// Plain HTTP to another machine.
    #[error(
        "{url} is plain HTTP to another machine, which anyone on the way could read and change; only loopback addresses may be used without TLS"
    )]
    Insecure {
        /// What should have been fetched.
        url: String,
    },
    /// A program of the host that makes images is missing or failed.
    #[error(
        "cannot make an image for microVMs with {program} of the package {package}: {reason}; `apt-get install {package}` installs it"
    )]
    Tool {
        /// The program.
        program: &'static str,
        /// The package that has it, by Debian's name.
        package: &'static str,
        /// What happened.
        reason: String,
    },
    /// A credential helper failed.
    #[error("credential helper {helper} failed for {registry}: {reason}")]
    Helper {
        /// The program: `docker-credential-pass`.
        helper: String,
        /// The registry.
        registry: String,
        /// Its exit code or output.
        reason: String,
    },
}

/// What is wrong with an archive entry.
#[derive(Debug, thiserror::Error)]
pub enum EntryProblem {
    /// The name leaves the layer.
    #[error("its name leaves the layer ({0}); refused")]
    Escapes(&'static str),
    /// A parent is a symbolic link that leaves the layer.
    #[error("a folder on its way is a symbolic link that leaves the layer; refused")]
    ParentEscapes,
    /// A parent is not a folder.
    #[error("a part of its path is not a folder; refused")]
    ParentNotFolder,
    /// The hard link's target leaves the layer or is missing.
    #[error("hard link to {target:?}: {reason}; refused")]
    HardLink {
        /// Where it points.
        target: String,
        /// Why it is refused.
        reason: &'static str,
    },
    /// An extended attribute that only the host may set.
    #[error("extended attribute {0:?} is overlayfs' own and must not come from an image; refused")]
    OverlayAttribute(String),
    /// A field of the header is out of range or unknown.
    #[error("{0}; refused")]
    Header(String),
    /// A system call failed.
    #[error("cannot {action} it: {source}")]
    Failed {
        /// The verb phrase.
        action: &'static str,
        /// Why.
        source: io::Error,
    },
}

impl Error {
    /// Builds [`Error::Io`]; for use in `map_err`.
    pub(crate) fn io(action: &'static str, path: impl Into<PathBuf>) -> impl FnOnce(io::Error) -> Self {
        let path = path.into();
        move |source| Self::Io { action, path, source }
    }

    /// Builds [`Error::Malformed`]; for use in `map_err`.
    pub(crate) fn malformed(what: impl Into<String>) -> impl FnOnce(serde_json::Error) -> Self {
        let what = what.into();
        move |source| Self::Malformed { what, source }
    }
}
