//! Debian's docker-registry on loopback, with and without TLS, passwords and tokens.

use std::fmt::Write as _;
use std::fs;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex};
use std::thread;

use rkvm_testing::{Sandbox, free_port, wait};

/// `htpasswd -B` of "secret", with few rounds.
const SECRET_HASH: &str = "$2b$04$eNnu1N5Vq4JizI8C8Gt.dO77HH6wz7WemqKuknjznfXljsBckvQXK";

/// How a registry wants to be talked to.
pub enum Access<'a> {
    Open,
    /// User "user", password "secret".
    Password,
    /// TLS with the certificate of [`certificates`].
    Tls,
    /// Tokens of this service.
    Token(&'a TokenService),
}

/// A running registry. Dropping it ends it.
pub struct Registry {
    child: Child,
    pub port: u16,
}

impl Drop for Registry {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Registry {
    /// Starts a registry whose content is in the sandbox: all of one sandbox have the same.
    pub fn start(sandbox: &Sandbox, access: Access<'_>) -> Self {
        let port = free_port();
        let mut config = format!(
            "version: 0.1\nlog: {{level: error, accesslog: {{disabled: true}}}}\nstorage: {{filesystem: {{rootdirectory: {}}}}}\n",
            storage(sandbox).display()
        );
        let mut http = format!("http: {{addr: '127.0.0.1:{port}'");
        match access {
            Access::Open => {}
            Access::Password => {
                let path = sandbox.path().join("htpasswd");
                fs::write(&path, format!("user:{SECRET_HASH}\n")).unwrap();
                let _ = writeln!(config, "auth: {{htpasswd: {{realm: test, path: {}}}}}", path.display());
            }
            Access::Tls => {
                let (key, certificate) = (sandbox.path().join("leaf.key"), sandbox.path().join("leaf.crt"));
                let _ =
                    write!(http, ", tls: {{certificate: {}, key: {}}}", certificate.display(), key.display());
            }
            Access::Token(service) => {
                let _ = writeln!(
                    config,
                    "auth: {{token: {{realm: 'http://127.0.0.1:{}/token', service: test, issuer: test, rootcertbundle: {}}}}}",
                    service.port,
                    service.certificate.display()
                );
            }
        }
        config.push_str(&http);
        config.push_str("}\n");
        let path = sandbox.path().join(format!("registry-{port}.yml"));
        fs::write(&path, config).unwrap();
        let child = Command::new("docker-registry")
            .arg("serve")
            .arg(&path)
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .expect("start docker-registry (package docker-registry)");
        let registry = Self { child, port };
        wait::until("the registry to listen", || TcpStream::connect(("127.0.0.1", port)).ok());
        registry
    }

    /// Name of an image in this registry.
    pub fn name(&self, image: &str) -> String {
        format!("localhost:{}/{image}", self.port)
    }

    /// Copies an archive of `docker save` into this registry, which must be open; layers are compressed on the way.
    pub fn push(&self, sandbox: &Sandbox, archive: &Path, image: &str) {
        let target = format!("docker://127.0.0.1:{}/{image}", self.port);
        let source = format!("docker-archive:{}", archive.display());
        let policy = ["--insecure-policy", "copy", "--quiet", "--dest-tls-verify=false"];
        sandbox.command("skopeo").args(policy).arg(source).arg(target).ok();
    }
}

/// Folder of the registries' content.
pub fn storage(sandbox: &Sandbox) -> PathBuf {
    sandbox.path().join("registry")
}

/// The registry's file of its largest blob: the layer with the large file.
pub fn largest_blob(sandbox: &Sandbox) -> PathBuf {
    let mut todo = vec![storage(sandbox).join("docker/registry/v2/blobs/sha256")];
    let mut largest = (0, PathBuf::new());
    while let Some(path) = todo.pop() {
        if path.is_dir() {
            todo.extend(fs::read_dir(path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            largest = largest.max((path.metadata().unwrap().len(), path));
        }
    }
    largest.1
}

fn openssl(sandbox: &Sandbox, args: &str) {
    sandbox.command("openssl").args(args.split(' ')).ok();
}

/// Makes an authority (`ca.crt`) and a certificate for localhost in the sandbox.
pub fn certificates(sandbox: &Sandbox) -> PathBuf {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    openssl(sandbox, &format!("req -x509 {key} -keyout ca.key -out ca.crt -subj /CN=authority -days 2"));
    openssl(sandbox, &format!("req -new {key} -keyout leaf.key -out leaf.csr -subj /CN=localhost"));
    fs::write(sandbox.path().join("leaf.ext"), "subjectAltName=DNS:localhost,IP:127.0.0.1\n").unwrap();
    openssl(
        sandbox,
        "x509 -req -in leaf.csr -CA ca.crt -CAkey ca.key -CAcreateserial -out leaf.crt -days 2 -extfile leaf.ext",
    );
    sandbox.path().join("ca.crt")
}

/// A token service that a registry trusts: for user "user" with password "secret" or the identity token "refresh".
pub struct TokenService {
    pub port: u16,
    certificate: PathBuf,
    /// First line and authorization of each request.
    requests: Arc<Mutex<Vec<String>>>,
}

impl TokenService {
    /// Starts it on a thread, which ends with the test's process. Tokens are for `repository`.
    pub fn start(sandbox: &Sandbox, repository: &str) -> Self {
        openssl(
            sandbox,
            "req -x509 -newkey rsa:2048 -nodes -keyout token.key -out token.crt -subj /CN=token -days 2",
        );
        let token = token(sandbox, repository);
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let requests = Arc::new(Mutex::new(vec![]));
        let log = Arc::clone(&requests);
        thread::spawn(move || {
            for stream in listener.incoming() {
                // A client that hangs up is the client's test to fail.
                let _ = answer(&stream.unwrap(), &token, &log);
            }
        });
        Self { port, certificate: sandbox.path().join("token.crt"), requests }
    }

    pub fn requests(&self) -> Vec<String> {
        self.requests.lock().unwrap().clone()
    }
}

fn answer(mut stream: &TcpStream, token: &str, log: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut reader = BufReader::new(stream);
    let mut first = String::new();
    reader.read_line(&mut first)?;
    let (mut authorization, mut length) = (String::new(), 0);
    loop {
        let mut line = String::new();
        reader.read_line(&mut line)?;
        let lower = line.to_lowercase();
        if lower.starts_with("authorization:") {
            authorization = line.trim().to_owned();
        }
        if let Some(value) = lower.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap();
        }
        if line.trim().is_empty() {
            break;
        }
    }
    let mut body = vec![0; length];
    reader.read_exact(&mut body)?;
    let body = String::from_utf8(body).unwrap();
    log.lock().unwrap().push(format!("{} {authorization} {body}", first.trim()));
    // "user:secret" in base64.
    let is_user = authorization.ends_with("Basic dXNlcjpzZWNyZXQ=");
    let is_refresh = body.contains("grant_type=refresh_token") && body.contains("refresh_token=refresh");
    let (status, reply) = match (is_user, is_refresh) {
        (true, _) => ("200 OK", format!("{{\"token\": \"{token}\"}}")),
        (_, true) => ("200 OK", format!("{{\"access_token\": \"{token}\"}}")),
        _ => ("401 Unauthorized", "{\"details\": \"wrong password\"}".to_owned()),
    };
    write!(stream, "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{reply}", reply.len())
}

/// A JSON web token as distribution's specification has it, signed by openssl.
fn token(sandbox: &Sandbox, repository: &str) -> String {
    let certificate = fs::read_to_string(sandbox.path().join("token.crt")).unwrap();
    let certificate: String = certificate.lines().filter(|line| !line.starts_with('-')).collect();
    let header = format!(r#"{{"typ":"JWT","alg":"RS256","x5c":["{certificate}"]}}"#);
    let claims = format!(
        r#"{{"iss":"test","sub":"user","aud":"test","exp":4000000000,"nbf":1000000000,"iat":1000000000,"jti":"1","access":[{{"type":"repository","name":"{repository}","actions":["pull"]}}]}}"#
    );
    let signed = format!("{}.{}", base64url(header.as_bytes()), base64url(claims.as_bytes()));
    fs::write(sandbox.path().join("claims"), &signed).unwrap();
    openssl(sandbox, "dgst -sha256 -sign token.key -out signature claims");
    format!("{signed}.{}", base64url(&fs::read(sandbox.path().join("signature")).unwrap()))
}

fn base64url(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let bits =
            chunk.iter().enumerate().fold(0_u32, |bits, (at, byte)| bits | u32::from(*byte) << (16 - 8 * at));
        for digit in 0..=chunk.len() {
            text.push(char::from(DIGITS[(bits >> (18 - 6 * digit)) as usize & 63]));
        }
    }
    text
}

/// A `config.json` of Docker's in its own folder, for `DOCKER_CONFIG`.
pub fn docker_config(sandbox: &Sandbox, content: &serde_json::Value) -> PathBuf {
    let folder = sandbox.path().join("docker");
    fs::create_dir_all(&folder).unwrap();
    fs::write(folder.join("config.json"), content.to_string()).unwrap();
    folder
}

/// Puts a manifest or an index into an open registry.
pub fn put_manifest(port: u16, repository: &str, tag: &str, text: &str) {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    let media_type = "application/vnd.docker.distribution.manifest.list.v2+json";
    write!(
        stream,
        "PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Type: {media_type}\r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    )
    .unwrap();
    let mut reply = String::new();
    stream.read_to_string(&mut reply).unwrap();
    assert!(reply.starts_with("HTTP/1.1 201"), "the registry refuses the index: {reply}");
}
