//! Image names as Docker reads them.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::{Error, Result};

/// Registry of names that do not say one.
pub const DEFAULT_REGISTRY: &str = "docker.io";
const DEFAULT_TAG: &str = "latest";
/// Docker Hub's namespace of names with one component.
const OFFICIAL_NAMESPACE: &str = "library";
/// Longest repository name, registry included (distribution/reference).
const NAME_MAX: usize = 255;
const TAG_MAX: usize = 128;

/// A full image name: registry, repository, and a tag, a digest or both.
///
/// `nginx` is `docker.io/library/nginx:latest`. The grammar is that of distribution/reference, which Docker uses;
/// it is parsed by hand because compiling its regular expression costs more than a container's start.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Reference {
    registry: String,
    repository: String,
    tag: Option<String>,
    digest: Option<Digest>,
}

impl Reference {
    /// Host, and port if there is one, of the registry: `docker.io`, `localhost:5000`.
    pub fn registry(&self) -> &str {
        &self.registry
    }

    /// Path in the registry: `library/nginx`.
    pub fn repository(&self) -> &str {
        &self.repository
    }

    /// The tag; absent in a name with only a digest.
    pub fn tag(&self) -> Option<&str> {
        self.tag.as_deref()
    }

    /// Digest of the manifest or index, when the name pins one.
    pub fn digest(&self) -> Option<&Digest> {
        self.digest.as_ref()
    }

    /// Registry and repository without tag and digest: `docker.io/library/nginx`.
    pub fn name(&self) -> String {
        format!("{}/{}", self.registry, self.repository)
    }

    /// Registry and repository as users write them: `nginx`, `me/app`, `localhost:5000/app`.
    pub fn familiar_name(&self) -> String {
        if self.registry != DEFAULT_REGISTRY {
            return self.name();
        }
        match self.repository.strip_prefix("library/") {
            Some(short) if !short.contains('/') => short.to_owned(),
            _ => self.repository.clone(),
        }
    }

    /// The whole name as users write it: `nginx:latest`, `nginx@sha256:...`.
    pub fn familiar(&self) -> String {
        self.with_suffix(self.familiar_name())
    }

    /// The same repository pinned to `digest`, without a tag.
    #[must_use]
    pub fn pinned(&self, digest: Digest) -> Self {
        Self { tag: None, digest: Some(digest), ..self.clone() }
    }

    /// The same name without its digest; the tag is `latest` when there is none.
    #[must_use]
    pub fn tagged(&self) -> Self {
        let tag = self.tag.clone().unwrap_or_else(|| DEFAULT_TAG.to_owned());
        Self { tag: Some(tag), digest: None, ..self.clone() }
    }

    fn with_suffix(&self, mut name: String) -> String {
        if let Some(tag) = &self.tag {
            name = format!("{name}:{tag}");
        }
        if let Some(digest) = &self.digest {
            name = format!("{name}@{digest}");
        }
        name
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.with_suffix(self.name()))
    }
}

impl TryFrom<String> for Reference {
    type Error = Error;

    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Reference> for String {
    fn from(reference: Reference) -> Self {
        reference.to_string()
    }
}

impl FromStr for Reference {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let invalid = |reason| Error::InvalidReference { name: text.to_owned(), reason };
        if text.is_empty() {
            return Err(invalid("it is empty"));
        }
        if text.len() == 64 && Digest::from_hex(text).is_ok() {
            return Err(invalid("64 hex digits are an image id, not a name"));
        }
        let (rest, digest) = match text.split_once('@') {
            Some((rest, digest)) => (rest, Some(digest)),
            None => (text, None),
        };
        let digest = digest.map(str::parse).transpose().map_err(|_| {
            invalid("what follows the @ must be a digest: sha256: and 64 lower-case hex digits")
        })?;
        // A colon in the last component starts a tag; one before a slash is a registry's port.
        let (name, tag) = match rest.rfind(':') {
            Some(at) if !rest[at..].contains('/') => (&rest[..at], Some(&rest[at + 1..])),
            _ => (rest, None),
        };
        if tag.is_some_and(|tag| !is_tag(tag)) {
            return Err(invalid(
                "a tag has 1 to 128 letters, digits, `_`, `.` and `-`, and starts with neither `.` nor `-`",
            ));
        }
        let (registry, path) = split_registry(name);
        if !is_registry(registry) {
            return Err(invalid("the registry is not a host name with an optional port"));
        }
        if path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            return Err(invalid("repository names are lower-case"));
        }
        if !path.split('/').all(is_component) {
            return Err(invalid(
                "the parts of a repository name are lower-case letters and digits, with single `.`, `_`, `__` or dashes between them",
            ));
        }
        let registry = match registry {
            "index.docker.io" => DEFAULT_REGISTRY,
            other => other,
        };
        let repository = if registry == DEFAULT_REGISTRY && !path.contains('/') {
            format!("{OFFICIAL_NAMESPACE}/{path}")
        } else {
            path.to_owned()
        };
        if registry.len() + 1 + repository.len() > NAME_MAX {
            return Err(invalid("it has more than 255 characters"));
        }
        let tag = match (tag, &digest) {
            (Some(tag), _) => Some(tag.to_owned()),
            (None, None) => Some(DEFAULT_TAG.to_owned()),
            (None, Some(_)) => None,
        };
        Ok(Self { registry: registry.to_owned(), repository, tag, digest })
    }
}

/// The first component is a registry only when it cannot be a namespace: it has a dot, a port or an upper-case letter,
/// or is `localhost`.
fn split_registry(name: &str) -> (&str, &str) {
    match name.split_once('/') {
        Some((first, rest))
            if first.contains(['.', ':'])
                || first == "localhost"
                || first.bytes().any(|byte| byte.is_ascii_uppercase()) =>
        {
            (first, rest)
        }
        _ => (DEFAULT_REGISTRY, name),
    }
}

fn is_tag(tag: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=TAG_MAX).contains(&tag.len())
        && tag.bytes().next().is_some_and(word)
        && tag.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

fn is_registry(registry: &str) -> bool {
    // An IPv6 address in brackets, or labels with dots between; either may have a port.
    let (host, port) = match registry.rfind(':') {
        Some(at) if !registry[at..].contains(']') => (&registry[..at], Some(&registry[at + 1..])),
        _ => (registry, None),
    };
    if port.is_some_and(|port| port.parse::<u16>().is_err()) {
        return false;
    }
    if let Some(address) = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) {
        return address.parse::<std::net::Ipv6Addr>().is_ok();
    }
    host.split('.').all(|label| {
        !label.is_empty()
            && !label.starts_with('-')
            && !label.ends_with('-')
            && label.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'-')
    })
}

fn is_component(component: &str) -> bool {
    let alphanumeric = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    let bytes = component.as_bytes();
    let ends = bytes.first().zip(bytes.last());
    ends.is_some_and(|(first, last)| alphanumeric(*first) && alphanumeric(*last))
        && component.split(|c: char| alphanumeric(c as u8) && c.is_ascii()).all(|separator| {
            matches!(separator, "" | "." | "_" | "__") || separator.bytes().all(|b| b == b'-')
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEX: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

    #[test]
    fn names_are_read_as_docker_reads_them() {
        let pinned = format!("nginx@sha256:{HEX}");
        let both = format!("localhost:5000/a/b:1@sha256:{HEX}");
        let cases = [
            ("nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("nginx:1.25", "docker.io/library/nginx:1.25", "nginx:1.25"),
            ("me/app", "docker.io/me/app:latest", "me/app:latest"),
            ("docker.io/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("index.docker.io/library/nginx", "docker.io/library/nginx:latest", "nginx:latest"),
            ("localhost/app", "localhost/app:latest", "localhost/app:latest"),
            ("localhost:5000/app:v2", "localhost:5000/app:v2", "localhost:5000/app:v2"),
            ("test.com:5000", "docker.io/library/test.com:5000", "test.com:5000"),
            ("ghcr.io/o/r__x/y-z.w:Tag", "ghcr.io/o/r__x/y-z.w:Tag", "ghcr.io/o/r__x/y-z.w:Tag"),
            ("Host/app", "Host/app:latest", "Host/app:latest"),
            ("[::1]:5000/app", "[::1]:5000/app:latest", "[::1]:5000/app:latest"),
            ("a--b", "docker.io/library/a--b:latest", "a--b:latest"),
            (&pinned, &format!("docker.io/library/nginx@sha256:{HEX}"), &pinned),
            (&both, &both, &both),
        ];
        for (text, full, familiar) in cases {
            let reference: Reference = text.parse().unwrap();
            assert_eq!(reference.to_string(), full, "{text}");
            assert_eq!(reference.familiar(), familiar, "{text}");
            assert_eq!(full.parse::<Reference>().unwrap(), reference, "{text} does not survive printing");
        }
    }

    #[test]
    fn names_that_docker_refuses_are_refused() {
        let long = "a".repeat(256);
        let tag = format!("a:{}", "t".repeat(129));
        for text in [
            "",
            "Nginx",
            "a b",
            "a//b",
            "/a",
            "a/",
            "a:",
            "a:-x",
            "a@",
            "a@sha256:12",
            "-a",
            "a-",
            "a..b",
            "a___b",
            "a._b",
            "../etc",
            "host:port/a",
            "host:99999/a",
            "-h.com/a",
            "h..com/a",
            "\u{e9}",
            "a:b:c",
            "[::g]:1/a",
            HEX,
            &long,
            &tag,
        ] {
            assert!(text.parse::<Reference>().is_err(), "{text:?}");
        }
    }
}
