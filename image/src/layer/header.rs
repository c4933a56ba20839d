//! Numbers in tar headers.

use tar::Header;

/// A number in a header: its name, and its bytes' place (tar(5), "POSIX ustar Archives").
#[derive(Clone, Copy)]
pub(super) struct Field {
    pub(super) name: &'static str,
    start: usize,
    end: usize,
}

pub(super) const MODE: Field = Field { name: "mode", start: 100, end: 108 };
pub(super) const UID: Field = Field { name: "user id", start: 108, end: 116 };
pub(super) const GID: Field = Field { name: "group id", start: 116, end: 124 };
pub(super) const SIZE: Field = Field { name: "size", start: 124, end: 136 };
pub(super) const MTIME: Field = Field { name: "time", start: 136, end: 148 };
pub(super) const MAJOR: Field = Field { name: "major device number", start: 329, end: 337 };
pub(super) const MINOR: Field = Field { name: "minor device number", start: 337, end: 345 };

/// Octal digits between spaces and zero bytes, nothing of them being 0; or, with the top bit set, binary in two's
/// complement (GNU tar's form for large and negative numbers).
pub(super) fn numeric(header: &Header, field: Field) -> Option<i64> {
    let bytes = &header.as_bytes()[field.start..field.end];
    if bytes[0] & 0x80 != 0 {
        let negative = bytes[0] & 0x40 != 0;
        let mut value: i128 = if negative { -1 } else { 0 };
        value = value << 6 | i128::from(bytes[0] & 0x3f);
        for byte in &bytes[1..] {
            value = value << 8 | i128::from(*byte);
        }
        return i64::try_from(value).ok();
    }
    let text = std::str::from_utf8(bytes).ok()?.trim_matches(['\0', ' ']);
    let text = text.split('\0').next().unwrap_or_default();
    if text.is_empty() { Some(0) } else { i64::from_str_radix(text, 8).ok() }
}
