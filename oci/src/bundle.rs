//! OCI bundle: a folder with config.json and, usually, the root filesystem.

use std::fs;
use std::path::{Path, PathBuf};

use oci_spec::runtime::Spec;

use crate::error::{Error, Result};

/// Largest config.json that is read, bytes: a bundle may come from somebody else, and a runtime that reads
/// without a bound can be made to exhaust the host's memory.
pub const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A bundle that has been read and whose version has been checked.
#[derive(Debug, Clone)]
pub struct Bundle {
    /// Absolute path of the bundle's folder.
    pub path: PathBuf,
    /// Its config.json.
    pub spec: Spec,
}

impl Bundle {
    /// Reads `folder`/config.json.
    ///
    /// # Errors
    /// The folder or file is missing, larger than [`MAX_CONFIG_BYTES`], not JSON of the right shape, or of a
    /// runtime-spec version other than 1.x.
    pub fn load(folder: &Path) -> Result<Self> {
        let path = fs::canonicalize(folder).map_err(|source| {
            Error::failed("open bundle", folder.display(), source)
                .hint("give the folder that holds config.json")
        })?;
        let config = path.join("config.json");
        let read = |source| {
            Error::failed("read", config.display(), source)
                .hint("a bundle needs a config.json; `rkvm-oci spec` makes one")
        };
        let size = fs::metadata(&config).map_err(read)?.len();
        if size > MAX_CONFIG_BYTES {
            return Err(Error::invalid_spec(
                "config.json",
                format!("{size} bytes; at most {MAX_CONFIG_BYTES} are read"),
            ));
        }
        let text = fs::read(&config).map_err(read)?;
        let spec: Spec =
            serde_json::from_slice(&text).map_err(|source| Error::Malformed { path: config, source })?;
        if !spec.version().starts_with("1.") {
            return Err(Error::invalid_spec(
                "ociVersion",
                format!("{:?}; this runtime understands 1.0.0 to 1.3.x", spec.version()),
            ));
        }
        Ok(Self { path, spec })
    }

    /// Absolute path of the root filesystem (`root.path`, relative to the bundle).
    ///
    /// # Errors
    /// `root` is missing from config.json.
    pub fn rootfs(&self) -> Result<PathBuf> {
        let root = self
            .spec
            .root()
            .as_ref()
            .ok_or_else(|| Error::invalid_spec("root", "missing, and required on Linux"))?;
        Ok(self.path.join(root.path()))
    }
}
