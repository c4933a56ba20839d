//! Where a registry is, and which addresses may be used without TLS.

use std::net::IpAddr;

use ureq::http::Uri;

use crate::error::{Error, Result};
use crate::reference::DEFAULT_REGISTRY;

/// Docker Hub's registry is not at the host that its names have.
const DEFAULT_REGISTRY_HOST: &str = "registry-1.docker.io";

/// Host and port to connect to for a registry's name.
pub(super) fn host_of(registry: &str) -> &str {
    if registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_HOST } else { registry }
}

/// Whether `host` (without a port) is this machine's loopback, by its name alone: `localhost` (RFC 6761, section 6.3),
/// 127.0.0.0/8 or ::1.
pub(super) fn is_loopback(host: &str) -> bool {
    let address = host.trim_start_matches('[').trim_end_matches(']');
    address.eq_ignore_ascii_case("localhost") || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

/// Refuses plain HTTP to other machines, also where a redirect or a token service leads to one.
pub(super) fn check(url: &str) -> Result<Uri> {
    let insecure = || Error::Insecure { url: url.to_owned() };
    let uri: Uri = url.parse().map_err(|_| Error::BadUrl { url: url.to_owned() })?;
    match (uri.scheme_str(), uri.host()) {
        (Some("https"), Some(_)) => Ok(uri),
        (Some("http"), Some(host)) if is_loopback(host) => Ok(uri),
        (Some("http"), _) => Err(insecure()),
        _ => Err(Error::BadUrl { url: url.to_owned() }),
    }
}

/// Scheme, host and port: what must be the same for credentials to be sent on.
pub(super) fn origin(uri: &Uri) -> (Option<&str>, Option<&str>, Option<u16>) {
    let default = if uri.scheme_str() == Some("https") { 443 } else { 80 };
    (uri.scheme_str(), uri.host(), Some(uri.port_u16().unwrap_or(default)))
}

/// `location` of a redirect, which may be relative to `from`.
pub(super) fn resolve(from: &Uri, location: &str) -> String {
    if location.contains("://") {
        return location.to_owned();
    }
    let scheme = from.scheme_str().unwrap_or("https");
    let authority = from.authority().map_or("", |authority| authority.as_str());
    match location.strip_prefix("//") {
        Some(rest) => format!("{scheme}://{rest}"),
        None if location.starts_with('/') => format!("{scheme}://{authority}{location}"),
        None => {
            let folder = from.path().rfind('/').map_or("", |at| &from.path()[..at]);
            format!("{scheme}://{authority}{folder}/{location}")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_http_is_for_loopback_only() {
        for url in
            ["https://a.example/v2/", "http://localhost:5000/v2/", "http://127.0.0.2/", "http://[::1]:5000/"]
        {
            assert!(check(url).is_ok(), "{url}");
        }
        for url in [
            "http://a.example/",
            "http://10.0.0.1:5000/",
            "http://localhost.evil.example/",
            "http://127.0.0.1.evil.example/",
        ] {
            assert!(matches!(check(url), Err(Error::Insecure { .. })), "{url}");
        }
        for url in ["ftp://localhost/", "/v2/", "", "file:///etc/passwd"] {
            assert!(matches!(check(url), Err(Error::BadUrl { .. })), "{url}");
        }
    }

    #[test]
    fn redirects_may_be_relative() {
        let from: Uri = "https://a.example:5000/v2/x/blobs/y?z".parse().unwrap();
        assert_eq!(resolve(&from, "/b?c"), "https://a.example:5000/b?c");
        assert_eq!(resolve(&from, "b"), "https://a.example:5000/v2/x/blobs/b");
        assert_eq!(resolve(&from, "//c.example/d"), "https://c.example/d");
        assert_eq!(resolve(&from, "http://c.example/d"), "http://c.example/d");
    }
}
