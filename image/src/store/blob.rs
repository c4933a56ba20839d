//! Blobs: written aside while they are hashed, and renamed to their digest when they have it.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use super::Store;
use super::index::sync_parent;
use super::lock::Lock;
use crate::digest::{Digest, Hasher};
use crate::error::{Error, Result};
use crate::limits::DOCUMENT_BYTES;

const COPY_BUFFER_BYTES: usize = 256 * 1024;

/// A blob being written. Dropped unfinished it leaves what it has, and the next writer of the same digest goes on from there.
#[derive(Debug)]
pub struct BlobWriter {
    store: Store,
    aside: PathBuf,
    file: File,
    hasher: Hasher,
    written: u64,
    expected: Option<(Digest, u64)>,
    _lock: Option<Lock>,
}

impl Store {
    /// A small document: a manifest, an index or a configuration.
    ///
    /// # Errors
    /// It is missing, or larger than any such document may be.
    pub(crate) fn read_blob(&self, digest: &Digest) -> Result<Vec<u8>> {
        let path = self.blob_path(digest);
        let file = File::open(&path).map_err(Error::io("read", &path))?;
        let mut text = vec![];
        file.take(DOCUMENT_BYTES + 1).read_to_end(&mut text).map_err(Error::io("read", &path))?;
        crate::limits::check_document(&digest.to_string(), text.len() as u64)?;
        Ok(text)
    }

    pub(crate) fn has_blob(&self, digest: &Digest) -> bool {
        self.blob_path(digest).exists()
    }

    /// Checks that the blob has the size that a descriptor gives it.
    pub(crate) fn check_size(&self, digest: &Digest, size: u64) -> Result<()> {
        let path = self.blob_path(digest);
        let actual = fs::metadata(&path).map_err(Error::io("read", &path))?.len();
        if actual == size {
            return Ok(());
        }
        Err(Error::Mismatch {
            what: format!("blob {digest}"),
            expected: format!("{size} bytes"),
            actual: format!("{actual} bytes"),
        })
    }

    /// Stores a small document and gives its digest back.
    pub(crate) fn write_blob(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if let Some(mut writer) = self.blob_writer(&digest, bytes.len() as u64)? {
            writer.restart()?;
            writer.write(bytes)?;
            writer.finish()?;
        }
        Ok(digest)
    }

    /// A writer for the blob `digest` of `size` bytes; `None` if it is here. Waits while another command writes it. The
    /// caller holds [`Store::adding`].
    pub(crate) fn blob_writer(&self, digest: &Digest, size: u64) -> Result<Option<BlobWriter>> {
        if self.has_blob(digest) {
            return Ok(None);
        }
        let lock = Lock::exclusive(&self.lock_path(&format!("blob-{}", digest.hex())))?;
        if self.has_blob(digest) {
            return Ok(None);
        }
        let aside = self.root.join("ingest").join(format!("blob-{}", digest.hex()));
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(&aside)
            .map_err(Error::io("create", &aside))?;
        let mut writer = BlobWriter {
            store: self.clone(),
            aside,
            file,
            hasher: Hasher::new(),
            written: 0,
            expected: Some((digest.clone(), size)),
            _lock: Some(lock),
        };
        writer.hash_existing()?;
        Ok(Some(writer))
    }

    /// A writer for a blob whose digest is known only at its end.
    pub(crate) fn anonymous_writer(&self) -> Result<BlobWriter> {
        let folder = self.root.join("ingest");
        let file = tempfile::Builder::new()
            .prefix("new-")
            .tempfile_in(&folder)
            .map_err(Error::io("create a file in", &folder))?;
        let (file, aside) = file.keep().map_err(|error| Error::io("keep a file in", &folder)(error.error))?;
        Ok(BlobWriter {
            store: self.clone(),
            aside,
            file,
            hasher: Hasher::new(),
            written: 0,
            expected: None,
            _lock: None,
        })
    }
}

impl BlobWriter {
    /// Number of bytes that are there already; writing goes on behind them.
    pub fn offset(&self) -> u64 {
        self.written
    }

    /// Forgets what is there.
    ///
    /// # Errors
    /// The file cannot be truncated.
    pub fn restart(&mut self) -> Result<()> {
        self.hasher = Hasher::new();
        self.written = 0;
        self.file
            .set_len(0)
            .and_then(|()| self.file.seek(SeekFrom::Start(0)))
            .map_err(Error::io("truncate", &self.aside))?;
        Ok(())
    }

    /// Adds the next piece.
    ///
    /// # Errors
    /// More came than was promised; or the file cannot be written.
    pub fn write(&mut self, bytes: &[u8]) -> Result<()> {
        self.written += bytes.len() as u64;
        if let Some((digest, size)) = &self.expected
            && self.written > *size
        {
            let mismatch = Error::Mismatch {
                what: format!("blob {digest}"),
                expected: format!("{size} bytes"),
                actual: "more".to_owned(),
            };
            self.discard();
            return Err(mismatch);
        }
        self.hasher.update(bytes);
        self.file.write_all(bytes).map_err(Error::io("write", &self.aside))
    }

    /// Adds all that `reader` has.
    ///
    /// # Errors
    /// As [`BlobWriter::write`]; a failure of `reader` is reported as one of `what`.
    pub fn copy_from(&mut self, what: &str, reader: &mut dyn Read) -> Result<()> {
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        loop {
            match reader.read(&mut buffer) {
                Ok(0) => return Ok(()),
                Ok(length) => self.write(&buffer[..length])?,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(Error::io("read", what)(error)),
            }
        }
    }

    /// Verifies size and digest and puts the blob into the store.
    ///
    /// # Errors
    /// [`Error::Mismatch`], after which nothing is left of it; or the file cannot be synced or renamed.
    pub fn finish(mut self) -> Result<Digest> {
        let actual = std::mem::take(&mut self.hasher).finish();
        if let Some((digest, size)) = self.expected.clone() {
            let mismatch = |expected: String, actual: String| Error::Mismatch {
                what: format!("blob {digest}"),
                expected,
                actual,
            };
            if self.written != size {
                self.discard();
                return Err(mismatch(format!("{size} bytes"), format!("{} bytes", self.written)));
            }
            if actual != digest {
                self.discard();
                return Err(mismatch(digest.to_string(), actual.to_string()));
            }
        }
        let path = self.store.blob_path(&actual);
        self.file.sync_all().map_err(Error::io("sync", &self.aside))?;
        fs::rename(&self.aside, &path).map_err(Error::io("create", &path))?;
        sync_parent(&path)?;
        Ok(actual)
    }

    fn discard(&self) {
        // A leftover is harmless: the next writer finds that it does not fit, and pruning deletes it.
        let _ = fs::remove_file(&self.aside);
    }

    fn hash_existing(&mut self) -> Result<()> {
        let mut buffer = vec![0; COPY_BUFFER_BYTES];
        loop {
            let length = self.file.read(&mut buffer).map_err(Error::io("read", &self.aside))?;
            if length == 0 {
                break;
            }
            self.hasher.update(&buffer[..length]);
            self.written += length as u64;
        }
        match &self.expected {
            Some((_, size)) if self.written > *size => self.restart(),
            _ => Ok(()),
        }
    }
}

impl Drop for BlobWriter {
    fn drop(&mut self) {
        if self.expected.is_none() {
            // Nobody could go on with it. After `finish` there is nothing at this path.
            self.discard();
        }
    }
}
