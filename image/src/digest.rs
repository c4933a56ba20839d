//! SHA-256 digests: the names of everything in the store.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use crate::error::{Error, Result};

/// A `sha256:` digest, the only algorithm that registries and builders use in practice (image-spec, descriptor.md:
/// the one that MUST be supported).
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest {
    hex: String,
}

/// Number of characters of a short id as Docker prints it.
const SHORT_LEN: usize = 12;

impl Digest {
    /// The digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        let mut hasher = Hasher::new();
        hasher.update(bytes);
        hasher.finish()
    }

    /// The 64 lower-case hex digits.
    pub fn hex(&self) -> &str {
        &self.hex
    }

    /// The first 12 hex digits, as `rkvm images` shows ids.
    pub fn short(&self) -> &str {
        &self.hex[..SHORT_LEN]
    }

    /// Reads 64 hex digits without the `sha256:` in front.
    ///
    /// # Errors
    /// [`Error::InvalidDigest`].
    pub fn from_hex(hex: &str) -> Result<Self> {
        if hex.len() == 64 && hex.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f')) {
            return Ok(Self { hex: hex.to_owned() });
        }
        Err(Error::InvalidDigest { value: hex.to_owned() })
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256:{}", self.hex)
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = || Error::InvalidDigest { value: text.to_owned() };
        Self::from_hex(text.strip_prefix("sha256:").ok_or_else(invalid)?).map_err(|_| invalid())
    }
}

impl TryFrom<String> for Digest {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> Self {
        digest.to_string()
    }
}

/// Computes a digest over data that arrives in pieces.
#[derive(Debug, Clone)]
pub struct Hasher {
    state: sha2::Sha256,
}

impl Hasher {
    /// Nothing hashed yet.
    pub fn new() -> Self {
        Self { state: sha2::Sha256::new() }
    }

    /// Adds the next piece.
    pub fn update(&mut self, bytes: &[u8]) {
        self.state.update(bytes);
    }

    /// The digest of all pieces.
    pub fn finish(self) -> Digest {
        use fmt::Write as _;
        let mut hex = String::with_capacity(64);
        for byte in self.state.finalize() {
            // Writing to a String cannot fail.
            let _ = write!(hex, "{byte:02x}");
        }
        Digest { hex }
    }
}

impl Default for Hasher {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_empty_digest_is_the_known_one() {
        let known = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(Digest::of(b"").to_string(), known);
        assert_eq!(known.parse::<Digest>().unwrap(), Digest::of(b""));
    }

    #[test]
    fn what_could_leave_the_blob_folder_is_not_a_digest() {
        let upper = format!("sha256:{}", "A".repeat(64));
        for text in ["", "sha256:", "sha256:../../etc/passwd", "sha512:00", "e3b0c442", &upper] {
            assert!(text.parse::<Digest>().is_err(), "{text:?}");
        }
    }
}
