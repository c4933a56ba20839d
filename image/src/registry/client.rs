//! Requests to one registry for one repository.

use std::io::Read;
use std::sync::Mutex;
use std::time::Duration;

use ureq::http::Response;
use ureq::{Agent, Body};

use super::auth::{Challenge, form};
use super::docker_config::{self, Credentials};
use super::{endpoint, tls};
use crate::digest::Digest;
use crate::error::{Error, Result};
use crate::limits::DOCUMENT_BYTES;
use crate::manifest::MANIFEST_TYPES;
use crate::reference::Reference;

const USER_AGENT: &str = concat!("rkvm/", env!("CARGO_PKG_VERSION"));
const REDIRECTS_MAX: usize = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(20);
/// A registry that says nothing for so long is not going to.
const SILENCE_TIMEOUT: Duration = Duration::from_secs(60);
/// Longest part of a registry's own message that is shown.
const MESSAGE_CHARS: usize = 300;

/// Plain requests, with the rules for redirects and transport.
pub(super) struct Http {
    agent: Agent,
    registry: String,
    /// What is being fetched, for messages.
    shown: String,
}

/// Requests for one repository, with its authorization.
pub(super) struct Client {
    http: Http,
    base: String,
    repository: String,
    credentials: Credentials,
    authorization: Mutex<Option<String>>,
}

impl Client {
    /// Finds out how to talk to the registry of `reference`.
    pub(super) fn connect(reference: &Reference) -> Result<Self> {
        let registry = reference.registry();
        let credentials = docker_config::credentials(registry)?;
        let http = Http::new(registry, &reference.familiar())?;
        let base = http.base(endpoint::host_of(registry))?;
        Ok(Self {
            http,
            base,
            repository: reference.repository().to_owned(),
            credentials,
            authorization: Mutex::default(),
        })
    }

    /// A manifest or index, by tag or digest.
    pub(super) fn manifest(&self, name: &str) -> Result<Vec<u8>> {
        let path = format!("manifests/{name}");
        let accept = MANIFEST_TYPES.join(", ");
        let response = self.get(&path, &[("Accept", &accept)])?;
        let promised = response.headers().get("docker-content-digest").and_then(|value| value.to_str().ok());
        let promised: Option<Digest> = promised.and_then(|digest| digest.parse().ok());
        let text = read_small(&format!("the manifest {name}"), response)?;
        let actual = Digest::of(&text);
        match promised.or_else(|| name.parse().ok()) {
            Some(expected) if expected != actual => Err(Error::Mismatch {
                what: format!("the manifest {name} of {}", self.http.shown),
                expected: expected.to_string(),
                actual: actual.to_string(),
            }),
            _ => Ok(text),
        }
    }

    /// A blob from byte `offset` on; the reply may begin at 0 all the same.
    pub(super) fn blob(&self, digest: &Digest, offset: u64) -> Result<Response<Body>> {
        let range = format!("bytes={offset}-");
        let headers = [("Range", range.as_str())];
        let headers = if offset > 0 { &headers[..] } else { &[] };
        self.get(&format!("blobs/{digest}"), headers)
    }

    /// How messages call the image and its registry.
    pub(super) fn http(&self) -> &Http {
        &self.http
    }

    fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Response<Body>> {
        let url = format!("{}/v2/{}/{path}", self.base, self.repository);
        let mut is_answered = false;
        loop {
            let authorization = self.authorization().clone();
            let response = self.http.get(&url, headers, authorization.as_deref())?;
            let status = response.status().as_u16();
            match status {
                200 | 206 | 416 => return Ok(response),
                401 if !is_answered => {
                    is_answered = true;
                    let challenges = response.headers().get_all("www-authenticate").into_iter();
                    let challenge = Challenge::parse(challenges.filter_map(|value| value.to_str().ok()));
                    // Replies of other requests may have brought a token meanwhile.
                    let mut current = self.authorization();
                    if *current != authorization {
                        continue;
                    }
                    let answer = challenge
                        .map(|challenge| challenge.answer(&self.http, &self.repository, &self.credentials));
                    match answer.transpose()?.flatten() {
                        Some(answer) => *current = Some(answer),
                        None => return Err(self.denied(&message(response))),
                    }
                }
                401 | 403 => return Err(self.denied(&message(response))),
                404 => {
                    return Err(Error::NotInRegistry {
                        registry: self.http.registry.clone(),
                        name: self.http.shown.clone(),
                        message: message(response),
                    });
                }
                _ => return Err(Error::Response { status, url, message: message(response) }),
            }
        }
    }

    fn denied(&self, reason: &str) -> Error {
        self.http.denied(&self.repository, reason)
    }

    fn authorization(&self) -> std::sync::MutexGuard<'_, Option<String>> {
        self.authorization.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Http {
    fn new(registry: &str, shown: &str) -> Result<Self> {
        let config = Agent::config_builder()
            .http_status_as_error(false)
            .max_redirects(0)
            .max_redirects_will_error(false)
            .user_agent(USER_AGENT)
            .timeout_resolve(Some(CONNECT_TIMEOUT))
            .timeout_connect(Some(CONNECT_TIMEOUT))
            .timeout_recv_response(Some(SILENCE_TIMEOUT))
            .timeout_per_read(Some(SILENCE_TIMEOUT))
            .tls_config(tls::config(registry)?)
            .build();
        Ok(Self { agent: config.new_agent(), registry: registry.to_owned(), shown: shown.to_owned() })
    }

    /// Scheme and host of the registry. One on this machine may speak plain HTTP; whether it does is found out by trying TLS.
    fn base(&self, host: &str) -> Result<String> {
        let secure = format!("https://{host}");
        let uri = endpoint::check(&secure)?;
        if !uri.host().is_some_and(endpoint::is_loopback) {
            return Ok(secure);
        }
        match self.agent.get(format!("{secure}/v2/")).call() {
            Ok(_) => Ok(secure),
            Err(error) if speaks_tls(&error) => Err(self.failed(error)),
            Err(error @ (ureq::Error::HostNotFound | ureq::Error::Timeout(_))) => Err(self.failed(error)),
            Err(ureq::Error::Io(error)) if error.kind() == std::io::ErrorKind::ConnectionRefused => {
                Err(self.failed(error.into()))
            }
            Err(_) => Ok(format!("http://{host}")),
        }
    }

    /// A request that follows redirects itself: each must be as secure as the first, and the authorization is not for others.
    pub(super) fn get(
        &self,
        url: &str,
        headers: &[(&str, &str)],
        authorization: Option<&str>,
    ) -> Result<Response<Body>> {
        let first = endpoint::check(url)?;
        let mut uri = first.clone();
        for _ in 0..=REDIRECTS_MAX {
            let mut request = self.agent.get(uri.clone());
            for (name, value) in headers {
                request = request.header(*name, *value);
            }
            if let Some(value) = authorization
                && endpoint::origin(&uri) == endpoint::origin(&first)
            {
                request = request.header("Authorization", value);
            }
            let response = request.call().map_err(|error| self.failed(error))?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            let location = response.headers().get("location").and_then(|value| value.to_str().ok());
            let Some(location) = location else {
                let status = response.status().as_u16();
                let message = "it redirects without saying where to".to_owned();
                return Err(Error::Response { status, url: uri.to_string(), message });
            };
            let next = endpoint::check(&endpoint::resolve(&uri, location))?;
            if uri.scheme_str() == Some("https") && next.scheme_str() != Some("https") {
                return Err(Error::Insecure { url: next.to_string() });
            }
            uri = next;
        }
        Err(Error::Response {
            status: 310,
            url: url.to_owned(),
            message: "it redirects in a circle".to_owned(),
        })
    }

    /// A small reply of a token service.
    pub(super) fn get_small(&self, url: &str, authorization: Option<&str>) -> Result<Vec<u8>> {
        let response = self.get(url, &[], authorization)?;
        self.token_reply(url, response)
    }

    /// Posts a form to a token service. It is not sent on to where a redirect leads: there are secrets in it.
    pub(super) fn post_form(&self, url: &str, parameters: &[(&str, &str)]) -> Result<Vec<u8>> {
        let uri = endpoint::check(url)?;
        let request = self.agent.post(uri).header("Content-Type", "application/x-www-form-urlencoded");
        let response = request.send(form(parameters)).map_err(|error| self.failed(error))?;
        self.token_reply(url, response)
    }

    fn token_reply(&self, url: &str, response: Response<Body>) -> Result<Vec<u8>> {
        match response.status().as_u16() {
            200 => read_small(&format!("the reply of {url}"), response),
            400 | 401 | 403 => Err(self.denied(&self.shown, &message(response))),
            status => Err(Error::Response { status, url: url.to_owned(), message: message(response) }),
        }
    }

    /// What a failed request means.
    pub(super) fn failed(&self, error: ureq::Error) -> Error {
        let registry = self.registry.clone();
        if speaks_tls(&error) {
            return Error::Untrusted { registry, source: Box::new(error) };
        }
        let source = match error {
            // The inner error says all that the outer one does.
            ureq::Error::Io(error) => error.into(),
            other => other.into(),
        };
        Error::Unreachable { registry, name: self.shown.clone(), source }
    }

    fn denied(&self, repository: &str, reason: &str) -> Error {
        Error::Denied {
            registry: self.registry.clone(),
            repository: repository.to_owned(),
            reason: reason.to_owned(),
            config: docker_config::path(),
        }
    }
}

/// Whether the other side speaks TLS but shows a certificate that is not trusted, or refuses ours.
fn speaks_tls(error: &ureq::Error) -> bool {
    // It comes as an error of rustls or, from the handshake that the first read makes, wrapped into one of input and output.
    // The variants of rustls are not part of ureq's interface; what it prints is stable enough to tell these two.
    let text = error.to_string();
    text.contains("certificate") || text.contains("received fatal alert")
}

fn read_small(what: &str, response: Response<Body>) -> Result<Vec<u8>> {
    let mut text = vec![];
    let mut reader = response.into_body().into_reader().take(DOCUMENT_BYTES + 1);
    reader.read_to_end(&mut text).map_err(Error::io("read", what))?;
    crate::limits::check_document(what, text.len() as u64)?;
    Ok(text)
}

/// The registry's own words (distribution-spec, "Error Codes"), without anything that a terminal would act on.
fn message(response: Response<Body>) -> String {
    let status = response.status();
    let mut text = vec![];
    // Half a message is better than none.
    let _ = response.into_body().into_reader().take(DOCUMENT_BYTES).read_to_end(&mut text);
    let json: serde_json::Value = serde_json::from_slice(&text).unwrap_or_default();
    let said = &json["errors"][0];
    let said = said["message"].as_str().or(said["code"].as_str()).or(json["details"].as_str());
    let said = said.or(json["error_description"].as_str()).or(json["error"].as_str());
    let said =
        said.map_or_else(|| status.canonical_reason().unwrap_or("no reason given").to_owned(), str::to_owned);
    said.chars().filter(|c| !c.is_control()).take(MESSAGE_CHARS).collect()
}
