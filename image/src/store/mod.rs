//! The content store: blobs as they came, layers unpacked once for all images, and an index of names.
//!
//! ```text
//! images/index.json            names and contents of all images (see `index`)
//!        blobs/sha256/HEX      manifests, configurations and layers as they came, each named by its digest
//!        layers/HEX/fs         an unpacked layer in overlayfs' form, named by its diff id
//!        layers/HEX/layer.json its size and what else is known of it
//!        erofs/HEX             an image as one file system for microVMs, named by the image's id; made when one first uses it
//!        uses/CONTAINER        id of the image that a container was made from
//!        ingest/               what is being written; renamed into place when whole, durable and verified
//!        locks/                lock files: `store`, `index`, and one for each blob, layer or file system being written
//! ```
//!
//! Whoever adds content holds `store` shared until the index names what was added; whoever deletes content holds it
//! exclusively and deletes only what the index does not name. Readers take no lock: what the index names is whole.

mod blob;
mod erofs;
mod implied;
mod index;
mod lease;
mod lock;
mod remove;
mod snapshot;
#[cfg(test)]
mod tests;
mod usage;

use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

use oci_spec::image::ImageConfiguration;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::reference::Reference;

pub use blob::BlobWriter;
use index::Index;
pub(crate) use index::Record;
use lock::Lock;
pub(crate) use remove::Partial;
pub use remove::{PruneScope, Pruned, Removal, RemoveMode};
pub(crate) use snapshot::LayerSource;
pub use usage::Usage;

/// The image store of one engine instance.
#[derive(Debug, Clone)]
pub struct Store {
    root: PathBuf,
    containers: PathBuf,
}

/// An image that is here, unpacked.
#[derive(Debug, Clone)]
pub struct Image {
    /// Digest of its configuration: the id that users see.
    pub id: Digest,
    /// Digest of its manifest.
    pub manifest: Digest,
    /// Its tagged names.
    pub repo_tags: Vec<Reference>,
    /// Its names pinned to the digest that they were pulled by.
    pub repo_digests: Vec<Reference>,
    /// Its configuration (image-spec, config.md).
    pub config: ImageConfiguration,
    /// Folders of its unpacked layers, the lowest first (overlayfs' `lowerdir` wants the reverse). Owners are as in the
    /// container; whiteouts are in overlayfs' form. There may be one more than the configuration lists.
    pub layers: Vec<PathBuf>,
    /// Bytes of all its layers, unpacked.
    pub size: u64,
}

/// What a listing shows of an image; [`Store::resolve`] has the rest.
#[derive(Debug, Clone)]
pub struct Summary {
    /// Digest of its configuration.
    pub id: Digest,
    /// Its tagged names; none for an image that lost its name to another one.
    pub repo_tags: Vec<Reference>,
    /// Its names pinned to the digest that they were pulled by.
    pub repo_digests: Vec<Reference>,
    /// When it was built, RFC 3339.
    pub created: Option<String>,
    /// Bytes of all its layers, unpacked.
    pub size: u64,
}

/// Keeps content from being deleted while it is being added.
#[derive(Debug)]
pub(crate) struct Adding {
    _lock: Lock,
}

impl Store {
    /// The store in `lib_dir`, the engine's folder; it is made when the first image is added.
    pub fn open(lib_dir: &Path) -> Self {
        Self { root: lib_dir.join("images"), containers: lib_dir.join("containers") }
    }

    /// The image that `name` means: a name as Docker reads it, an id, or an unambiguous prefix of one.
    ///
    /// # Errors
    /// [`Error::NotFound`], [`Error::Ambiguous`], [`Error::InvalidReference`]; or the store cannot be read.
    pub fn resolve(&self, name: &str) -> Result<Image> {
        let index = self.index()?;
        self.image(index.find(name)?)
    }

    /// All images, the most recently built first.
    ///
    /// # Errors
    /// The store cannot be read.
    pub fn images(&self) -> Result<Vec<Summary>> {
        let mut images: Vec<Summary> = self
            .index()?
            .images
            .into_iter()
            .map(|record| Summary {
                id: record.id,
                repo_tags: record.tags,
                repo_digests: record.digests,
                created: record.created,
                size: record.size,
            })
            .collect();
        images.sort_by(|a, b| b.created.cmp(&a.created).then_with(|| a.id.cmp(&b.id)));
        Ok(images)
    }

    /// Gives the image that `source` means the name `target`, taking it from the image that has it now.
    ///
    /// # Errors
    /// As [`Store::resolve`]; or `target` has a digest, which is not for the user to choose.
    pub fn tag(&self, source: &str, target: &Reference) -> Result<()> {
        if target.digest().is_some() {
            return Err(Error::InvalidReference {
                name: target.to_string(),
                reason: "a name given to an image has a tag, not a digest",
            });
        }
        self.change(|index| {
            let mut record = index.find(source)?.clone();
            record.tags = vec![target.clone()];
            index.add(record);
            Ok(())
        })
    }

    /// The configuration of an image as its builder wrote it, with the fields that image-spec does not know.
    ///
    /// # Errors
    /// The blob is missing or is not JSON.
    pub fn raw_config(&self, id: &Digest) -> Result<serde_json::Value> {
        let text = self.read_blob(id)?;
        serde_json::from_slice(&text).map_err(Error::malformed(format!("image configuration {id}")))
    }

    fn image(&self, record: &Record) -> Result<Image> {
        let text = self.read_blob(&record.id)?;
        let config = serde_json::from_slice(&text)
            .map_err(Error::malformed(format!("image configuration {}", record.id)))?;
        Ok(Image {
            id: record.id.clone(),
            manifest: record.manifest.clone(),
            repo_tags: record.tags.clone(),
            repo_digests: record.digests.clone(),
            config,
            layers: record.layers.iter().map(|layer| self.layer_dir(layer).join("fs")).collect(),
            size: record.size,
        })
    }

    /// Puts an image whose content is all here into the index.
    pub(crate) fn add(&self, record: Record) -> Result<()> {
        self.change(|index| {
            index.add(record);
            Ok(())
        })
    }

    pub(crate) fn index(&self) -> Result<Index> {
        Index::read(&self.index_path())
    }

    /// Reads, changes and replaces the index, alone.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Index) -> Result<T>) -> Result<T> {
        let _lock = Lock::exclusive(&self.lock_path("index"))?;
        let before = self.index()?;
        let mut after = before.clone();
        let value = change(&mut after)?;
        if after != before {
            after.write(&self.index_path())?;
        }
        Ok(value)
    }

    /// To be held from before content is written until the index names it.
    pub(crate) fn adding(&self) -> Result<Adding> {
        fs::create_dir_all(&self.root).map_err(Error::io("create", &self.root))?;
        // For root alone: an image may hold set-user-id programs, and on disk their owner is the host's root. Any user of the host who
        // could reach them there could run them.
        for folder in ["blobs/sha256", "layers", "ingest", "uses"] {
            let path = self.root.join(folder);
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(&path)
                .map_err(Error::io("create", &path))?;
        }
        Ok(Adding { _lock: Lock::shared(&self.lock_path("store"))? })
    }

    fn index_path(&self) -> PathBuf {
        self.root.join("index.json")
    }

    fn lock_path(&self, name: &str) -> PathBuf {
        self.root.join("locks").join(name)
    }

    pub(crate) fn layer_dir(&self, diff_id: &Digest) -> PathBuf {
        self.root.join("layers").join(diff_id.hex())
    }

    pub(crate) fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }
}
