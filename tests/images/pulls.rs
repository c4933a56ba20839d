//! `rkvm pull` against a real registry.

use std::fs;

use rkvm_testing::{Sandbox, free_port};
use serde_json::json;
use sha2::{Digest, Sha256};

use crate::fixture::{archive, assert_whole, id_of, names, snapshot, store};
use crate::proxy::Proxy;
use crate::registry::{
    Access, Registry, TokenService, certificates, docker_config, largest_blob, put_manifest,
};

#[test]
fn an_image_is_pulled_once_and_known_by_its_digest() {
    let sandbox = Sandbox::new();
    let registry = Registry::start(&sandbox, Access::Open);
    registry.push(&sandbox, &archive(&sandbox, "a:1", &[1, 2]), "team/a:1");
    let name = registry.name("team/a:1");
    let first = sandbox.rkvm(["pull", &name]).ok();
    assert!(first.stdout().contains(&format!("Status: Downloaded newer image for {name}")), "{first}");
    assert!(first.stdout().contains("Unpacking 2 layers"), "{first}");
    let digest =
        first.stdout().lines().find_map(|line| line.strip_prefix("Digest: ").map(str::to_owned)).unwrap();
    let again = sandbox.rkvm(["pull", &name]).ok();
    assert!(again.stdout().contains("Status: Image is up to date"), "{again}");
    assert!(!again.stdout().contains("Unpacking"), "{again}");
    let pinned = registry.name(&format!("team/a@{digest}"));
    assert_eq!(id_of(&sandbox, &pinned), id_of(&sandbox, &name));
    sandbox.rkvm(["rmi", &name]).ok();
    sandbox.rkvm(["pull", "-q", &pinned]).ok();
    assert_eq!(
        sandbox.rkvm(["images", "--digests", "--format", "{{.Tag}} {{.Digest}}"]).ok().stdout(),
        format!("<none> {digest}\n")
    );
    assert_whole(&sandbox);
    sandbox.rkvm(["pull", &registry.name("team/a:2")]).fails("check the name and the tag");
    let wrong = registry.name(&format!("team/a@sha256:{}", "0".repeat(64)));
    sandbox.rkvm(["pull", &wrong]).fails("does not have");
}

#[test]
fn a_layer_that_two_images_share_is_fetched_and_unpacked_once() {
    let sandbox = Sandbox::new();
    let registry = Registry::start(&sandbox, Access::Open);
    registry.push(&sandbox, &archive(&sandbox, "a:1", &[1, 2]), "a:1");
    registry.push(&sandbox, &archive(&sandbox, "b:1", &[1, 3]), "b:1");
    sandbox.rkvm(["pull", &registry.name("a:1")]).ok();
    let second = sandbox.rkvm(["pull", &registry.name("b:1")]).ok();
    assert!(
        second.stdout().contains("Already exists") && second.stdout().contains("Unpacking 1 layer\n"),
        "{second}"
    );
    assert_eq!(names(&store(&sandbox).join("layers")).len(), 3);
    sandbox.rkvm(["rmi", &registry.name("a:1")]).ok();
    assert_eq!(names(&store(&sandbox).join("layers")).len(), 2, "the shared layer stays, the other goes");
    assert_whole(&sandbox);
}

#[test]
fn passwords_come_from_dockers_config() {
    let sandbox = Sandbox::new();
    let open = Registry::start(&sandbox, Access::Open);
    open.push(&sandbox, &archive(&sandbox, "a:1", &[1]), "a:1");
    let registry = Registry::start(&sandbox, Access::Password);
    let name = registry.name("a:1");
    let host = format!("localhost:{}", registry.port);
    let pull = |config: serde_json::Value| {
        sandbox.rkvm(["pull", &name]).env("DOCKER_CONFIG", docker_config(&sandbox, &config))
    };
    pull(json!({})).fails("denies access");
    // "user:wrong" and "user:secret" in base64.
    pull(json!({ "auths": { &host: { "auth": "dXNlcjp3cm9uZw==" } } })).fails("config.json");
    pull(json!({ "auths": { &host: { "auth": "dXNlcjpzZWNyZXQ=" } } })).ok();
    assert_whole(&sandbox);
}

#[test]
fn a_credential_helper_is_asked() {
    let sandbox = Sandbox::new();
    let open = Registry::start(&sandbox, Access::Open);
    open.push(&sandbox, &archive(&sandbox, "a:1", &[1]), "a:1");
    let registry = Registry::start(&sandbox, Access::Password);
    let name = registry.name("a:1");
    let host = format!("localhost:{}", registry.port);
    let helper = sandbox.path().join("docker-credential-test");
    let script = format!(
        "#!/bin/sh\n[ \"$1\" = get ] && read host && [ \"$host\" = {host} ] || {{ echo bad request; exit 1; }}\necho '{{\"Username\": \"user\", \"Secret\": \"secret\"}}'\n"
    );
    fs::write(&helper, script).unwrap();
    fs::set_permissions(&helper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let path = format!("{}:{}", sandbox.path().display(), std::env::var("PATH").unwrap());
    let pull = |helper: &str| {
        let config = docker_config(&sandbox, &json!({ "credHelpers": { &host: helper } }));
        sandbox.rkvm(["pull", &name]).env("DOCKER_CONFIG", config).env("PATH", &path)
    };
    pull("missing").fails("docker-credential-missing");
    pull("test").ok();
}

#[test]
fn tokens_are_fetched_with_a_password_or_an_identity_token() {
    let sandbox = Sandbox::new();
    let open = Registry::start(&sandbox, Access::Open);
    open.push(&sandbox, &archive(&sandbox, "team/a:1", &[1]), "team/a:1");
    let service = TokenService::start(&sandbox, "team/a");
    let registry = Registry::start(&sandbox, Access::Token(&service));
    let name = registry.name("team/a:1");
    let host = format!("localhost:{}", registry.port);
    let pull = |entry: serde_json::Value| {
        let config = docker_config(&sandbox, &json!({ "auths": { &host: entry } }));
        sandbox.rkvm(["pull", &name]).env("DOCKER_CONFIG", config)
    };
    pull(json!({})).fails("wrong password");
    pull(json!({ "auth": "dXNlcjpzZWNyZXQ=" })).ok();
    let asked = service.requests();
    let asked = asked.last().unwrap();
    assert!(
        asked.contains("scope=repository%3Ateam%2Fa%3Apull") && asked.contains("service=test"),
        "{asked}"
    );
    sandbox.rkvm(["rmi", &name]).ok();
    pull(json!({ "identitytoken": "refresh" })).ok();
    assert_eq!(service.requests().len(), 3, "one token is enough for all of an image");
    assert_whole(&sandbox);
}

#[test]
fn tls_needs_a_trusted_certificate() {
    let sandbox = Sandbox::new();
    let open = Registry::start(&sandbox, Access::Open);
    open.push(&sandbox, &archive(&sandbox, "a:1", &[1]), "a:1");
    let authority = certificates(&sandbox);
    let registry = Registry::start(&sandbox, Access::Tls);
    let name = registry.name("a:1");
    sandbox.rkvm(["pull", &name]).fails("is not trusted");
    assert!(!store(&sandbox).join("index.json").exists());
    sandbox.rkvm(["pull", &name]).env("SSL_CERT_FILE", &authority).ok();
    assert_whole(&sandbox);
}

#[test]
fn a_broken_connection_is_taken_up_where_it_broke() {
    let sandbox = Sandbox::new();
    let registry = Registry::start(&sandbox, Access::Open);
    registry.push(&sandbox, &archive(&sandbox, "a:1", &[1]), "a:1");
    let proxy = Proxy::start(registry.port, 1 << 20, 2);
    let name = format!("localhost:{}/a:1", proxy.port);
    sandbox.rkvm(["pull", &name]).ok();
    assert_eq!(proxy.cuts_left(), 0, "the proxy did not cut");
    assert!(
        proxy.requests().to_lowercase().contains("range: bytes="),
        "it began anew:\n{}",
        proxy.requests()
    );
    assert_whole(&sandbox);
}

#[test]
fn a_pull_that_gave_up_is_gone_on_with_by_the_next() {
    let sandbox = Sandbox::new();
    let registry = Registry::start(&sandbox, Access::Open);
    registry.push(&sandbox, &archive(&sandbox, "a:1", &[1]), "a:1");
    let proxy = Proxy::start(registry.port, 1 << 20, u32::MAX);
    // Killed while it waits for its next attempt.
    let pull = sandbox.rkvm(["pull", &format!("localhost:{}/a:1", proxy.port)]).spawn();
    rkvm_testing::wait::until("a part of the layer", || {
        let mut parts = fs::read_dir(store(&sandbox).join("ingest")).ok()?.flatten();
        parts.find(|part| part.metadata().is_ok_and(|part| part.len() > 100_000))
    });
    pull.signal(nix::sys::signal::Signal::SIGKILL);
    pull.wait();
    assert_whole(&sandbox);
    let straight = Proxy::start(registry.port, usize::MAX, 0);
    sandbox.rkvm(["pull", &format!("localhost:{}/a:1", straight.port)]).ok();
    assert!(straight.requests().to_lowercase().contains("range: bytes="), "it began anew");
    assert_whole(&sandbox);
    assert_eq!(names(&store(&sandbox).join("ingest")).len(), 0);
}

#[test]
fn content_with_another_digest_is_refused() {
    let sandbox = Sandbox::new();
    let registry = Registry::start(&sandbox, Access::Open);
    registry.push(&sandbox, &archive(&sandbox, "a:1", &[1]), "a:1");
    registry.push(&sandbox, &archive(&sandbox, "b:1", &[2]), "b:1");
    sandbox.rkvm(["pull", &registry.name("b:1")]).ok();
    let before = snapshot(&sandbox);
    for blob in [largest_blob(&sandbox), largest_blob(&sandbox)] {
        let mut content = fs::read(&blob).unwrap();
        let middle = content.len() / 2;
        content[middle] ^= 1;
        fs::write(&blob, content).unwrap();
        // Of the two layers one is as large as the other, to a few bytes: both are damaged after two rounds at most.
        let pull = sandbox.rkvm(["pull", &registry.name("a:1")]).run();
        if pull.code != 0 {
            assert!(pull.stderr().contains("is not what it should be: expected sha256:"), "{pull}");
            assert_eq!(snapshot(&sandbox), before, "something of it was kept");
            return;
        }
        sandbox.rkvm(["rmi", &registry.name("a:1")]).ok();
        fs::remove_file(blob).unwrap();
    }
    panic!("a damaged layer was taken");
}

#[test]
fn an_unreachable_registry_and_plain_http_say_what_to_do() {
    let sandbox = Sandbox::new();
    let name = format!("localhost:{}/a", free_port());
    let gone = sandbox.rkvm(["pull", &name]).fails("rkvm load");
    assert!(gone.stderr().contains("Connection refused"), "{gone}");
    assert_eq!(gone.code, 1);
    sandbox.rkvm(["pull", "no-such-host.invalid/a"]).fails("rkvm load");
    sandbox.rkvm(["pull", "Not A Name"]).fails("not an image name");
    // The local store comes first: nothing is asked for what is here.
    sandbox.load_busybox();
    sandbox.rkvm(["image", "inspect", "busybox"]).ok();
}

#[test]
fn an_index_gives_this_platform_or_says_what_it_has() {
    let sandbox = Sandbox::new();
    let registry = Registry::start(&sandbox, Access::Open);
    registry.push(&sandbox, &archive(&sandbox, "a:1", &[1]), "a:1");
    let manifest = sandbox
        .command("skopeo")
        .args(["--insecure-policy", "inspect", "--raw", "--tls-verify=false"])
        .arg(format!("docker://127.0.0.1:{}/a:1", registry.port))
        .ok()
        .stdout();
    let digest: String = Sha256::digest(&manifest).iter().map(|byte| format!("{byte:02x}")).collect();
    let digest = format!("sha256:{digest}");
    let entry = |architecture: &str| {
        json!({
            "mediaType": "application/vnd.docker.distribution.manifest.v2+json", "digest": digest,
            "size": manifest.len(), "platform": { "os": "linux", "architecture": architecture },
        })
    };
    let put = |tag: &str, entries: Vec<serde_json::Value>| {
        let index = json!({
            "schemaVersion": 2, "manifests": entries,
            "mediaType": "application/vnd.docker.distribution.manifest.list.v2+json",
        });
        put_manifest(registry.port, "a", tag, &index.to_string());
    };
    put("multi", vec![entry("arm64"), entry("amd64")]);
    put("other", vec![entry("arm64"), entry("s390x")]);
    sandbox.rkvm(["pull", &registry.name("a:multi")]).ok();
    let other = sandbox.rkvm(["pull", &registry.name("a:other")]).fails("no image for linux/amd64");
    assert!(other.stderr().contains("linux/arm64, linux/s390x"), "{other}");
    assert_whole(&sandbox);
}
