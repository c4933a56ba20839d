//! `save`: an archive that is an OCI image layout and one of `docker load` at once.

use std::fs::File;
use std::io::{self, Write};

use oci_spec::image::{Descriptor, ImageManifest};
use serde_json::{Value, json};

use super::layout;
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::manifest;
use crate::reference::Reference;
use crate::store::{Image, Store};

/// An image to save, and the names to save with it.
#[derive(Debug, Clone)]
pub struct Saved {
    /// The image.
    pub image: Image,
    /// Tagged names that it gets when the archive is loaded.
    pub names: Vec<Reference>,
}

impl Store {
    /// The images that `names` mean. A name is saved with its image; an id is saved with all names that its image has, as Docker
    /// does it.
    ///
    /// # Errors
    /// As [`Store::resolve`].
    pub fn to_save(&self, names: &[String]) -> Result<Vec<Saved>> {
        let mut saved: Vec<Saved> = vec![];
        for name in names {
            let image = self.resolve(name)?;
            let tags: Vec<Reference> = match name.parse::<Reference>() {
                Ok(reference) if image.repo_tags.contains(&reference) => vec![reference],
                Ok(reference) if reference.digest().is_some() => vec![],
                _ => image.repo_tags.clone(),
            };
            match saved.iter_mut().find(|other| other.image.id == image.id) {
                Some(other) => {
                    let new: Vec<_> = tags.into_iter().filter(|tag| !other.names.contains(tag)).collect();
                    other.names.extend(new);
                }
                None => saved.push(Saved { image, names: tags }),
            }
        }
        Ok(saved)
    }

    /// Writes an archive of `images`. Blobs are as they came, so digests stay what they are.
    ///
    /// # Errors
    /// The store cannot be read, or `output` cannot be written.
    pub fn save(&self, images: &[Saved], output: impl Write) -> Result<()> {
        let mut archive = tar::Builder::new(output);
        let mut written: Vec<Digest> = vec![];
        let mut index = vec![];
        let mut docker = vec![];
        append(&mut archive, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        for Saved { image, names } in images {
            let text = self.read_blob(&image.manifest)?;
            let what = format!("manifest {}", image.manifest);
            let manifest: ImageManifest = serde_json::from_slice(&text).map_err(Error::malformed(what))?;
            let media_type = manifest.media_type().as_ref().map(ToString::to_string);
            let descriptor = json!({
                "mediaType": media_type.unwrap_or_else(|| manifest::MANIFEST_TYPES[1].to_owned()),
                "digest": image.manifest,
                "size": text.len(),
                "platform": {
                    "os": image.config.os().to_string(), "architecture": image.config.architecture().to_string(),
                },
            });
            index.extend(listings(&descriptor, names));
            docker.push(docker_entry(manifest.config(), manifest.layers(), names)?);
            let blobs = manifest.layers().iter().chain([manifest.config()]).map(manifest::digest_of);
            for blob in blobs.chain([Ok(image.manifest.clone())]) {
                let blob = blob?;
                if !written.contains(&blob) {
                    self.append_blob(&mut archive, &blob)?;
                    written.push(blob);
                }
            }
        }
        append(
            &mut archive,
            "index.json",
            json!({"schemaVersion": 2, "manifests": index}).to_string().as_bytes(),
        )?;
        append(&mut archive, "manifest.json", Value::from(docker).to_string().as_bytes())?;
        let mut output = archive.into_inner().map_err(Error::io("write", "the archive"))?;
        output.flush().map_err(Error::io("write", "the archive"))
    }

    fn append_blob(&self, archive: &mut tar::Builder<impl Write>, blob: &Digest) -> Result<()> {
        let path = self.blob_path(blob);
        let file = File::open(&path).map_err(Error::io("read", &path))?;
        let size = file.metadata().map_err(Error::io("read", &path))?.len();
        archive
            .append_data(&mut header(size), blob_name(blob), file)
            .map_err(Error::io("write to the archive", path))
    }
}

/// Entries of `index.json`: one for each name, as a descriptor can carry only one.
fn listings(descriptor: &Value, names: &[Reference]) -> Vec<Value> {
    if names.is_empty() {
        return vec![descriptor.clone()];
    }
    let named = |name: &Reference| {
        let mut named = descriptor.clone();
        named["annotations"] = layout::name_annotations(name)
            .into_iter()
            .map(|(key, value)| (key.to_owned(), Value::from(value)))
            .collect();
        named
    };
    names.iter().map(named).collect()
}

fn docker_entry(config: &Descriptor, layers: &[Descriptor], names: &[Reference]) -> Result<Value> {
    let layers =
        layers.iter().map(|layer| Ok(blob_name(&manifest::digest_of(layer)?))).collect::<Result<Vec<_>>>()?;
    Ok(json!({
        "Config": blob_name(&manifest::digest_of(config)?),
        "RepoTags": names.iter().map(Reference::familiar).collect::<Vec<_>>(),
        "Layers": layers,
    }))
}

fn blob_name(blob: &Digest) -> String {
    format!("blobs/sha256/{}", blob.hex())
}

fn append(archive: &mut tar::Builder<impl Write>, name: &str, content: &[u8]) -> Result<()> {
    let write = |error: io::Error| Error::io("write to the archive", name)(error);
    archive.append_data(&mut header(content.len() as u64), name, content).map_err(write)
}

/// Without a time, so that saving twice gives the same bytes.
fn header(size: u64) -> tar::Header {
    let mut header = tar::Header::new_gnu();
    header.set_size(size);
    header.set_mode(0o644);
    header.set_mtime(0);
    header.set_uid(0);
    header.set_gid(0);
    header
}
