//! What the headers of an ELF kernel say: notes, and how much memory it takes. Loading is linux-loader's part.

use std::fs::File;
use std::io;

use super::read_some;

const CLASS_AT: usize = 4;
const CLASS_32: u8 = 1;
const CLASS_64: u8 = 2;
const TYPE_AT: usize = 16;
const TYPE_EXECUTABLE: u16 = 2;
const TYPE_SHARED: u16 = 3;
const MACHINE_AT: usize = 18;
const MACHINE_X86_64: u16 = 62;
const HEADER_BYTES: usize = 64;
const PROGRAM_HEADER_BYTES: usize = 56;
const LOAD: u32 = 1;
const NOTE: u32 = 4;
/// Notes of a kernel are a few hundred bytes.
const MAX_NOTES: u64 = 64 << 10;
/// `LINUX_ELFNOTE_BUILD_SALT` (include/linux/build-salt.h).
const BUILD_SALT: u32 = 0x100;

/// What a kernel's notes say.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Notes {
    /// Whether one is Linux's.
    pub linux: bool,
    /// Text of the build salt.
    pub salt: Option<String>,
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    file_bytes: u64,
    memory_bytes: u64,
}

fn half(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..at + 2).map_or(0, |b| u16::from_le_bytes([b[0], b[1]]))
}

fn word(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..at + 4).map_or(0, |b| u32::from_le_bytes([b[0], b[1], b[2], b[3]]))
}

fn long(bytes: &[u8], at: usize) -> u64 {
    u64::from(word(bytes, at)) | u64::from(word(bytes, at + 4)) << 32
}

fn segments(file: &File, header: &[u8]) -> io::Result<Vec<Segment>> {
    let mut table = vec![0; usize::from(half(header, 56)) * PROGRAM_HEADER_BYTES];
    let length = read_some(file, &mut table, long(header, 32))?;
    let entries = table[..length].chunks_exact(PROGRAM_HEADER_BYTES);
    Ok(entries
        .map(|entry| Segment {
            kind: word(entry, 0),
            offset: long(entry, 8),
            address: long(entry, 24),
            file_bytes: long(entry, 32),
            memory_bytes: long(entry, 40),
        })
        .collect())
}

/// The notes of the ELF file that begins with `header`; the inner error says why it is no kernel.
pub(super) fn notes(file: &File, header: &[u8]) -> io::Result<Result<Notes, &'static str>> {
    if header.get(CLASS_AT) == Some(&CLASS_32) {
        return Ok(Err("it is a 32-bit ELF file"));
    }
    if header.len() < HEADER_BYTES {
        return Ok(Err("it is the beginning of an ELF file and nothing more"));
    }
    if header[CLASS_AT] != CLASS_64 || half(header, MACHINE_AT) != MACHINE_X86_64 {
        return Ok(Err("it is an ELF file for another processor: x86-64 is needed"));
    }
    if ![TYPE_EXECUTABLE, TYPE_SHARED].contains(&half(header, TYPE_AT)) {
        return Ok(Err("it is an ELF file, but no executable"));
    }
    let mut found = Notes::default();
    for segment in segments(file, header)?.iter().filter(|segment| segment.kind == NOTE) {
        let mut bytes = vec![0; segment.file_bytes.min(MAX_NOTES) as usize];
        let length = read_some(file, &mut bytes, segment.offset)?;
        read_notes(&bytes[..length], &mut found);
    }
    Ok(Ok(found))
}

fn read_notes(mut bytes: &[u8], found: &mut Notes) {
    const HEAD: usize = 12;
    let aligned = |length: u32| (length as usize).next_multiple_of(4);
    while bytes.len() >= HEAD {
        let (name_bytes, text_bytes, kind) = (word(bytes, 0), word(bytes, 4), word(bytes, 8));
        let text_at = HEAD + aligned(name_bytes);
        let Some(name) = bytes.get(HEAD..HEAD + name_bytes as usize) else { return };
        let Some(text) = bytes.get(text_at..text_at + text_bytes as usize) else { return };
        if name == b"Linux\0" {
            found.linux = true;
            if kind == BUILD_SALT {
                let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
                found.salt = Some(String::from_utf8_lossy(text).into_owned());
            }
        }
        bytes = bytes.get(text_at + aligned(text_bytes)..).unwrap_or_default();
    }
}

/// First address behind what the ELF file that begins with `header` asks to be loaded, zeroed parts included.
pub(super) fn end(file: &File, header: &[u8]) -> io::Result<u64> {
    let loaded = segments(file, header)?;
    let ends = loaded.iter().filter(|segment| segment.kind == LOAD);
    Ok(ends.map(|segment| segment.address.saturating_add(segment.memory_bytes)).max().unwrap_or(0))
}
