//! Bringing images in and out: the steps that archives and registries share.

mod layout;
mod load;
mod save;

pub use load::Loaded;
pub use save::Saved;

use std::sync::Mutex;
use std::thread;

use oci_spec::image::{Descriptor, ImageConfiguration};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::Limits;
use crate::manifest::{self, Document};
use crate::progress::{Progress, Step};
use crate::reference::Reference;
use crate::store::{LayerSource, Record, Store};

/// Layers fetched at a time, as many as Docker does.
const PARALLEL_FETCHES: usize = 3;
/// An index may list indexes; nothing real nests deeper.
const INDEX_DEPTH: usize = 2;
/// More layers than overlayfs can stack (`OVL_MAX_STACK`).
const LAYERS_MAX: usize = 500;

/// Where blobs come from.
pub(crate) trait Source: Sync {
    /// Puts the blob into the store, verified; it may be there already.
    fn fetch(
        &self,
        store: &Store,
        kind: BlobKind,
        blob: &Digest,
        size: u64,
        progress: &dyn Progress,
    ) -> Result<()>;
}

/// What a digest names: registries keep the two apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BlobKind {
    /// A manifest or an index.
    Manifest,
    /// A configuration or a layer.
    Blob,
}

/// How an image is brought in.
#[derive(Clone, Copy)]
pub struct Options<'a> {
    /// What its layers may unpack to.
    pub limits: Limits,
    /// Told of each step.
    pub progress: &'a dyn Progress,
}

impl std::fmt::Debug for Options<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Options").field("limits", &self.limits).finish_non_exhaustive()
    }
}

/// Names to give to an image that comes in.
#[derive(Debug, Clone, Default)]
pub(crate) struct Names {
    /// What messages call it.
    pub(crate) shown: String,
    pub(crate) tags: Vec<Reference>,
    /// Names pinned to the digest that the image was asked for by.
    pub(crate) digests: Vec<Reference>,
}

/// Fetches all that `root` (a manifest or an index) leads to on this platform, unpacks it and puts it into the index. The
/// caller holds `Store::adding`.
pub(crate) fn bring_in(
    store: &Store,
    source: &dyn Source,
    root: &Descriptor,
    names: Names,
    options: Options<'_>,
) -> Result<Digest> {
    let mut blobs = vec![];
    let mut descriptor = root.clone();
    let mut depth = 0;
    let manifest = loop {
        let (text, digest) = document(store, source, BlobKind::Manifest, &descriptor, options.progress)?;
        blobs.push(digest.clone());
        match Document::parse(&format!("manifest {digest}"), &text)? {
            Document::Manifest(manifest) => break manifest,
            Document::Index(index) if depth < INDEX_DEPTH => {
                descriptor = manifest::for_this_platform(&names.shown, index.manifests())?.clone();
                depth += 1;
            }
            Document::Index(_) => {
                let reason = "it is an index in an index in an index".to_owned();
                return Err(Error::Unusable { what: format!("manifest {digest}"), reason });
            }
        }
    };
    let unusable = |reason: String| Error::Unusable { what: names.shown.clone(), reason };
    let manifest_digest = manifest::digest_of(&descriptor)?;
    let config_type = manifest.config().media_type().to_string();
    if !config_type.contains("image") {
        return Err(unusable(format!("it is not an image but an artifact ({config_type})")));
    }
    for layer in manifest.layers() {
        let kind = layer.media_type().to_string();
        if !kind.contains("tar") || kind.contains("encrypted") {
            return Err(unusable(format!(
                "layer {} has the media type {kind}, which is not supported",
                layer.digest()
            )));
        }
    }
    if manifest.layers().len() > LAYERS_MAX {
        return Err(unusable(format!("it has more than {LAYERS_MAX} layers, more than overlayfs can stack")));
    }
    let (text, id) = document(store, source, BlobKind::Blob, manifest.config(), options.progress)?;
    let what = format!("image configuration {id}");
    let config: ImageConfiguration = serde_json::from_slice(&text).map_err(Error::malformed(what))?;
    let diff_ids = manifest::check_config(&names.shown, &config)?;
    if diff_ids.len() != manifest.layers().len() {
        let counts = (diff_ids.len(), manifest.layers().len());
        return Err(unusable(format!(
            "its configuration speaks of {} layers and its manifest of {}",
            counts.0, counts.1
        )));
    }
    fetch_all(store, source, manifest.layers(), options.progress)?;
    let mut layers = vec![];
    for (layer, diff_id) in manifest.layers().iter().zip(&diff_ids) {
        layers.push(LayerSource { blob: manifest::digest_of(layer)?, diff_id: diff_id.clone() });
    }
    let missing = layers.iter().filter(|layer| !store.has_layer(&layer.diff_id)).count();
    if missing > 0 {
        options.progress.unpacking(missing);
    }
    store.unpack_layers(&layers, &options.limits)?;
    blobs.push(id.clone());
    blobs.extend(layers.into_iter().map(|layer| layer.blob));
    blobs.sort();
    blobs.dedup();
    let mut size = 0;
    for diff_id in &diff_ids {
        size += store.layer_info(diff_id)?.size;
    }
    let top = store.add_implied_layer(&diff_ids)?;
    let record = Record {
        id: id.clone(),
        manifest: manifest_digest,
        tags: names.tags,
        digests: names.digests,
        layers: diff_ids.into_iter().chain(top).collect(),
        blobs,
        size,
        created: config.created().clone(),
    };
    store.add(record)?;
    Ok(id)
}

/// A small document, through the store.
fn document(
    store: &Store,
    source: &dyn Source,
    kind: BlobKind,
    descriptor: &Descriptor,
    progress: &dyn Progress,
) -> Result<(Vec<u8>, Digest)> {
    let digest = manifest::digest_of(descriptor)?;
    crate::limits::check_document(&digest.to_string(), descriptor.size())?;
    source.fetch(store, kind, &digest, descriptor.size(), progress)?;
    Ok((store.read_blob(&digest)?, digest))
}

fn fetch_all(
    store: &Store,
    source: &dyn Source,
    layers: &[Descriptor],
    progress: &dyn Progress,
) -> Result<()> {
    let mut queue = vec![];
    for layer in layers {
        let digest = manifest::digest_of(layer)?;
        // An empty layer often occurs more than once.
        if !queue.iter().any(|(other, _)| *other == digest) {
            queue.push((digest, layer.size()));
        }
    }
    let workers = PARALLEL_FETCHES.min(queue.len());
    queue.reverse();
    let queue = Mutex::new(queue);
    let take = || queue.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).pop();
    let work = || {
        while let Some((digest, size)) = take() {
            if store.has_blob(&digest) {
                progress.report(&digest, Step::Exists);
                continue;
            }
            if let Err(error) = source.fetch(store, BlobKind::Blob, &digest, size, progress) {
                // The others stop after what they are at.
                while take().is_some() {}
                return Err(error);
            }
        }
        Ok(())
    };
    thread::scope(|scope| {
        let handles: Vec<_> = (0..workers).map(|_| scope.spawn(work)).collect();
        let results: Vec<Result<()>> = handles
            .into_iter()
            .map(|handle| handle.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect();
        results.into_iter().collect()
    })
}
