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

/// Reads a number of bytes as Docker's flags take it: `1024`, `512m`, `10g`, `10GiB`; units are powers of 1024.
///
/// # Errors
/// What is wrong with it.
pub fn parse_bytes(text: &str) -> Result<u64, String> {
    let wrong =
        || format!("{text:?} is not a size; write a number of bytes, or one with k, m, g or t behind it");
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let number: u64 = text[..digits].parse().map_err(|_| wrong())?;
    let unit = text[digits..].trim().to_ascii_lowercase();
    let exponent = match unit.trim_end_matches("ib").trim_end_matches('b') {
        "" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        _ => return Err(wrong()),
    };
    number.checked_mul(1 << (10 * exponent)).filter(|bytes| *bytes > 0).ok_or_else(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_have_units_in_powers_of_1024() {
        for (text, bytes) in
            [("1", 1), ("512b", 512), ("2k", 2048), ("3MiB", 3 << 20), ("4G", 4 << 30), ("5tb", 5 << 40)]
        {
            assert_eq!(parse_bytes(text), Ok(bytes), "{text}");
        }
        for text in ["", "0", "-1", "k", "1x", "1.5g", "99999999999t"] {
            assert!(parse_bytes(text).is_err(), "{text}");
        }
    }
}
