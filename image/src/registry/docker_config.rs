//! Docker's `config.json`: which credentials to use for a registry.

use std::collections::HashMap;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use crate::error::{Error, Result};
use crate::reference::DEFAULT_REGISTRY;

/// Docker Hub's key in the file.
const DEFAULT_REGISTRY_KEY: &str = "https://index.docker.io/v1/";
/// User name under which helpers keep identity tokens.
const TOKEN_USER: &str = "<token>";

/// What to show to a registry.
#[derive(Clone, PartialEq, Eq)]
pub(super) enum Credentials {
    /// Nothing.
    Anonymous,
    /// A user's name and password.
    Password { user: String, password: String },
    /// To be exchanged for an access token (OAuth2 refresh token).
    IdentityToken(String),
    /// To be sent as it is.
    RegistryToken(String),
}

/// The file, as far as it is needed here.
#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: HashMap<String, AuthEntry>,
    cred_helpers: HashMap<String, String>,
    creds_store: String,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AuthEntry {
    auth: String,
    username: String,
    password: String,
    identitytoken: String,
    registrytoken: String,
}

/// What `docker-credential-X get` prints.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperReply {
    username: String,
    secret: String,
}

/// Path of the file: in `$DOCKER_CONFIG`, or in `.docker` of the home folder.
pub(super) fn path() -> PathBuf {
    let folder = std::env::var_os("DOCKER_CONFIG").filter(|folder| !folder.is_empty()).map(PathBuf::from);
    let folder = folder.unwrap_or_else(|| {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/root".into());
        Path::new(&home).join(".docker")
    });
    folder.join("config.json")
}

/// The credentials for `registry`; a missing file means none.
///
/// # Errors
/// The file is damaged, or a credential helper fails.
pub(super) fn credentials(registry: &str) -> Result<Credentials> {
    let path = path();
    let text = match fs::read(&path) {
        Ok(text) => text,
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Credentials::Anonymous);
        }
        Err(error) => return Err(Error::io("read", path)(error)),
    };
    let config: ConfigFile =
        serde_json::from_slice(&text).map_err(Error::malformed(path.display().to_string()))?;
    config.find(registry, &path)
}

impl ConfigFile {
    fn find(&self, registry: &str, path: &Path) -> Result<Credentials> {
        let key = if registry == DEFAULT_REGISTRY { DEFAULT_REGISTRY_KEY } else { registry };
        let helper = self.cred_helpers.get(key).or_else(|| self.cred_helpers.get(registry));
        if let Some(helper) = helper.or(Some(&self.creds_store)).filter(|helper| !helper.is_empty()) {
            return ask_helper(helper, key);
        }
        let entry = self.auths.get(key).or_else(|| {
            self.auths
                .iter()
                .find(|(other, _)| host_of_key(other) == host_of_key(key))
                .map(|(_, entry)| entry)
        });
        entry.map_or(Ok(Credentials::Anonymous), |entry| entry.credentials(registry, path))
    }
}

impl AuthEntry {
    fn credentials(&self, registry: &str, path: &Path) -> Result<Credentials> {
        if !self.registrytoken.is_empty() {
            return Ok(Credentials::RegistryToken(self.registrytoken.clone()));
        }
        if !self.identitytoken.is_empty() {
            return Ok(Credentials::IdentityToken(self.identitytoken.clone()));
        }
        if self.auth.is_empty() {
            return Ok(match self.username.as_str() {
                "" => Credentials::Anonymous,
                user => Credentials::Password { user: user.to_owned(), password: self.password.clone() },
            });
        }
        let unusable = || Error::Unusable {
            what: format!("the entry for {registry} in {}", path.display()),
            reason: "its `auth` is not the base64 form of USER:PASSWORD; log in again".to_owned(),
        };
        let text = STANDARD.decode(&self.auth).ok().and_then(|bytes| String::from_utf8(bytes).ok());
        let text = text.ok_or_else(unusable)?;
        let (user, password) = text.split_once(':').ok_or_else(unusable)?;
        // Old versions of Docker padded with zero bytes.
        let password = password.trim_end_matches('\0');
        Ok(Credentials::Password { user: user.to_owned(), password: password.to_owned() })
    }
}

/// Host of a key, which may be a URL (`https://host/v1/`).
fn host_of_key(key: &str) -> &str {
    let rest = key.split_once("://").map_or(key, |(_, rest)| rest);
    rest.split('/').next().unwrap_or(rest)
}

/// Asks a credential helper (docker-credential-helpers, "get"): the key on its standard input, JSON on its output.
fn ask_helper(helper: &str, key: &str) -> Result<Credentials> {
    let program = format!("docker-credential-{helper}");
    let failed = |reason: String| Error::Helper { helper: program.clone(), registry: key.to_owned(), reason };
    let mut child = Command::new(&program)
        .arg("get")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| failed(error.to_string()))?;
    if let Some(mut input) = child.stdin.take() {
        // A helper that does not read its input says why in its output.
        let _ = writeln!(input, "{key}");
    }
    let output = child.wait_with_output().map_err(|error| failed(error.to_string()))?;
    if !output.status.success() {
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).trim().to_owned();
        if said.contains("credentials not found") {
            return Ok(Credentials::Anonymous);
        }
        return Err(failed(said));
    }
    let reply: HelperReply = serde_json::from_slice(&output.stdout)
        .map_err(|_| failed("its output is not what a helper prints".into()))?;
    Ok(match reply.username.as_str() {
        TOKEN_USER => Credentials::IdentityToken(reply.secret),
        user => Credentials::Password { user: user.to_owned(), password: reply.secret },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(json: &str, registry: &str) -> Result<Credentials> {
        serde_json::from_str::<ConfigFile>(json).unwrap().find(registry, Path::new("config.json"))
    }

    fn password(user: &str, password: &str) -> Credentials {
        Credentials::Password { user: user.to_owned(), password: password.to_owned() }
    }

    #[test]
    fn entries_are_found_by_host_url_and_for_docker_hub() {
        let json = r#"{"auths": {
            "https://index.docker.io/v1/": {"auth": "aHViOnNlY3JldA=="},
            "localhost:5000": {"auth": "dTpwOnE="},
            "https://a.example/v1/": {"username": "x", "password": "y"},
            "b.example": {"auth": "dTpw", "identitytoken": "t"},
            "c.example": {}
        }, "other": 1}"#;
        assert!(find(json, "docker.io").unwrap() == password("hub", "secret"));
        assert!(find(json, "localhost:5000").unwrap() == password("u", "p:q"));
        assert!(find(json, "a.example").unwrap() == password("x", "y"));
        assert!(find(json, "b.example").unwrap() == Credentials::IdentityToken("t".to_owned()));
        assert!(find(json, "c.example").unwrap() == Credentials::Anonymous);
        assert!(find(json, "d.example").unwrap() == Credentials::Anonymous);
        assert!(find("{}", "docker.io").unwrap() == Credentials::Anonymous);
    }

    #[test]
    fn damaged_entries_and_missing_helpers_are_errors() {
        for auth in ["***", "dXNlcg=="] {
            let json = format!(r#"{{"auths": {{"a.example": {{"auth": "{auth}"}}}}}}"#);
            assert!(matches!(find(&json, "a.example"), Err(Error::Unusable { .. })), "{auth}");
        }
        let json = r#"{"credsStore": "there-is-no-such-helper"}"#;
        assert!(matches!(find(json, "a.example"), Err(Error::Helper { .. })));
    }
}
