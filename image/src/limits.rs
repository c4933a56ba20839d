//! How much an image may make this host read, write and remember before it is taken for an attack.

use crate::error::{Error, Result};

/// Largest manifest, index, configuration or token reply: 4 MiB, the size that registries accept (distribution-spec,
/// "Pushing Manifests").
pub const DOCUMENT_BYTES: u64 = 4 << 20;

/// What one layer may unpack to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of the archive after decompression: a few kilobytes can decompress to terabytes.
    pub layer_bytes: u64,
    /// Number of entries: each costs an inode.
    pub layer_entries: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { layer_bytes: 32 << 30, layer_entries: 4_000_000 }
    }
}

/// Refuses a document larger than [`DOCUMENT_BYTES`].
pub(crate) fn check_document(what: &str, bytes: u64) -> Result<()> {
    if bytes <= DOCUMENT_BYTES {
        return Ok(());
    }
    Err(Error::Limit {
        what: what.to_owned(),
        limit: DOCUMENT_BYTES,
        unit: "bytes",
        hint: "no manifest or configuration is that large",
    })
}
