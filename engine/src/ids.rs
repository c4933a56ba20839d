//! Container ids: 64 hex digits, random.

use std::fs::File;
use std::io::Read;

use crate::error::{Error, Result};

/// How many digits of an id are shown where space is short, and what Docker users expect.
pub const SHORT_LEN: usize = 12;

/// A new random id, whose short form is no number: it becomes the container's host name, and programs take a name of digits alone for an
/// address.
///
/// # Errors
/// The kernel's random source cannot be read.
pub fn random() -> Result<String> {
    let path = "/dev/urandom";
    let read = |source| Error::file("read", path, source);
    let source = File::open(path).map_err(read)?;
    draw(source).map_err(read)
}

/// The first id from `source` that will do.
fn draw(mut source: impl Read) -> std::io::Result<String> {
    loop {
        let mut bytes = [0_u8; 32];
        source.read_exact(&mut bytes)?;
        let id = hex(&bytes);
        if !short(&id).bytes().all(|digit| digit.is_ascii_digit()) {
            return Ok(id);
        }
    }
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

    #[test]
    fn an_id_whose_short_form_is_a_number_is_drawn_again() {
        let number = [0x12_u8; 32];
        let mut name = [0x12_u8; 32];
        name[5] = 0x1a;
        assert_eq!(draw([number, number, name].as_flattened()).unwrap(), hex(&name));
        assert!(draw([number].as_flattened()).is_err());
    }
}
