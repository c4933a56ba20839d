//! Answering a registry's challenge: basic credentials, or a token from the service that it names (distribution's token
//! authentication specification, and RFC 6749 section 6 for identity tokens).

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::Deserialize;

use super::client::Http;
use super::docker_config::Credentials;
use crate::error::{Error, Result};

const CLIENT_ID: &str = "rkvm";

/// What a registry wants to see.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    Basic,
    Bearer { realm: String, service: Option<String> },
}

#[derive(Deserialize)]
struct TokenReply {
    #[serde(default)]
    token: String,
    #[serde(default)]
    access_token: String,
}

impl Challenge {
    /// Reads `WWW-Authenticate` headers; a token service is preferred.
    pub(super) fn parse<'a>(headers: impl Iterator<Item = &'a str>) -> Option<Self> {
        let mut basic = None;
        for header in headers {
            for challenge in http_auth::parse_challenges(header).unwrap_or_default() {
                if challenge.scheme.eq_ignore_ascii_case("basic") {
                    basic = Some(Self::Basic);
                }
                if !challenge.scheme.eq_ignore_ascii_case("bearer") {
                    continue;
                }
                let parameter = |name: &str| {
                    let found = challenge.params.iter().find(|(key, _)| key.eq_ignore_ascii_case(name));
                    found.map(|(_, value)| value.to_unescaped())
                };
                if let Some(realm) = parameter("realm") {
                    return Some(Self::Bearer { realm, service: parameter("service") });
                }
            }
        }
        basic
    }

    /// The `Authorization` header that answers it; `None` if there are no credentials for it.
    pub(super) fn answer(
        &self,
        http: &Http,
        repository: &str,
        credentials: &Credentials,
    ) -> Result<Option<String>> {
        match (self, credentials) {
            (_, Credentials::RegistryToken(token)) => Ok(Some(format!("Bearer {token}"))),
            (Self::Basic, Credentials::Password { user, password }) => Ok(Some(basic(user, password))),
            (Self::Basic, _) => Ok(None),
            (Self::Bearer { realm, service }, credentials) => {
                let scope = format!("repository:{repository}:pull");
                let token = fetch_token(http, realm, service.as_deref(), &scope, credentials)?;
                Ok(Some(format!("Bearer {token}")))
            }
        }
    }
}

fn fetch_token(
    http: &Http,
    realm: &str,
    service: Option<&str>,
    scope: &str,
    credentials: &Credentials,
) -> Result<String> {
    let mut parameters = vec![("scope", scope)];
    parameters.extend(service.map(|service| ("service", service)));
    let text = match credentials {
        Credentials::IdentityToken(token) => {
            parameters.extend([
                ("grant_type", "refresh_token"),
                ("refresh_token", token),
                ("client_id", CLIENT_ID),
            ]);
            http.post_form(realm, &parameters)?
        }
        Credentials::Password { user, password } => {
            http.get_small(&with_query(realm, &parameters), Some(&basic(user, password)))?
        }
        _ => http.get_small(&with_query(realm, &parameters), None)?,
    };
    let reply: TokenReply =
        serde_json::from_slice(&text).map_err(Error::malformed(format!("the token from {realm}")))?;
    let token = if reply.token.is_empty() { reply.access_token } else { reply.token };
    // It becomes a header.
    if token.is_empty() || token.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return Err(Error::Unusable {
            what: format!("the reply of {realm}"),
            reason: "it has no token".to_owned(),
        });
    }
    Ok(token)
}

fn with_query(realm: &str, parameters: &[(&str, &str)]) -> String {
    let separator = if realm.contains('?') { '&' } else { '?' };
    format!("{realm}{separator}{}", form(parameters))
}

/// Parameters in the form of HTML forms and queries.
pub(super) fn form(parameters: &[(&str, &str)]) -> String {
    let encoded: Vec<String> =
        parameters.iter().map(|(key, value)| format!("{key}={}", percent_encode(value))).collect();
    encoded.join("&")
}

fn percent_encode(text: &str) -> String {
    use std::fmt::Write as _;
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || matches!(byte, b'-' | b'_' | b'.' | b'~') {
            encoded.push(char::from(byte));
        } else {
            // Writing to a String cannot fail.
            let _ = write!(encoded, "%{byte:02X}");
        }
    }
    encoded
}

fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn challenges_are_read_in_any_order() {
        let bearer = |realm: &str, service: Option<&str>| {
            Some(Challenge::Bearer { realm: realm.to_owned(), service: service.map(str::to_owned) })
        };
        let parse = |header: &str| Challenge::parse([header].into_iter());
        assert_eq!(
            parse(r#"Bearer realm="https://auth.example/token",service="r.example",scope="a:b:c,d""#),
            bearer("https://auth.example/token", Some("r.example"))
        );
        assert_eq!(parse(r#"Basic realm="x", Bearer realm="https://y/""#), bearer("https://y/", None));
        assert_eq!(parse(r#"basic realm="x""#), Some(Challenge::Basic));
        assert_eq!(parse("Negotiate"), None);
        assert_eq!(parse("\u{e9}=,,,\""), None);
    }

    #[test]
    fn parameters_are_encoded() {
        assert_eq!(
            with_query("https://a/?x=1", &[("scope", "repository:a/b:pull")]),
            "https://a/?x=1&scope=repository%3Aa%2Fb%3Apull"
        );
    }
}
