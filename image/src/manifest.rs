//! Manifests and indexes: which of them is for this machine, and whether one is of an image at all.

use oci_spec::image::{Descriptor, ImageConfiguration, ImageIndex, ImageManifest, Platform};
use serde::Deserialize;

use crate::digest::Digest;
use crate::error::{Error, Result};

/// Media types of manifests and indexes, as asked for from registries.
pub(crate) const MANIFEST_TYPES: [&str; 4] = [
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.docker.distribution.manifest.v2+json",
];

/// What a digest or a tag leads to.
#[derive(Debug)]
pub(crate) enum Document {
    /// One image.
    Manifest(Box<ImageManifest>),
    /// Images for several platforms.
    Index(Box<ImageIndex>),
}

impl Document {
    /// Reads a manifest or an index; `what` names it in messages. The fields decide which it is, not the media type that a
    /// registry or an archive gives it: a document with both kinds of fields is refused (CVE-2021-41190).
    pub(crate) fn parse(what: &str, text: &[u8]) -> Result<Self> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Shape {
            schema_version: u32,
            manifests: Option<serde::de::IgnoredAny>,
            config: Option<serde::de::IgnoredAny>,
            layers: Option<serde::de::IgnoredAny>,
        }
        let unusable = |reason: &str| Error::Unusable { what: what.to_owned(), reason: reason.to_owned() };
        let shape: Shape = serde_json::from_slice(text).map_err(Error::malformed(what))?;
        if shape.schema_version != 2 {
            return Err(unusable("its schema version is not 2; push the image again with a current tool"));
        }
        match (shape.manifests.is_some(), shape.config.is_some() || shape.layers.is_some()) {
            (true, true) => Err(unusable("it is an index and a manifest at once")),
            (true, false) => {
                let index = serde_json::from_slice(text).map_err(Error::malformed(what))?;
                Ok(Self::Index(Box::new(index)))
            }
            (false, _) => {
                let manifest = serde_json::from_slice(text).map_err(Error::malformed(what))?;
                Ok(Self::Manifest(Box::new(manifest)))
            }
        }
    }
}

/// The digest of a descriptor.
///
/// # Errors
/// It has another algorithm than SHA-256.
pub(crate) fn digest_of(descriptor: &Descriptor) -> Result<Digest> {
    descriptor.digest().to_string().parse()
}

/// The entries of `descriptors` that are for this machine; `name` is for the message when there are none.
pub(crate) fn for_this_platform<'a>(name: &str, descriptors: &'a [Descriptor]) -> Result<&'a Descriptor> {
    let wanted = (std::env::consts::OS, go_arch(std::env::consts::ARCH));
    let fits = |platform: &Platform| {
        platform.os().to_string() == wanted.0 && platform.architecture().to_string() == wanted.1
    };
    // A plain amd64 before one that asks for newer processors (variant v3).
    let mut fitting = descriptors.iter().filter(|entry| entry.platform().as_ref().is_some_and(fits));
    let first = fitting.clone().find(|entry| {
        entry.platform().as_ref().and_then(|platform| platform.variant().as_ref()).is_none_or(|v| v == "v1")
    });
    if let Some(found) = first.or_else(|| fitting.next()) {
        return Ok(found);
    }
    // An index that says nothing of platforms has one image.
    if let [only] = descriptors
        && only.platform().is_none()
    {
        return Ok(only);
    }
    let available: Vec<String> = descriptors
        .iter()
        .filter_map(|entry| entry.platform().as_ref())
        // Build attestations are listed with this platform.
        .filter(|platform| platform.os().to_string() != "unknown")
        .map(describe)
        .collect();
    Err(Error::Platform {
        name: name.to_owned(),
        wanted: format!("{}/{}", wanted.0, wanted.1),
        available: if available.is_empty() { "none".to_owned() } else { available.join(", ") },
    })
}

/// Checks that a configuration is of an image that can run here, and gives its layers' diff ids.
pub(crate) fn check_config(name: &str, config: &ImageConfiguration) -> Result<Vec<Digest>> {
    let wanted = (std::env::consts::OS, go_arch(std::env::consts::ARCH));
    let has = (config.os().to_string(), config.architecture().to_string());
    // Images made by hand often leave both empty.
    let fits = |has: &str, wanted: &str| has.is_empty() || has == wanted;
    if !fits(&has.0, wanted.0) || !fits(&has.1, wanted.1) {
        return Err(Error::Platform {
            name: name.to_owned(),
            wanted: format!("{}/{}", wanted.0, wanted.1),
            available: format!("{}/{}", has.0, has.1),
        });
    }
    config.rootfs().diff_ids().iter().map(|id| id.parse()).collect()
}

fn describe(platform: &Platform) -> String {
    match platform.variant() {
        Some(variant) => format!("{}/{}/{variant}", platform.os(), platform.architecture()),
        None => format!("{}/{}", platform.os(), platform.architecture()),
    }
}

/// Go's name of an architecture, which image-spec uses, from Rust's.
fn go_arch(arch: &str) -> &str {
    match arch {
        "x86_64" => "amd64",
        "aarch64" => "arm64",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn index(platforms: &[&str]) -> Box<ImageIndex> {
        let entries: Vec<_> = platforms
            .iter()
            .enumerate()
            .map(|(number, platform)| {
                let mut parts = platform.split('/');
                let digest = Digest::of(&[number as u8]).to_string();
                serde_json::json!({
                    "mediaType": MANIFEST_TYPES[1], "size": 1, "digest": digest,
                    "platform": {"os": parts.next(), "architecture": parts.next(), "variant": parts.next()},
                })
            })
            .collect();
        let text = serde_json::json!({"schemaVersion": 2, "manifests": entries}).to_string();
        match Document::parse("test", text.as_bytes()).unwrap() {
            Document::Index(index) => index,
            Document::Manifest(_) => panic!("an index was taken for a manifest"),
        }
    }

    #[test]
    fn this_platform_is_picked_and_the_plain_variant_first() {
        let index = index(&["linux/arm64/v8", "linux/amd64/v3", "linux/amd64", "unknown/unknown"]);
        let found = for_this_platform("x", index.manifests()).unwrap();
        assert_eq!(digest_of(found).unwrap(), Digest::of(&[2]));
    }

    #[test]
    fn without_this_platform_the_error_lists_what_there_is() {
        let index = index(&["linux/arm64/v8", "windows/amd64", "unknown/unknown"]);
        let error = for_this_platform("x", index.manifests()).unwrap_err().to_string();
        assert_eq!(error, "x has no image for linux/amd64; it has: linux/arm64/v8, windows/amd64");
    }

    #[test]
    fn a_document_of_both_kinds_is_refused() {
        let text = br#"{"schemaVersion": 2, "manifests": [], "layers": []}"#;
        assert!(matches!(Document::parse("x", text), Err(Error::Unusable { .. })));
        assert!(matches!(Document::parse("x", b"{\"schemaVersion\": 1}"), Err(Error::Unusable { .. })));
        assert!(matches!(Document::parse("x", b"[]"), Err(Error::Malformed { .. })));
    }
}
