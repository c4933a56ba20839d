//! Images to bring in, and the check that a store is whole.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rkvm_testing::{Entry, Sandbox, docker_archive};
use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// Bytes of the one large file of each layer.
pub const LARGE: usize = 3 << 20;

/// Bytes that do not compress, different for each `seed`.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(length + 8);
    while bytes.len() < length {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend(state.to_le_bytes());
    }
    bytes.truncate(length);
    bytes
}

/// A layer with one large file and a few hundred small ones.
pub fn layer(seed: u64) -> Vec<Entry> {
    let mut entries =
        vec![Entry::folder("data"), Entry::file(&format!("data/{seed}.bin"), noise(seed, LARGE))];
    entries.push(Entry::folder(&format!("small{seed}")));
    entries.extend((0..300).map(|n| Entry::file(&format!("small{seed}/{n}"), format!("{seed} {n}"))));
    entries
}

/// An archive of `docker save` in the sandbox with an image `name` of the layers `seeds`.
pub fn archive(sandbox: &Sandbox, name: &str, seeds: &[u64]) -> PathBuf {
    let file = format!("{}.tar", name.replace(['/', ':'], "_"));
    let path = sandbox.path().join(file);
    let layers: Vec<_> = seeds.iter().map(|seed| layer(*seed)).collect();
    docker_archive(
        &path,
        name,
        &layers,
        json!({ "Cmd": ["/bin/x"], "Labels": { "seeds": format!("{seeds:?}") } }),
    );
    path
}

/// Folder of the image store.
pub fn store(sandbox: &Sandbox) -> PathBuf {
    sandbox.root().join("lib/images")
}

/// Names of all that is in a folder of the store; an absent one is empty.
pub fn names(folder: &Path) -> BTreeSet<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    entries.map(|entry| entry.file_name().into_string().unwrap()).collect()
}

/// Everything that a refused image must leave as it was.
pub fn snapshot(sandbox: &Sandbox) -> (Option<String>, Vec<BTreeSet<String>>) {
    let store = store(sandbox);
    let index = fs::read_to_string(store.join("index.json")).ok();
    (index, ["blobs/sha256", "layers", "ingest"].map(|folder| names(&store.join(folder))).into())
}

/// Checks that all the index names is there, and that all that is there is what its name says, whatever was killed before.
#[track_caller]
pub fn assert_whole(sandbox: &Sandbox) {
    let store = store(sandbox);
    for name in names(&store.join("blobs/sha256")) {
        let digest = Sha256::digest(fs::read(store.join("blobs/sha256").join(&name)).unwrap());
        let hex: String = digest.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, name, "a blob is not what its name says");
    }
    for name in names(&store.join("layers")) {
        let layer = store.join("layers").join(&name);
        assert!(layer.join("layer.json").is_file(), "layer {name} has no description");
        for file in names(&layer.join("fs/data")) {
            let seed: u64 = file.trim_end_matches(".bin").parse().unwrap();
            assert!(
                fs::read(layer.join("fs/data").join(&file)).unwrap() == noise(seed, LARGE),
                "layer {name} is damaged"
            );
            assert_eq!(names(&layer.join(format!("fs/small{seed}"))).len(), 300, "layer {name} is not whole");
        }
    }
    let Ok(text) = fs::read_to_string(store.join("index.json")) else { return };
    let index: Value = serde_json::from_str(&text).expect("the index is valid at any moment");
    for image in index["images"].as_array().unwrap() {
        for (field, folder) in [("layers", "layers"), ("blobs", "blobs/sha256")] {
            for digest in image[field].as_array().unwrap() {
                let hex = digest.as_str().unwrap().trim_start_matches("sha256:");
                assert!(store.join(folder).join(hex).exists(), "{field} of an image lacks {hex}");
            }
        }
    }
}

/// `rkvm images -q --no-trunc NAME`: the image's id.
#[track_caller]
pub fn id_of(sandbox: &Sandbox, name: &str) -> String {
    let image = sandbox.rkvm(["image", "inspect", "--format", "{{.Id}}", name]).ok();
    image.stdout().trim().to_owned()
}
