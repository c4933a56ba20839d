//! Decompression, told by the first bytes, with a limit on what comes out.

use std::io::{self, BufReader, Read};

use flate2::bufread::MultiGzDecoder;

use super::pipe::PipeWriter;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::limits::Limits;

const INPUT_BUFFER_BYTES: usize = 256 * 1024;

/// How an archive is compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Compression {
    /// Not at all.
    Plain,
    Gzip,
    Zstd,
    /// A format that old Docker versions read and image-spec does not have.
    Foreign(&'static str),
}

/// Why decompression ended early.
pub(super) enum Stop {
    /// The stream is broken or too large.
    Failed(Error),
    /// The other end gave up.
    NobodyListens,
}

/// The compression of data that starts with `magic` (at least 6 bytes, unless the data is shorter).
pub(crate) fn sniff(magic: &[u8]) -> Compression {
    match magic {
        [0x1f, 0x8b, ..] => Compression::Gzip,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Compression::Zstd,
        // A skippable frame may come first.
        [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..] => Compression::Zstd,
        [b'B', b'Z', b'h', ..] => Compression::Foreign("bzip2"),
        [0xfd, b'7', b'z', b'X', b'Z', 0] => Compression::Foreign("xz"),
        _ => Compression::Plain,
    }
}

/// A reader of what `source` has after decompression.
///
/// # Errors
/// The source cannot be read, or is in a foreign format.
pub(crate) fn decoder<'a>(source: impl Read + Send + 'a) -> Result<Box<dyn Read + Send + 'a>> {
    let broken = |error: io::Error| Error::Archive { after: String::new(), reason: error.to_string() };
    let mut source = BufReader::with_capacity(INPUT_BUFFER_BYTES, source);
    let mut magic = vec![];
    // `fill_buf` may give fewer bytes than the longest magic; reading and chaining does not.
    Read::by_ref(&mut source).take(6).read_to_end(&mut magic).map_err(broken)?;
    let compression = sniff(&magic);
    let whole = io::Cursor::new(magic).chain(source);
    match compression {
        Compression::Plain => Ok(Box::new(whole)),
        Compression::Gzip => Ok(Box::new(MultiGzDecoder::new(whole))),
        Compression::Zstd => Ok(Box::new(zstd::stream::read::Decoder::with_buffer(whole).map_err(broken)?)),
        Compression::Foreign(name) => Err(Error::Unusable {
            what: "the archive".to_owned(),
            reason: format!("it is compressed with {name}; gzip, zstd and plain tar are supported"),
        }),
    }
}

/// Sends what `source` has after decompression to `writer`, and gives its digest.
pub(super) fn run(
    source: impl Read + Send,
    writer: &mut PipeWriter,
    limits: &Limits,
) -> Result<Digest, Stop> {
    let mut decoder = decoder(source).map_err(Stop::Failed)?;
    let mut hasher = Hasher::new();
    let mut total = 0u64;
    loop {
        let mut buffer = writer.buffer();
        let mut filled = 0;
        while filled < buffer.len() {
            match decoder.read(&mut buffer[filled..]) {
                Ok(0) => break,
                Ok(length) => filled += length,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => {
                    // What came before is whole: the other end can then name the entry it breaks in.
                    buffer.truncate(filled);
                    writer.send(buffer);
                    let reason = match error.kind() {
                        io::ErrorKind::UnexpectedEof => "its compressed data ends in the middle".to_owned(),
                        _ => format!("its compressed data is damaged ({error})"),
                    };
                    return Err(Stop::Failed(Error::Archive { after: String::new(), reason }));
                }
            }
        }
        if filled == 0 {
            return Ok(hasher.finish());
        }
        total += filled as u64;
        if total > limits.layer_bytes {
            return Err(Stop::Failed(Error::Limit {
                what: "the layer, decompressed,".to_owned(),
                limit: limits.layer_bytes,
                unit: "bytes",
                hint: "if you trust the image, raise it with --max-layer-size",
            }));
        }
        buffer.truncate(filled);
        hasher.update(&buffer);
        if !writer.send(buffer) {
            return Err(Stop::NobodyListens);
        }
    }
}
