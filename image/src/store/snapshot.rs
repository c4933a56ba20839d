//! Unpacked layers: made aside, synced once for all layers of an image, and renamed into place.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::thread;

use serde::{Deserialize, Serialize};

use super::Store;
use super::index::sync_parent;
use super::lock::Lock;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::layer;
use crate::limits::Limits;

/// A layer to unpack: its blob, and the digest that it must have uncompressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LayerSource {
    pub(crate) blob: Digest,
    pub(crate) diff_id: Digest,
}

/// What is remembered of an unpacked layer (`layer.json`).
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct LayerInfo {
    /// Bytes of its files.
    pub(crate) size: u64,
    /// Folders that its archive had things in without an entry of their own (see `implied`).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) implied: Vec<PathBuf>,
}

/// Up to so many entries are synced one by one. For more, one `syncfs` is faster, although it also waits for what others wrote to
/// the same file system.
const FEW_ENTRIES: u64 = 1000;

/// A layer that is whole in `ingest/` but not yet durable.
pub(super) struct Unpacked {
    pub(super) aside: PathBuf,
    pub(super) target: PathBuf,
    pub(super) entries: u64,
    pub(super) _lock: Lock,
}

impl Store {
    /// Unpacks those of `layers` that are not here, as many at once as there are processors. Blobs are not
    /// verified here, diff ids are. The caller holds [`Store::adding`].
    pub(crate) fn unpack_layers(&self, layers: &[LayerSource], limits: &Limits) -> Result<()> {
        let mut todo: Vec<&LayerSource> = vec![];
        for layer in layers {
            if !self.has_layer(&layer.diff_id) && !todo.iter().any(|other| other.diff_id == layer.diff_id) {
                todo.push(layer);
            }
        }
        // Two commands that unpack the same layers lock them in the same order, so neither waits for the other for ever.
        todo.sort_by(|a, b| a.diff_id.cmp(&b.diff_id));
        let mut locked = vec![];
        for layer in todo {
            let lock = Lock::exclusive(&self.lock_path(&format!("layer-{}", layer.diff_id.hex())))?;
            if !self.has_layer(&layer.diff_id) {
                locked.push((layer, lock));
            }
        }
        if locked.is_empty() {
            return Ok(());
        }
        let workers = thread::available_parallelism().map_or(1, usize::from).min(locked.len());
        let queue = Mutex::new(locked);
        // A closure, so that the guard is gone before the layer is unpacked: the others take theirs meanwhile. A poisoned
        // queue means that another worker panicked; what it left is still to be done.
        let take = || queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
        let work = || {
            let mut done = vec![];
            while let Some((layer, lock)) = take() {
                match self.unpack_aside(layer, lock, limits) {
                    Ok(unpacked) => done.push(unpacked),
                    Err(error) => {
                        while take().is_some() {}
                        return (done, Some(error));
                    }
                }
            }
            (done, None)
        };
        let results: Vec<(Vec<Unpacked>, Option<Error>)> = thread::scope(|scope| {
            let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
            handles
                .into_iter()
                .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
                .collect()
        });
        let mut unpacked = vec![];
        let mut failure = None;
        for (done, error) in results {
            unpacked.extend(done);
            failure = failure.or(error);
        }
        if let Some(error) = failure {
            for layer in &unpacked {
                // What cannot be removed now is removed by the next command that unpacks this layer, or by prune.
                let _ = fs::remove_dir_all(&layer.aside);
            }
            return Err(error);
        }
        self.publish(&unpacked)
    }

    fn unpack_aside(&self, source: &LayerSource, lock: Lock, limits: &Limits) -> Result<Unpacked> {
        let aside = self.root.join("ingest").join(format!("layer-{}", source.diff_id.hex()));
        let wrap = |error| Error::Layer { layer: source.blob.clone(), source: Box::new(error) };
        match self.unpack_into(&aside, source, limits).map_err(wrap) {
            Ok(entries) => {
                Ok(Unpacked { aside, target: self.layer_dir(&source.diff_id), entries, _lock: lock })
            }
            Err(error) => {
                let _ = fs::remove_dir_all(&aside);
                Err(error)
            }
        }
    }

    fn unpack_into(&self, aside: &PathBuf, source: &LayerSource, limits: &Limits) -> Result<u64> {
        if aside.exists() {
            // Left by a command that was killed: nobody else is at it, as we hold its lock.
            fs::remove_dir_all(aside).map_err(Error::io("remove", aside))?;
        }
        fs::create_dir(aside).map_err(Error::io("create", aside))?;
        let blob = self.blob_path(&source.blob);
        let file = File::open(&blob).map_err(Error::io("read", &blob))?;
        let folder = aside.join("fs");
        let report = layer::unpack(file, &folder, limits)?;
        if report.diff_id != source.diff_id {
            return Err(Error::Mismatch {
                what: "the uncompressed layer".to_owned(),
                expected: source.diff_id.to_string(),
                actual: report.diff_id.to_string(),
            });
        }
        let info = LayerInfo { size: report.size, implied: report.implied };
        let text = serde_json::to_vec(&info).map_err(Error::malformed("layer.json"))?;
        let path = aside.join("layer.json");
        fs::write(&path, text).map_err(Error::io("write", &path))?;
        Ok(report.entries)
    }

    /// Makes all layers durable and then visible.
    pub(super) fn publish(&self, layers: &[Unpacked]) -> Result<()> {
        let entries: u64 = layers.iter().map(|layer| layer.entries).sum();
        if entries <= FEW_ENTRIES {
            layers.iter().try_for_each(|layer| sync_tree(&layer.aside))?;
        } else {
            let folder = self.root.join("layers");
            let handle = File::open(&folder).map_err(Error::io("open", &folder))?;
            rustix::fs::syncfs(&handle).map_err(|errno| Error::io("sync", &folder)(errno.into()))?;
        }
        for layer in layers {
            fs::rename(&layer.aside, &layer.target).map_err(Error::io("create", &layer.target))?;
            sync_parent(&layer.target)?;
        }
        Ok(())
    }

    pub(crate) fn has_layer(&self, diff_id: &Digest) -> bool {
        self.layer_dir(diff_id).exists()
    }

    pub(crate) fn layer_info(&self, diff_id: &Digest) -> Result<LayerInfo> {
        let path = self.layer_dir(diff_id).join("layer.json");
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        serde_json::from_slice(&text).map_err(Error::malformed(path.display().to_string()))
    }
}

/// Syncs all files and folders below `folder`; links and devices are part of their folder.
fn sync_tree(folder: &Path) -> Result<()> {
    let entries = fs::read_dir(folder).map_err(Error::io("read", folder))?;
    for entry in entries {
        let entry = entry.map_err(Error::io("read", folder))?;
        let kind = entry.file_type().map_err(Error::io("look at", entry.path()))?;
        if kind.is_dir() {
            sync_tree(&entry.path())?;
        } else if kind.is_file() {
            let path = entry.path();
            File::open(&path).and_then(|file| file.sync_all()).map_err(Error::io("sync", path))?;
        }
    }
    File::open(folder).and_then(|folder| folder.sync_all()).map_err(Error::io("sync", folder))
}
