//! Reads tar archives entry by entry: ustar, GNU and PAX, with long names, attributes and all kinds of sparse files.
//!
//! Headers are parsed by the `tar` crate. Going from entry to entry is done here, as that crate reads names of any length into
//! memory, cannot parse attributes with newlines in them, and does not know PAX sparse files.

use std::io::BufRead;

use tar::{EntryType, Header};

use super::header::{Field, GID, MAJOR, MINOR, MODE, MTIME, SIZE, UID, numeric};
use super::pax;
use super::sparse::{PaxSparse, Sparse};
use crate::error::{EntryProblem, Error, Result};

pub(super) const BLOCK: usize = 512;
/// Longest extended header or long name. A path has at most 4096 bytes, an attribute 64 KiB.
const EXTENSION_BYTES: u64 = 1 << 20;

/// What an entry makes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    File,
    HardLink,
    Symlink,
    CharDevice,
    BlockDevice,
    Folder,
    Fifo,
}

/// One entry's header.
#[derive(Debug, Clone)]
pub(crate) struct Entry {
    /// Its name as the archive has it.
    pub(crate) path: Vec<u8>,
    /// Target of a link.
    pub(crate) link: Vec<u8>,
    pub(crate) kind: Kind,
    /// Permission bits with set-id and sticky ones.
    pub(crate) mode: u32,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Modification time: seconds and nanoseconds.
    pub(crate) mtime: (i64, u32),
    pub(crate) device: (u32, u32),
    pub(crate) xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    pub(crate) sparse: Option<Sparse>,
}

/// Goes through an archive.
#[derive(Debug)]
pub(crate) struct Reader<R> {
    input: R,
    /// Data of the current entry that was not read yet, and the padding behind it.
    pub(super) data: u64,
    padding: u64,
    /// Name of the last entry that was seen, for messages.
    last: String,
}

/// What extension headers said about the entry that follows them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    sparse: PaxSparse,
}

impl<R: BufRead> Reader<R> {
    pub(crate) fn new(input: R) -> Self {
        Self { input, data: 0, padding: 0, last: String::new() }
    }

    /// Name of the last entry that was seen.
    pub(crate) fn last(&self) -> &str {
        &self.last
    }

    /// The next entry's header; `None` at the archive's end, behind which everything was read too.
    pub(crate) fn next(&mut self) -> Result<Option<Entry>> {
        let mut extensions = Extensions::default();
        let mut extended = false;
        loop {
            self.skip_rest()?;
            let mut block = [0; BLOCK];
            if !self.read_block(&mut block)? {
                if extended {
                    return Err(self.broken("it ends behind an extended header"));
                }
                return Ok(None);
            }
            if block.iter().all(|byte| *byte == 0) {
                self.drain()?;
                return Ok(None);
            }
            let header = Header::from_byte_slice(&block);
            self.check_sum(header)?;
            let size = numeric(header, SIZE).and_then(|size| u64::try_from(size).ok());
            let size = size.ok_or_else(|| self.broken("a header's size is not a number"))?;
            match header.entry_type() {
                EntryType::XHeader => {
                    let data = self.read_extension(size)?;
                    self.parse_pax(&data, &mut extensions)?;
                    extended = true;
                }
                EntryType::GNULongName => {
                    extensions.path = Some(until_nul(self.read_extension(size)?));
                    extended = true;
                }
                EntryType::GNULongLink => {
                    extensions.link = Some(until_nul(self.read_extension(size)?));
                    extended = true;
                }
                // Defaults for all that follows: comments in practice. Docker passes over them too.
                EntryType::XGlobalHeader => {
                    self.read_extension(size)?;
                }
                _ => return self.entry(header, extensions).map(Some),
            }
        }
    }

    /// Gives the current entry's data to `sink`, piece by piece.
    pub(crate) fn data(&mut self, mut sink: impl FnMut(&[u8]) -> Result<()>) -> Result<()> {
        while self.data > 0 {
            let length = self.fill(self.data)?;
            let bytes = self.input.fill_buf().map_err(|error| broken(&self.last, error))?;
            sink(&bytes[..length])?;
            self.input.consume(length);
            self.data -= length as u64;
        }
        Ok(())
    }

    /// Bytes of data that the current entry has in the archive.
    pub(crate) fn remaining(&self) -> u64 {
        self.data
    }

    fn entry(&mut self, header: &Header, extensions: Extensions) -> Result<Entry> {
        let path = extensions
            .sparse
            .name
            .clone()
            .or(extensions.path)
            .unwrap_or_else(|| header.path_bytes().into_owned());
        self.last = String::from_utf8_lossy(&path).into_owned();
        let field = |field: Field| {
            numeric(header, field).ok_or_else(|| self.refused(format!("its {} is not a number", field.name)))
        };
        let number = |which: Field| {
            field(which).and_then(|value| {
                u64::try_from(value)
                    .map_err(|_| self.refused(format!("its {} {value} is negative", which.name)))
            })
        };
        let id = |field: &'static str, value: u64| {
            // The highest id means "no change" to chown(2).
            u32::try_from(value)
                .ok()
                .filter(|id| *id != u32::MAX)
                .ok_or_else(|| self.refused(format!("its {field} {value} is out of range")))
        };
        let mut kind = match header.entry_type() {
            EntryType::Regular | EntryType::Continuous | EntryType::GNUSparse => Kind::File,
            EntryType::Link => Kind::HardLink,
            EntryType::Symlink => Kind::Symlink,
            EntryType::Char => Kind::CharDevice,
            EntryType::Block => Kind::BlockDevice,
            EntryType::Directory => Kind::Folder,
            EntryType::Fifo => Kind::Fifo,
            other => {
                return Err(self.refused(format!("its type {:?} is unknown", char::from(other.as_byte()))));
            }
        };
        // Archives from before ustar have no type for folders.
        if kind == Kind::File && header.entry_type() == EntryType::Regular && path.ends_with(b"/") {
            kind = Kind::Folder;
        }
        let size = match extensions.size {
            Some(size) => size,
            None => number(SIZE)?,
        };
        let device = |which: Field| match kind {
            Kind::CharDevice | Kind::BlockDevice => number(which).and_then(|value| {
                u32::try_from(value).map_err(|_| self.refused("its device number is out of range".into()))
            }),
            _ => Ok(0),
        };
        let mut entry = Entry {
            link: extensions
                .link
                .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
                .unwrap_or_default(),
            mode: (number(MODE)? & 0o7777) as u32,
            uid: id("user id", extensions.uid.map_or_else(|| number(UID), Ok)?)?,
            gid: id("group id", extensions.gid.map_or_else(|| number(GID), Ok)?)?,
            mtime: match extensions.mtime {
                Some(mtime) => mtime,
                None => (field(MTIME)?, 0),
            },
            device: (device(MAJOR)?, device(MINOR)?),
            xattrs: extensions.xattrs,
            sparse: None,
            path,
            kind,
        };
        if entry.kind == Kind::File {
            self.data = size;
            self.padding = padding(size);
            entry.sparse = self.sparse(header, extensions.sparse)?;
        }
        Ok(entry)
    }

    fn parse_pax(&self, data: &[u8], extensions: &mut Extensions) -> Result<()> {
        let records = pax::records(data).map_err(|reason| self.broken(reason))?;
        let wrong = |key: &[u8]| {
            self.broken(format!("the extended header {:?} is not valid", String::from_utf8_lossy(key)))
        };
        let number = |key: &[u8], value: &[u8]| pax::decimal(value).ok_or_else(|| wrong(key));
        for (key, value) in records {
            match key {
                b"path" => extensions.path = Some(value.to_vec()),
                b"linkpath" => extensions.link = Some(value.to_vec()),
                b"size" => extensions.size = Some(number(key, value)?),
                b"uid" => extensions.uid = Some(number(key, value)?),
                b"gid" => extensions.gid = Some(number(key, value)?),
                b"mtime" => extensions.mtime = Some(pax::time(value).ok_or_else(|| wrong(key))?),
                b"GNU.sparse.major" => extensions.sparse.map_in_data = number(key, value)? == 1,
                b"GNU.sparse.name" => extensions.sparse.name = Some(value.to_vec()),
                b"GNU.sparse.realsize" | b"GNU.sparse.size" => {
                    extensions.sparse.real_size = Some(number(key, value)?);
                }
                b"GNU.sparse.map" if !value.is_empty() => {
                    for part in value.split(|byte| *byte == b',') {
                        extensions.sparse.numbers.push(number(key, part)?);
                    }
                }
                b"GNU.sparse.offset" | b"GNU.sparse.numbytes" => {
                    extensions.sparse.numbers.push(number(key, value)?);
                }
                _ => {
                    if let Some(name) = key.strip_prefix(b"SCHILY.xattr.") {
                        extensions.xattrs.push((name.to_vec(), value.to_vec()));
                    }
                }
            }
        }
        Ok(())
    }

    fn check_sum(&self, header: &Header) -> Result<()> {
        let bytes = header.as_bytes();
        // The sum counts its own eight bytes as spaces.
        let sum: u32 =
            bytes[..148].iter().chain(&bytes[156..]).map(|byte| u32::from(*byte)).sum::<u32>() + 8 * 32;
        match header.cksum() {
            Ok(stated) if stated == sum => Ok(()),
            _ => Err(self.broken("a header's checksum is wrong")),
        }
    }

    fn read_extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > EXTENSION_BYTES {
            return Err(Error::Limit {
                what: format!("a long name or extended header behind entry {:?}", self.last),
                limit: EXTENSION_BYTES,
                unit: "bytes",
                hint: "no image needs that",
            });
        }
        self.data = size;
        self.padding = padding(size);
        let mut data = vec![];
        self.data(|bytes| {
            data.extend_from_slice(bytes);
            Ok(())
        })?;
        Ok(data)
    }

    fn skip_rest(&mut self) -> Result<()> {
        self.data(|_| Ok(()))?;
        while self.padding > 0 {
            let length = self.fill(self.padding)?;
            self.input.consume(length);
            self.padding -= length as u64;
        }
        Ok(())
    }

    /// Number of bytes, at most `wanted`, that can be taken from the input's buffer.
    fn fill(&mut self, wanted: u64) -> Result<usize> {
        let available = self.input.fill_buf().map(<[u8]>::len);
        match available {
            Ok(0) => Err(self.refused("the archive ends in the middle of it".to_owned())),
            Ok(available) => Ok(usize::try_from(wanted).unwrap_or(usize::MAX).min(available)),
            Err(error) => Err(self.broken(error)),
        }
    }

    /// Reads a whole block; `false` at the input's end.
    pub(super) fn read_block(&mut self, block: &mut [u8]) -> Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            match self.input.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(self.broken("it ends in the middle of a header")),
                Ok(length) => filled += length,
                Err(error) => return Err(self.broken(error)),
            }
        }
        Ok(true)
    }

    fn drain(&mut self) -> Result<()> {
        loop {
            match self.input.fill_buf().map(<[u8]>::len) {
                Ok(0) => return Ok(()),
                Ok(length) => self.input.consume(length),
                Err(error) => return Err(self.broken(error)),
            }
        }
    }

    pub(super) fn broken(&self, reason: impl ToString) -> Error {
        broken(&self.last, reason)
    }

    pub(super) fn refused(&self, reason: String) -> Error {
        Error::Entry { entry: self.last.clone(), problem: EntryProblem::Header(reason) }
    }
}

fn broken(last: &str, reason: impl ToString) -> Error {
    Error::Archive { after: last.to_owned(), reason: reason.to_string() }
}

fn padding(size: u64) -> u64 {
    size.wrapping_neg() % BLOCK as u64
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}
