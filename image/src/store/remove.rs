//! Taking names and images out of the index, and deleting what no image needs.

use std::collections::HashSet;
use std::fs;
use std::io;
use std::path::Path;

use super::lock::Lock;
use super::{Record, Store};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::reference::Reference;

/// How far removal goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RemoveMode {
    /// Refuses when a container uses the image, or when an id has names in several repositories.
    Plain,
    /// Takes the names away in these cases too. An image that a container uses stays without a name.
    Force,
}

/// One thing that was removed, in Docker's words.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Removal {
    /// A name, as users write it.
    Untagged(String),
    /// An image.
    Deleted(Digest),
}

/// Which images pruning removes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PruneScope {
    /// Those without a tag.
    Untagged,
    /// All that no container uses.
    Unused,
}

/// What pruning did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Pruned {
    /// Names and images.
    pub removals: Vec<Removal>,
    /// Bytes given back to the disk.
    pub bytes: u64,
}

/// What becomes of downloads that were interrupted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Partial {
    /// The next pull goes on with them.
    Keep,
    Delete,
}

impl Store {
    /// Removes the image or the name `name`, and the image's content when nothing else needs it.
    ///
    /// # Errors
    /// As [`Store::resolve`]; [`Error::InUse`], [`Error::SeveralNames`].
    pub fn remove(&self, name: &str, mode: RemoveMode) -> Result<Vec<Removal>> {
        let removals = self.change(|index| {
            let uses = self.uses()?;
            let id = index.find(name)?.id.clone();
            let Some(position) = index.images.iter().position(|image| image.id == id) else {
                return Err(Error::NotFound { name: name.to_owned() });
            };
            let image = &mut index.images[position];
            let user = uses.iter().find(|(_, used)| *used == id).map(|(container, _)| container.clone());
            let (removals, is_needed) = take_names(image, name, user, mode)?;
            if is_needed {
                return Ok(removals);
            }
            index.images.remove(position);
            Ok([removals, vec![Removal::Deleted(id)]].concat())
        })?;
        self.collect(Partial::Keep)?;
        Ok(removals)
    }

    /// Removes images that are not needed, and all leftovers of interrupted commands.
    ///
    /// # Errors
    /// The store cannot be read or written.
    pub fn prune(&self, scope: PruneScope) -> Result<Pruned> {
        let removals = self.change(|index| {
            let uses = self.uses()?;
            let mut removals = vec![];
            index.images.retain(|image| {
                let used = uses.iter().any(|(_, id)| *id == image.id);
                if used || (scope == PruneScope::Untagged && !image.tags.is_empty()) {
                    return true;
                }
                let names = image.tags.iter().chain(&image.digests);
                removals.extend(names.map(|name| Removal::Untagged(name.familiar())));
                removals.push(Removal::Deleted(image.id.clone()));
                false
            });
            Ok(removals)
        })?;
        Ok(Pruned { removals, bytes: self.collect(Partial::Delete)? })
    }

    /// Deletes what the index does not name and gives the number of bytes. While another command adds content nothing is
    /// deleted: what it wrote is not in the index yet. The next removal does it then.
    pub(crate) fn collect(&self, partial: Partial) -> Result<u64> {
        if !self.root.exists() {
            return Ok(0);
        }
        let Some(_alone) = Lock::try_exclusive(&self.lock_path("store"))? else { return Ok(0) };
        let index = self.index()?;
        let blobs: HashSet<&str> =
            index.images.iter().flat_map(|image| &image.blobs).map(Digest::hex).collect();
        let layers: HashSet<&str> =
            index.images.iter().flat_map(|image| &image.layers).map(Digest::hex).collect();
        let mut bytes = sweep(&self.root.join("blobs/sha256"), |name| blobs.contains(name))?;
        bytes += sweep(&self.root.join("layers"), |name| layers.contains(name))?;
        let ids: HashSet<&str> = index.images.iter().map(|image| image.id.hex()).collect();
        bytes += sweep(&self.root.join("erofs"), |name| ids.contains(name))?;
        bytes +=
            sweep(&self.root.join("ingest"), |name| partial == Partial::Keep && name.starts_with("blob-"))?;
        sweep(&self.root.join("locks"), |name| matches!(name, "store" | "index"))?;
        Ok(bytes)
    }
}

/// Takes the names away that `name` means; also says whether the image is needed still.
fn take_names(
    image: &mut Record,
    name: &str,
    user: Option<String>,
    mode: RemoveMode,
) -> Result<(Vec<Removal>, bool)> {
    let untagged = |reference: &Reference| Removal::Untagged(reference.familiar());
    let in_use = |container: String| Error::InUse { name: name.to_owned(), container, forceable: true };
    match name.parse::<Reference>() {
        Ok(reference) if image.is_named(&reference) => {
            let reference = match reference.digest() {
                Some(digest) => reference.pinned(digest.clone()),
                None => reference,
            };
            let others = image.tags.iter().filter(|tag| **tag != reference).count();
            if others == 0
                && mode == RemoveMode::Plain
                && let Some(container) = user
            {
                return Err(in_use(container));
            }
            let mut removals = vec![untagged(&reference)];
            image.tags.retain(|tag| *tag != reference);
            image.digests.retain(|digest| *digest != reference);
            // The pinned names of a repository go with its last tag.
            if !image.tags.iter().any(|tag| tag.name() == reference.name()) {
                let (gone, stay): (Vec<_>, Vec<_>) =
                    image.digests.drain(..).partition(|digest| digest.name() == reference.name());
                image.digests = stay;
                removals.extend(gone.iter().map(untagged));
            }
            let is_needed = user.is_some() || !image.tags.is_empty() || !image.digests.is_empty();
            Ok((removals, is_needed))
        }
        _ => {
            let repositories: HashSet<String> = image.tags.iter().map(Reference::name).collect();
            if mode == RemoveMode::Plain && repositories.len() > 1 {
                let names: Vec<String> = image.tags.iter().map(Reference::familiar).collect();
                return Err(Error::SeveralNames { id: image.id.short().to_owned(), names: names.join(", ") });
            }
            if mode == RemoveMode::Plain
                && let Some(container) = user
            {
                return Err(in_use(container));
            }
            let removals = image.tags.iter().chain(&image.digests).map(untagged).collect();
            image.tags.clear();
            image.digests.clear();
            Ok((removals, user.is_some()))
        }
    }
}

/// Deletes all in `folder` that is not to be kept and gives the number of bytes.
fn sweep(folder: &Path, keep: impl Fn(&str) -> bool) -> Result<u64> {
    let entries = match fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
        Err(error) => return Err(Error::io("read", folder)(error)),
    };
    let mut bytes = 0;
    for entry in entries {
        let entry = entry.map_err(Error::io("read", folder))?;
        if entry.file_name().to_str().is_some_and(&keep) {
            continue;
        }
        let path = entry.path();
        bytes += super::usage::bytes_of(&path);
        let is_folder = entry.file_type().map_err(Error::io("look at", &path))?.is_dir();
        let removed = if is_folder { fs::remove_dir_all(&path) } else { fs::remove_file(&path) };
        removed.map_err(Error::io("delete", &path))?;
    }
    Ok(bytes)
}
