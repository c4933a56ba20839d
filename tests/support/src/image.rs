//! Images made in code, in the form that `docker save` writes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use crate::bundle;

/// One entry of a layer.
#[derive(Debug, Clone)]
pub enum Entry {
    /// A folder: path, mode.
    Folder(String, u32),
    /// A file: path, mode, content.
    File(String, u32, Vec<u8>),
    /// A symbolic link: path, target.
    Link(String, String),
}

impl Entry {
    /// A file that everybody can read.
    pub fn file(path: &str, content: impl Into<Vec<u8>>) -> Self {
        Self::File(path.to_owned(), 0o644, content.into())
    }

    /// A program.
    pub fn program(path: &str, content: impl Into<Vec<u8>>) -> Self {
        Self::File(path.to_owned(), 0o755, content.into())
    }

    /// A folder that everybody can read.
    pub fn folder(path: &str) -> Self {
        Self::Folder(path.to_owned(), 0o755)
    }
}

/// A layer as an uncompressed tar.
///
/// # Panics
/// A path is too long for tar.
pub fn layer(entries: &[Entry]) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for entry in entries {
        let mut header = tar::Header::new_gnu();
        header.set_mtime(1_700_000_000);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        let written = match entry {
            Entry::Folder(path, mode) => {
                header.set_entry_type(tar::EntryType::Directory);
                header.set_mode(*mode);
                tar.append_data(&mut header, format!("{path}/"), std::io::empty())
            }
            Entry::File(path, mode, content) => {
                header.set_entry_type(tar::EntryType::Regular);
                header.set_mode(*mode);
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content.as_slice())
            }
            Entry::Link(path, target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_mode(0o777);
                tar.append_link(&mut header, path, target)
            }
        };
        written.expect("append to a layer");
    }
    tar.into_inner().expect("finish a layer")
}

/// Writes a docker-archive with one image named `tag` to `path`: `layers` from the bottom up, `config` being the
/// `config` object of the image (`Cmd`, `Env`, `User`, `ExposedPorts`...).
///
/// # Panics
/// The file cannot be written.
pub fn docker_archive(path: &Path, tag: &str, layers: &[Vec<Entry>], config: Value) {
    let layers: Vec<(String, Vec<u8>)> = layers
        .iter()
        .map(|entries| layer(entries))
        .map(|tar| (format!("{:x}", HexOf(&Sha256::digest(&tar))), tar))
        .collect();
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "created": "2024-01-01T00:00:00Z",
        "config": config,
        "rootfs": {
            "type": "layers",
            "diff_ids": layers.iter().map(|(digest, _)| format!("sha256:{digest}")).collect::<Vec<_>>(),
        },
        "history": layers.iter().map(|_| json!({ "created_by": "test" })).collect::<Vec<_>>(),
    })
    .to_string();
    let config_name = format!("{:x}.json", HexOf(&Sha256::digest(&config)));
    let manifest = json!([{
        "Config": config_name,
        "RepoTags": [tag],
        "Layers": layers.iter().map(|(digest, _)| format!("{digest}/layer.tar")).collect::<Vec<_>>(),
    }])
    .to_string();
    let mut files = vec![Entry::file(&config_name, config)];
    for (digest, tar) in layers {
        files.push(Entry::folder(&digest));
        files.push(Entry::file(&format!("{digest}/layer.tar"), tar));
    }
    files.push(Entry::file("manifest.json", manifest));
    let aside = path.with_extension(format!("new{}", std::process::id()));
    fs::write(&aside, layer(&files)).expect("write an image archive");
    fs::rename(&aside, path).expect("rename an image archive");
}

struct HexOf<'a>(&'a [u8]);

impl std::fmt::LowerHex for HexOf<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

/// A docker-archive of `busybox:latest` (one layer: Debian's static busybox with links for its applets; `Cmd` is `sh`). Made
/// once, in the build folder.
///
/// # Panics
/// busybox-static is not installed, or the file cannot be written.
pub fn busybox_archive() -> PathBuf {
    static MAKING: Mutex<()> = Mutex::new(());
    let _making = MAKING.lock();
    let busybox = fs::read("/bin/busybox").expect("read /bin/busybox (package busybox-static)");
    let mut folder = std::env::current_exe().expect("path of the running test");
    folder.pop();
    folder.push("fixtures");
    fs::create_dir_all(&folder).expect("folder of fixtures");
    let path = folder.join(format!("busybox-{}.tar", busybox.len()));
    if path.exists() {
        return path;
    }
    let mut entries: Vec<Entry> =
        ["bin", "dev", "etc", "home", "mnt", "proc", "root", "run", "sys", "usr", "usr/bin", "var", "www"]
            .map(Entry::folder)
            .to_vec();
    entries.push(Entry::Folder("tmp".to_owned(), 0o1777));
    entries.push(Entry::program("bin/busybox", busybox));
    for applet in bundle::applets() {
        entries.push(Entry::Link(format!("bin/{applet}"), "busybox".to_owned()));
    }
    let passwd = "root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000:user:/home:/bin/sh\n";
    entries.push(Entry::file("etc/passwd", passwd));
    entries.push(Entry::file("etc/group", "root:x:0:\nuser:x:1000:\nextra:x:2000:user\n"));
    entries.push(Entry::file("www/index.html", "it works\n"));
    let config = json!({ "Cmd": ["sh"], "Env": ["PATH=/usr/sbin:/usr/bin:/sbin:/bin"] });
    docker_archive(&path, "busybox:latest", &[entries], config);
    path
}
