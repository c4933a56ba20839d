//! Container ids: 64 hex digits, random.

use std::fs::File;
use std::io::Read;

use crate::error::{Error, Result};

/// How many digits of an id are shown where space is short, and what Docker users expect.
pub const SHORT_LEN: usize = 12;

/// A new random id.
///
/// # Errors
/// The kernel's random source cannot be read.
pub fn random() -> Result<String> {
    let path = "/dev/urandom";
    let mut bytes = [0_u8; 32];
    File::open(path)
        .and_then(|mut file| file.read_exact(&mut bytes))
        .map_err(|source| Error::file("read", path, source))?;
    Ok(hex(&bytes))
}

/// `bytes` in lower-case hex.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The first [`SHORT_LEN`] characters of an id.
pub fn short(id: &str) -> &str {
    id.get(..SHORT_LEN).unwrap_or(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_long_and_differ() {
        let (a, b) = (random().unwrap(), random().unwrap());
        assert_eq!(a.len(), 64);
        assert!(a.chars().all(|c| c.is_ascii_hexdigit()));
        assert_ne!(a, b);
        assert_eq!(short(&a).len(), 12);
    }
}
