//! Registries: pulling images over the distribution protocol (distribution-spec, "Pull").

mod auth;
mod client;
mod docker_config;
mod download;
mod endpoint;
mod tls;

use oci_spec::image::Descriptor;

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest;
use crate::progress::{Progress, Step};
use crate::reference::Reference;
use crate::store::{Partial, Store};
use crate::transfer::{BlobKind, Names, Options, Source, bring_in};
use client::Client;

/// What a pull found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pulled {
    /// Id of the image.
    pub id: Digest,
    /// Digest that the name leads to in the registry: of a manifest, or of an index with images for several platforms.
    pub digest: Digest,
    /// Whether anything changed here.
    pub news: News,
}

/// Whether a pull changed what a name means here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum News {
    /// The name means another image than before, or is new.
    Downloaded,
    /// The image was here already.
    UpToDate,
}

/// Fetches the image `reference` for this platform from its registry and gives it its name. An interrupted pull goes on where it
/// was.
///
/// # Errors
/// [`Error::Unreachable`], [`Error::Denied`], [`Error::NotInRegistry`] and others of the registry; content that is not what its
/// digest says or that is refused. The index is as before then.
pub fn pull(store: &Store, reference: &Reference, options: Options<'_>) -> Result<Pulled> {
    let adding = store.adding()?;
    let before = store.resolve(&reference.to_string()).ok().map(|image| image.id);
    let result = pull_locked(store, reference, options);
    drop(adding);
    match &result {
        // What is whole stays: the next attempt needs less.
        Err(Error::Unreachable { .. } | Error::Response { .. }) => {}
        Err(_) => {
            store.collect(Partial::Keep)?;
        }
        Ok(_) => {}
    }
    let (id, digest) = result?;
    let news = if before.as_ref() == Some(&id) { News::UpToDate } else { News::Downloaded };
    Ok(Pulled { id, digest, news })
}

fn pull_locked(store: &Store, reference: &Reference, options: Options<'_>) -> Result<(Digest, Digest)> {
    let client = Client::connect(reference)?;
    let text = client.manifest(
        &reference.digest().map_or_else(|| reference.tag().unwrap_or_default().to_owned(), Digest::to_string),
    )?;
    let digest = Digest::of(&text);
    if let Some(expected) = reference.digest()
        && digest != *expected
    {
        return Err(Error::Mismatch {
            what: format!("the manifest of {}", reference.familiar()),
            expected: expected.to_string(),
            actual: digest.to_string(),
        });
    }
    store.write_blob(&text)?;
    let root = serde_json::json!({
        "mediaType": manifest::MANIFEST_TYPES[1], "digest": digest, "size": text.len(),
    });
    let root: Descriptor = serde_json::from_value(root).map_err(Error::malformed("descriptor"))?;
    let names = Names {
        shown: reference.familiar(),
        tags: if reference.digest().is_some() { vec![] } else { vec![reference.clone()] },
        digests: vec![reference.pinned(digest.clone())],
    };
    Ok((bring_in(store, &client, &root, names, options)?, digest))
}

impl Source for Client {
    fn fetch(
        &self,
        store: &Store,
        kind: BlobKind,
        blob: &Digest,
        size: u64,
        progress: &dyn Progress,
    ) -> Result<()> {
        if store.has_blob(blob) {
            return store.check_size(blob, size);
        }
        if kind == BlobKind::Blob {
            return download::download(self, store, blob, size, progress);
        }
        let text = self.manifest(&blob.to_string())?;
        if let Some(mut writer) = store.blob_writer(blob, size)? {
            writer.restart()?;
            writer.write(&text)?;
            writer.finish()?;
        }
        progress.report(blob, Step::Fetched);
        Ok(())
    }
}
