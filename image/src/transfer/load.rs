//! `load`: OCI layouts (a folder, or a tar archive of one) and archives of `docker save`.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufReader, Read};
use std::path::Path;

use oci_spec::image::Descriptor;
use serde::Deserialize;

use super::layout::{self, Folder};
use super::{BlobKind, Names, Options, Source, bring_in};
use crate::digest::Digest;
use crate::error::{EntryProblem, Error, Result};
use crate::layer::archive::{Entry, Kind, Reader};
use crate::layer::decoder;
use crate::limits::DOCUMENT_BYTES;
use crate::manifest;
use crate::progress::{Progress, Step};
use crate::reference::Reference;
use crate::store::{Partial, Store};

const BUFFER_BYTES: usize = 256 * 1024;

/// An image that was loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Loaded {
    /// Its id.
    pub id: Digest,
    /// The names that it has from the archive; none when the archive does not say.
    pub names: Vec<Reference>,
}

/// What an archive of either kind had in it; all its files are in the store.
#[derive(Debug, Default)]
struct Contents {
    /// Small files, by name: the JSON documents.
    documents: HashMap<String, Vec<u8>>,
    /// Digests and sizes of all other files, by name.
    files: HashMap<String, (Digest, u64)>,
    /// Targets of links, by name.
    links: HashMap<String, String>,
}

/// One image of `manifest.json` in an archive of `docker save`.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerImage {
    config: String,
    repo_tags: Option<Vec<String>>,
    layers: Vec<String>,
}

impl Store {
    /// Loads all images of the OCI layout folder, OCI layout archive or `docker save` archive at `path`. Archives may be
    /// compressed.
    ///
    /// # Errors
    /// It is none of these, or damaged, or not for this platform; the store is as before then.
    pub fn load_path(&self, path: &Path, options: Options<'_>) -> Result<Vec<Loaded>> {
        if !path.is_dir() {
            let file = File::open(path).map_err(Error::io("read", path))?;
            return self.load_archive(&path.display().to_string(), file, options);
        }
        self.all_or_nothing(|| {
            let what = path.display().to_string();
            let Some(text) = layout::read_document(&path.join("index.json"))? else {
                let reason = "it has no index.json, so it is no OCI image layout".to_owned();
                return Err(Error::Unusable { what, reason });
            };
            self.load_listed(&what, &text, &Folder { path }, options)
        })
    }

    /// Loads all images of an archive that is read from `input`, once from start to end; `what` names it in messages.
    ///
    /// # Errors
    /// As [`Store::load_path`].
    pub fn load_archive(
        &self,
        what: &str,
        input: impl Read + Send,
        options: Options<'_>,
    ) -> Result<Vec<Loaded>> {
        self.all_or_nothing(|| {
            let contents = self.unpack_archive(what, input, options)?;
            if let Some(text) = contents.documents.get("index.json") {
                return self.load_listed(what, text, &Here, options);
            }
            let Some(text) = contents.documents.get("manifest.json") else {
                let reason =
                    "it has neither an index.json (OCI image layout) nor a manifest.json (docker save)";
                return Err(Error::Unusable { what: what.to_owned(), reason: reason.to_owned() });
            };
            let images: Vec<DockerImage> =
                serde_json::from_slice(text).map_err(Error::malformed(format!("manifest.json of {what}")))?;
            let mut loaded = vec![];
            for image in images {
                let root = self.docker_manifest(what, &contents, &image)?;
                let tags = image.repo_tags.unwrap_or_default();
                let tags = tags.iter().map(|tag| tag.parse()).collect::<Result<Vec<Reference>>>()?;
                loaded.push(self.load_one(what, &Here, &root, tags, options)?);
            }
            Ok(loaded)
        })
    }

    /// What was written and no image needs is deleted: all of it after a failure, else what archives have besides images.
    fn all_or_nothing<T>(&self, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let adding = self.adding()?;
        let result = work();
        drop(adding);
        self.collect(Partial::Keep)?;
        result
    }

    fn load_listed(
        &self,
        what: &str,
        index: &[u8],
        source: &dyn Source,
        options: Options<'_>,
    ) -> Result<Vec<Loaded>> {
        let mut loaded: Vec<Loaded> = vec![];
        for image in layout::listed(what, index)? {
            loaded.push(self.load_one(what, source, &image.root, image.tags, options)?);
        }
        Ok(loaded)
    }

    fn load_one(
        &self,
        what: &str,
        source: &dyn Source,
        root: &Descriptor,
        tags: Vec<Reference>,
        options: Options<'_>,
    ) -> Result<Loaded> {
        let shown = tags.first().map_or_else(|| what.to_owned(), Reference::familiar);
        let names = Names { shown, tags: tags.clone(), digests: vec![] };
        Ok(Loaded { id: bring_in(self, source, root, names, options)?, names: tags })
    }

    /// Puts all files of an archive into the store. Nothing is written by the names in the archive.
    fn unpack_archive(&self, what: &str, input: impl Read + Send, options: Options<'_>) -> Result<Contents> {
        let input = Bounded { inner: decoder(input)?, left: options.limits.layer_bytes };
        let mut archive = Reader::new(BufReader::with_capacity(BUFFER_BYTES, input));
        let mut contents = Contents::default();
        let mut entries = 0;
        while let Some(entry) = archive.next()? {
            entries += 1;
            if entries > options.limits.layer_entries {
                return Err(Error::Limit {
                    what: what.to_owned(),
                    limit: options.limits.layer_entries,
                    unit: "entries",
                    hint: "no archive of images has that many",
                });
            }
            self.keep_entry(&entry, &mut archive, &mut contents, options.progress)?;
        }
        Ok(contents)
    }

    fn keep_entry<R: std::io::BufRead>(
        &self,
        entry: &Entry,
        archive: &mut Reader<R>,
        contents: &mut Contents,
        progress: &dyn Progress,
    ) -> Result<()> {
        let name = String::from_utf8_lossy(&entry.path).trim_start_matches("./").to_owned();
        match entry.kind {
            Kind::File => {}
            Kind::Symlink | Kind::HardLink => {
                let target = String::from_utf8_lossy(&entry.link).into_owned();
                // A hard link's target is relative to the archive, a symbolic link's to its folder.
                let target = match entry.kind {
                    Kind::HardLink => target,
                    _ => beside(&name, &target),
                };
                contents.links.insert(name, target);
                return Ok(());
            }
            _ => return Ok(()),
        }
        if entry.sparse.is_some() {
            let problem = EntryProblem::Header("it is sparse, which no archive of images is".to_owned());
            return Err(Error::Entry { entry: name, problem });
        }
        let size = archive.remaining();
        if name.ends_with(".json") && size <= DOCUMENT_BYTES {
            let mut text = Vec::with_capacity(usize::try_from(size).unwrap_or(0));
            archive.data(|bytes| {
                text.extend_from_slice(bytes);
                Ok(())
            })?;
            contents.documents.insert(name, text);
            return Ok(());
        }
        let digest = match name.strip_prefix("blobs/sha256/").map(Digest::from_hex) {
            Some(Ok(digest)) => {
                if let Some(mut writer) = self.blob_writer(&digest, size)? {
                    writer.restart()?;
                    archive.data(|bytes| writer.write(bytes))?;
                    writer.finish()?;
                }
                progress.report(&digest, Step::Fetched);
                digest
            }
            _ => {
                let mut writer = self.anonymous_writer()?;
                archive.data(|bytes| writer.write(bytes))?;
                writer.finish()?
            }
        };
        contents.files.insert(name, (digest, size));
        Ok(())
    }

    /// Makes the OCI manifest that an image of `docker save` does not have.
    fn docker_manifest(&self, what: &str, contents: &Contents, image: &DockerImage) -> Result<Descriptor> {
        let missing = |name: &str| Error::Unusable {
            what: what.to_owned(),
            reason: format!("its manifest.json speaks of {name:?}, which is not in it"),
        };
        let (config, config_size) = match contents.documents.get(&image.config) {
            Some(text) => (self.write_blob(text)?, text.len() as u64),
            None => contents.file(&image.config).ok_or_else(|| missing(&image.config))?,
        };
        let mut layers = vec![];
        for name in &image.layers {
            let (digest, size) = contents.file(name).ok_or_else(|| missing(name))?;
            layers.push(serde_json::json!({
                "mediaType": "application/vnd.oci.image.layer.v1.tar", "digest": digest, "size": size,
            }));
        }
        let manifest = serde_json::json!({
            "schemaVersion": 2,
            "mediaType": manifest::MANIFEST_TYPES[1],
            "config": {
                "mediaType": "application/vnd.oci.image.config.v1+json", "digest": config, "size": config_size,
            },
            "layers": layers,
        })
        .to_string();
        let digest = self.write_blob(manifest.as_bytes())?;
        let descriptor = serde_json::json!({
            "mediaType": manifest::MANIFEST_TYPES[1], "digest": digest, "size": manifest.len(),
        });
        serde_json::from_value(descriptor).map_err(Error::malformed("descriptor"))
    }
}

impl Contents {
    fn file(&self, name: &str) -> Option<(Digest, u64)> {
        // `docker save` links layers that images share; a link to a link is nothing that it makes.
        self.files.get(name).or_else(|| self.files.get(self.links.get(name)?)).cloned()
    }
}

/// The blobs were put into the store when the archive was read.
#[derive(Debug)]
struct Here;

impl Source for Here {
    fn fetch(
        &self,
        store: &Store,
        _kind: BlobKind,
        blob: &Digest,
        size: u64,
        _progress: &dyn Progress,
    ) -> Result<()> {
        if !store.has_blob(blob) {
            return Err(Error::Unusable {
                what: "the archive".to_owned(),
                reason: format!("blob {blob} is not in it"),
            });
        }
        store.check_size(blob, size)
    }
}

/// Ends with an error when the archive as a whole decompresses to more than a layer may.
struct Bounded<R> {
    inner: R,
    left: u64,
}

impl<R: Read> Read for Bounded<R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.left = self.left.checked_sub(length as u64).ok_or_else(|| {
            std::io::Error::other(
                "it is larger than the limit; if you trust it, raise it with --max-layer-size",
            )
        })?;
        Ok(length)
    }
}

/// `target` relative to the folder of `name`, as text: nothing is opened by it.
fn beside(name: &str, target: &str) -> String {
    let mut parts: Vec<&str> = name.split('/').collect();
    parts.pop();
    for part in target.split('/') {
        match part {
            "" | "." => {}
            ".." => {
                parts.pop();
            }
            part => parts.push(part),
        }
    }
    parts.join("/")
}
