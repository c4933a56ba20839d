//! The index: which images there are, their names, and what they are made of. One JSON file, replaced atomically.

use std::fs::{self, File};
use std::io::{self, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// Everything in the index file.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Index {
    pub(crate) images: Vec<Record>,
}

/// One image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Digest of its configuration, which is the image's id.
    pub(crate) id: Digest,
    /// Its manifest, as it was loaded or pulled last.
    pub(crate) manifest: Digest,
    /// Tagged names.
    pub(crate) tags: Vec<Reference>,
    /// Names with the digest of the manifest or index that they were pulled by.
    pub(crate) digests: Vec<Reference>,
    /// Diff ids of its layers, the lowest first; on top, there may be one more that was made here (see `implied`).
    pub(crate) layers: Vec<Digest>,
    /// All blobs it needs: manifests, indexes, configuration, layers as they came.
    pub(crate) blobs: Vec<Digest>,
    /// Bytes of its unpacked layers.
    pub(crate) size: u64,
    /// When it was built, RFC 3339; absent in reproducible builds that leave it out.
    pub(crate) created: Option<String>,
}

impl Index {
    /// Reads the index; a missing file is an empty one.
    pub(crate) fn read(path: &Path) -> Result<Self> {
        let text = match fs::read(path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Self::default()),
            Err(error) => return Err(Error::io("read", path)(error)),
        };
        serde_json::from_slice(&text).map_err(Error::malformed(path.display().to_string()))
    }

    /// Replaces the file. Whatever happens meanwhile, a reader sees the old index or the new one.
    pub(crate) fn write(&self, path: &Path) -> Result<()> {
        let aside = path.with_extension("json.new");
        let text = serde_json::to_vec(self).map_err(Error::malformed("image index"))?;
        let mut file = File::create(&aside).map_err(Error::io("write", &aside))?;
        file.write_all(&text).and_then(|()| file.sync_all()).map_err(Error::io("write", &aside))?;
        fs::rename(&aside, path).map_err(Error::io("replace", path))?;
        sync_parent(path)
    }

    /// Adds an image or, when it is there already, what is new about it. A tag belongs to one image at a time.
    pub(crate) fn add(&mut self, mut new: Record) {
        for image in &mut self.images {
            image.tags.retain(|tag| !new.tags.contains(tag));
        }
        match self.images.iter_mut().find(|image| image.id == new.id) {
            Some(old) => {
                old.manifest = new.manifest;
                merge(&mut old.tags, &mut new.tags);
                merge(&mut old.digests, &mut new.digests);
                merge(&mut old.blobs, &mut new.blobs);
            }
            None => self.images.push(new),
        }
    }

    /// The image that `name` means: a full id, a name, or an unambiguous prefix of an id, in this order, as Docker has it.
    pub(crate) fn find(&self, name: &str) -> Result<&Record> {
        let not_found = || Error::NotFound { name: name.to_owned() };
        if let Ok(id) = name.parse::<Digest>().or_else(|_| Digest::from_hex(name)) {
            return self.images.iter().find(|image| image.id == id).ok_or_else(not_found);
        }
        let reference = name.parse::<Reference>();
        if let Ok(reference) = &reference
            && let Some(found) = self.images.iter().find(|image| image.is_named(reference))
        {
            return Ok(found);
        }
        let prefix = name.strip_prefix("sha256:").unwrap_or(name);
        let is_prefix = !prefix.is_empty() && prefix.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if !is_prefix {
            return Err(reference.err().unwrap_or_else(not_found));
        }
        let mut matches = self.images.iter().filter(|image| image.id.hex().starts_with(prefix));
        match (matches.next(), matches.count()) {
            (Some(image), 0) => Ok(image),
            (None, _) => Err(not_found()),
            (Some(_), more) => Err(Error::Ambiguous { prefix: prefix.to_owned(), matches: more + 1 }),
        }
    }
}

impl Record {
    /// Whether `reference` names this image. A digest decides alone, whatever the tag beside it.
    pub(crate) fn is_named(&self, reference: &Reference) -> bool {
        match reference.digest() {
            Some(digest) => self.digests.contains(&reference.pinned(digest.clone())),
            None => self.tags.contains(reference),
        }
    }
}

fn merge<T: PartialEq>(into: &mut Vec<T>, from: &mut Vec<T>) {
    for item in from.drain(..) {
        if !into.contains(&item) {
            into.push(item);
        }
    }
}

/// Makes a rename in `path`'s folder durable.
pub(crate) fn sync_parent(path: &Path) -> Result<()> {
    let parent = path.parent().unwrap_or(Path::new("."));
    File::open(parent).and_then(|dir| dir.sync_all()).map_err(Error::io("sync", parent))
}
