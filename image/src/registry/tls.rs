//! Which certificates are trusted: the host's, those of SSL_CERT_FILE and SSL_CERT_DIR in their place, and Docker's folder for one
//! registry beside them.

use std::fs;
use std::path::Path;

use ureq::tls::{Certificate, PemItem, RootCerts, TlsConfig, parse_pem};

use crate::error::{Error, Result};

/// Where Docker looks for the certificates of one registry's own authority.
const REGISTRY_CERTS: &str = "/etc/docker/certs.d";

/// TLS for one registry. A host without any certificates gets those of Mozilla that this binary brings.
pub(super) fn config(registry: &str) -> Result<TlsConfig> {
    let mut roots: Vec<Certificate<'static>> = rustls_native_certs::load_native_certs()
        .certs
        .iter()
        .map(|der| Certificate::from_der(der).to_owned())
        .collect();
    roots.extend(registry_certificates(&Path::new(REGISTRY_CERTS).join(registry))?);
    let roots = if roots.is_empty() { RootCerts::WebPki } else { RootCerts::new_with_certs(&roots) };
    Ok(TlsConfig::builder().root_certs(roots).build())
}

fn registry_certificates(folder: &Path) -> Result<Vec<Certificate<'static>>> {
    let Ok(entries) = fs::read_dir(folder) else { return Ok(vec![]) };
    let mut certificates = vec![];
    for entry in entries.filter_map(|entry| entry.ok()) {
        let path = entry.path();
        if path.extension().is_none_or(|extension| extension != "crt") {
            continue;
        }
        let text = fs::read(&path).map_err(Error::io("read", &path))?;
        certificates.extend(parse_pem(&text).filter_map(|item| match item {
            Ok(PemItem::Certificate(certificate)) => Some(certificate),
            _ => None,
        }));
    }
    Ok(certificates)
}
