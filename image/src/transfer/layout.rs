//! OCI image layouts (image-spec, image-layout.md): which images an `index.json` lists, and under which names.

use std::fs::File;
use std::io::Read;
use std::path::Path;

use oci_spec::image::{Descriptor, ImageIndex};

use super::{BlobKind, Source};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::DOCUMENT_BYTES;
use crate::manifest;
use crate::progress::{Progress, Step};
use crate::reference::Reference;
use crate::store::Store;

/// Full name of the image, by containerd and Docker.
const NAME_ANNOTATION: &str = "io.containerd.image.name";
/// Name or only tag of the image (image-spec, annotations.md).
const REF_ANNOTATION: &str = "org.opencontainers.image.ref.name";

/// One image of a layout.
#[derive(Debug, Clone)]
pub(super) struct Listed {
    pub(super) root: Descriptor,
    pub(super) tags: Vec<Reference>,
}

/// A layout in a folder.
#[derive(Debug)]
pub(super) struct Folder<'a> {
    pub(super) path: &'a Path,
}

impl Source for Folder<'_> {
    fn fetch(
        &self,
        store: &Store,
        _kind: BlobKind,
        blob: &Digest,
        size: u64,
        progress: &dyn Progress,
    ) -> Result<()> {
        let Some(mut writer) = store.blob_writer(blob, size)? else { return Ok(()) };
        let path = self.path.join("blobs/sha256").join(blob.hex());
        let mut file = File::open(&path).map_err(Error::io("read", &path))?;
        writer.restart()?;
        writer.copy_from(&path.display().to_string(), &mut file)?;
        writer.finish()?;
        progress.report(blob, Step::Fetched);
        Ok(())
    }
}

/// Reads a small file of a layout; `None` if it is missing.
pub(super) fn read_document(path: &Path) -> Result<Option<Vec<u8>>> {
    let file = match File::open(path) {
        Ok(file) => file,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let mut text = vec![];
    file.take(DOCUMENT_BYTES + 1).read_to_end(&mut text).map_err(Error::io("read", path))?;
    crate::limits::check_document(&path.display().to_string(), text.len() as u64)?;
    Ok(Some(text))
}

/// The images that an `index.json` lists. Entries of one name for several platforms are one image, of which the entry for this
/// platform is taken.
pub(super) fn listed(what: &str, text: &[u8]) -> Result<Vec<Listed>> {
    let index: ImageIndex =
        serde_json::from_slice(text).map_err(Error::malformed(format!("index.json of {what}")))?;
    let mut groups: Vec<(Option<String>, Vec<Descriptor>)> = vec![];
    for descriptor in index.manifests() {
        let name = name_of(descriptor);
        match groups.iter_mut().find(|(other, _)| *other == name) {
            Some((_, group)) => group.push(descriptor.clone()),
            None => groups.push((name, vec![descriptor.clone()])),
        }
    }
    let mut images = vec![];
    for (name, group) in groups {
        let tags: Vec<Reference> = name.as_deref().and_then(full_name).into_iter().collect();
        if group.iter().any(|descriptor| descriptor.platform().is_some()) {
            let shown = name.as_deref().unwrap_or(what);
            images.push(Listed { root: manifest::for_this_platform(shown, &group)?.clone(), tags });
        } else {
            images.extend(group.into_iter().map(|root| Listed { root, tags: tags.clone() }));
        }
    }
    if images.is_empty() {
        return Err(Error::Unusable {
            what: what.to_owned(),
            reason: "its index.json lists no image".to_owned(),
        });
    }
    Ok(images)
}

fn name_of(descriptor: &Descriptor) -> Option<String> {
    let annotations = descriptor.annotations().as_ref()?;
    annotations.get(NAME_ANNOTATION).or_else(|| annotations.get(REF_ANNOTATION)).cloned()
}

/// A name with a repository in it. Many tools write only the tag there ("latest"), which names nothing.
fn full_name(name: &str) -> Option<Reference> {
    if !name.contains(['/', ':']) {
        return None;
    }
    name.parse().ok()
}

/// Annotations under which other tools, and [`listed`], find the name again.
pub(super) fn name_annotations(name: &Reference) -> Vec<(&'static str, String)> {
    vec![(NAME_ANNOTATION, name.to_string()), (REF_ANNOTATION, name.to_string())]
}
