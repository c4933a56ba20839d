//! How much disk images take.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::Store;
use crate::digest::Digest;
use crate::error::Result;

/// Unit of `st_blocks` (stat(2)).
const STAT_BLOCK_BYTES: u64 = 512;

/// Disk space of images.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    /// Number of images.
    pub total: usize,
    /// Number of images that a container uses.
    pub active: usize,
    /// Bytes of unpacked layers and blobs, what images share counted once.
    pub bytes: u64,
    /// Bytes that removing all unused images would give back.
    pub reclaimable_bytes: u64,
}

impl Store {
    /// How much disk images take.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn usage(&self) -> Result<Usage> {
        let index = self.index()?;
        let used: HashSet<Digest> = self.uses()?.into_iter().map(|(_, image)| image).collect();
        let mut all = HashSet::new();
        let mut needed = HashSet::new();
        let mut active = 0;
        for image in &index.images {
            let content = image
                .layers
                .iter()
                .map(|layer| self.layer_dir(layer))
                .chain(image.blobs.iter().map(|blob| self.blob_path(blob)))
                .chain([self.erofs_path(&image.id)]);
            let is_used = used.contains(&image.id);
            active += usize::from(is_used);
            for path in content {
                if is_used {
                    needed.insert(path.clone());
                }
                all.insert(path);
            }
        }
        let mut usage = Usage { total: index.images.len(), active, ..Usage::default() };
        for path in all {
            let bytes = bytes_of(&path);
            usage.bytes += bytes;
            if !needed.contains(&path) {
                usage.reclaimable_bytes += bytes;
            }
        }
        Ok(usage)
    }
}

/// Bytes on disk of a file or of all files below a folder, hard links counted once; what vanishes meanwhile counts nothing.
pub fn bytes_of(path: &Path) -> u64 {
    let mut seen = HashSet::new();
    let mut bytes = 0;
    let mut todo = vec![path.to_path_buf()];
    while let Some(path) = todo.pop() {
        let Ok(metadata) = fs::symlink_metadata(&path) else { continue };
        if metadata.nlink() > 1 && !metadata.is_dir() && !seen.insert((metadata.dev(), metadata.ino())) {
            continue;
        }
        bytes += metadata.blocks() * STAT_BLOCK_BYTES;
        if metadata.is_dir()
            && let Ok(entries) = fs::read_dir(&path)
        {
            todo.extend(entries.filter_map(|entry| entry.ok()).map(|entry| entry.path()));
        }
    }
    bytes
}
