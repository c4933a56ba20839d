//! Layers: from a tar archive, compressed or not, to a folder in overlayfs' form.
//!
//! One thread decompresses and hashes while the caller's thread makes files: on two processors the slower of both decides.

pub(crate) mod archive;
mod decompress;
mod extract;
mod header;
mod path;
mod pax;
mod pipe;
mod sparse;
#[cfg(test)]
mod tests;
mod tree;

use std::fs::{self, DirBuilder};
use std::io::Read;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::thread;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::Limits;

pub(crate) use decompress::decoder;

/// What came out of a layer's archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unpacked {
    /// Digest of the archive after decompression.
    pub diff_id: Digest,
    /// Bytes of its files (a sparse file's holes not counted).
    pub size: u64,
    /// Number of its entries.
    pub entries: u64,
    /// Folders that it had things in without an entry of their own, relative to the layer's root; made as root's, mode 0755.
    pub implied: Vec<PathBuf>,
}

/// Unpacks the tar archive `source` (gzip, zstd or plain, told by its first bytes) into the new folder `folder`, in overlayfs'
/// form: a whiteout is a character device 0:0, an opaque folder has the attribute `trusted.overlay.opaque`. Nothing is synced
/// to disk.
///
/// # Errors
/// An entry that leaves the folder, a broken or truncated archive, an exceeded limit, or a failed system call. The folder is
/// left as it was then; the caller removes it.
pub fn unpack(source: impl Read + Send, folder: &Path, limits: &Limits) -> Result<Unpacked> {
    DirBuilder::new().mode(0o700).create(folder).map_err(Error::io("create", folder))?;
    // Without this, a set-group-id bit of the folder above would give everything below its group.
    fs::set_permissions(folder, fs::Permissions::from_mode(0o700)).map_err(Error::io("chmod", folder))?;
    thread::scope(|scope| {
        let (mut writer, reader) = pipe::pipe();
        let limits_there = *limits;
        let producer = scope.spawn(move || decompress::run(source, &mut writer, &limits_there));
        let extracted = extract::extract(archive::Reader::new(reader), folder, limits);
        // By now the reader is dropped or at its end, so the producer ends too.
        let produced = producer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
        match (produced, extracted) {
            (Ok(diff_id), Ok(done)) => {
                Ok(Unpacked { diff_id, size: done.size, entries: done.entries, implied: done.implied })
            }
            // A truncated stream is the cause of the broken archive that it looks like at the other end, except when
            // extraction failed first and the producer only saw nobody listening.
            (Err(decompress::Stop::Failed(error)), Ok(_)) => Err(error),
            (Err(decompress::Stop::Failed(error)), Err(at)) => Err(at.caused_by(error)),
            (Err(decompress::Stop::NobodyListens) | Ok(_), Err(at)) => Err(at.error),
            (Err(decompress::Stop::NobodyListens), Ok(_)) => {
                Err(Error::Archive { after: String::new(), reason: "it goes on behind its end".to_owned() })
            }
        }
    })
}
