//! Names, uses and removal, on images made in code.

use std::fs;
use std::path::Path;

use serde_json::json;

use super::{Image, Store};
use crate::digest::Digest;
use crate::error::Error;
use crate::progress::Silent;
use crate::reference::Reference;
use crate::store::{PruneScope, Removal, RemoveMode};
use crate::transfer::Options;

/// An OCI layout in `folder` with one image `name` of one layer with a file `content`.
fn layout(folder: &Path, name: &str, content: &str) {
    let blob = |bytes: &[u8]| {
        let digest = Digest::of(bytes);
        let path = folder.join("blobs/sha256");
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join(digest.hex()), bytes).unwrap();
        json!({ "digest": digest, "size": bytes.len() })
    };
    let with_type = |mut descriptor: serde_json::Value, media_type: &str| {
        descriptor["mediaType"] = format!("application/vnd.oci.image.{media_type}").into();
        descriptor
    };
    let mut tar = tar::Builder::new(vec![]);
    let mut header = tar::Header::new_gnu();
    header.set_size(content.len() as u64);
    header.set_mode(0o644);
    tar.append_data(&mut header, "file", content.as_bytes()).unwrap();
    let layer = with_type(blob(&tar.into_inner().unwrap()), "layer.v1.tar");
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": { "Cmd": ["x"], "Healthcheck": { "Test": ["NONE"] } },
        "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
    });
    let config = with_type(blob(config.to_string().as_bytes()), "config.v1+json");
    let manifest = json!({ "schemaVersion": 2, "config": config, "layers": [layer] });
    let mut root = with_type(blob(manifest.to_string().as_bytes()), "manifest.v1+json");
    root["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
    fs::write(folder.join("index.json"), json!({ "schemaVersion": 2, "manifests": [root] }).to_string())
        .unwrap();
}

/// A store with an image `docker.io/library/NAME:1` for each name.
fn store(names: &[&str]) -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(folder.path());
    for name in names {
        let path = folder.path().join(name);
        layout(&path, &format!("{name}:1"), name);
        store.load_path(&path, Options { limits: Default::default(), progress: &Silent }).unwrap();
    }
    (folder, store)
}

/// Makes a container's folder and holds the image for it.
fn hold(folder: &Path, store: &Store, image: &Image, container: &str) {
    fs::create_dir_all(folder.join("containers").join(container)).unwrap();
    store.hold(image, container).unwrap();
}

#[test]
fn an_image_is_found_by_name_id_and_prefix() {
    let (_folder, store) = store(&["a", "b"]);
    let a = store.resolve("a:1").unwrap();
    for name in ["docker.io/library/a:1", &a.id.to_string(), a.id.hex(), a.id.short(), &a.id.hex()[..20]] {
        assert_eq!(store.resolve(name).unwrap().id, a.id, "{name}");
    }
    assert_eq!(fs::read_to_string(a.layers[0].join("file")).unwrap(), "a");
    assert_eq!(a.config.config().as_ref().unwrap().cmd().as_ref().unwrap(), &["x"]);
    assert_eq!(store.raw_config(&a.id).unwrap()["config"]["Healthcheck"]["Test"][0], "NONE");
    for name in ["x", "a:2", "y:1", &"0".repeat(64)] {
        assert!(matches!(store.resolve(name), Err(Error::NotFound { .. })), "{name}");
    }
    assert!(matches!(store.resolve("A B"), Err(Error::InvalidReference { .. })));
}

#[test]
fn a_name_that_looks_like_a_prefix_is_a_name_first() {
    let (_folder, store) = store(&["a", "b"]);
    let (a, b) = (store.resolve("a:1").unwrap(), store.resolve("b:1").unwrap());
    let name: Reference = a.id.short().parse().unwrap();
    store.tag("b:1", &name).unwrap();
    assert_eq!(store.resolve(a.id.short()).unwrap().id, b.id);
    let pinned = name.pinned(b.manifest);
    assert!(matches!(store.tag("b:1", &pinned), Err(Error::InvalidReference { .. })));
}

#[test]
fn an_image_in_use_stays_until_its_container_is_gone() {
    let (folder, store) = store(&["a"]);
    let image = store.resolve("a:1").unwrap();
    hold(folder.path(), &store, &image, "c1");
    for name in ["a:1", image.id.hex()] {
        assert!(
            matches!(store.remove(name, RemoveMode::Plain), Err(Error::InUse { container, .. }) if container == "c1")
        );
    }
    store.tag("a:1", &"other".parse().unwrap()).unwrap();
    let removals = store.remove("other", RemoveMode::Plain).unwrap();
    assert_eq!(removals, [Removal::Untagged("other:latest".to_owned())], "one of two names may go");
    store.remove("a:1", RemoveMode::Force).unwrap();
    assert!(store.prune(PruneScope::Unused).unwrap().removals.is_empty());
    assert!(store.resolve(image.id.hex()).unwrap().layers[0].join("file").exists());
    store.release("c1").unwrap();
    assert_eq!(store.prune(PruneScope::Untagged).unwrap().removals, [Removal::Deleted(image.id.clone())]);
    assert!(!image.layers[0].exists());
    assert!(matches!(store.hold(&image, "c2"), Err(Error::NotFound { .. })));
}

#[test]
fn a_use_whose_container_is_gone_counts_no_more() {
    let (folder, store) = store(&["a"]);
    let image = store.resolve("a:1").unwrap();
    hold(folder.path(), &store, &image, "c1");
    assert_eq!((store.usage().unwrap().active, store.usage().unwrap().reclaimable_bytes), (1, 0));
    fs::remove_dir(folder.path().join("containers/c1")).unwrap();
    let usage = store.usage().unwrap();
    assert_eq!((usage.total, usage.active), (1, 0));
    assert!(usage.bytes > 0 && usage.reclaimable_bytes == usage.bytes);
    let removals = store.remove("a:1", RemoveMode::Plain).unwrap();
    assert_eq!(removals, [Removal::Untagged("a:1".to_owned()), Removal::Deleted(image.id)]);
    assert_eq!(store.usage().unwrap().bytes, 0);
}

#[test]
fn nothing_is_deleted_while_something_is_added() {
    let (_folder, store) = store(&["a"]);
    let adding = store.adding().unwrap();
    let blob = store.write_blob(b"not in the index yet").unwrap();
    store.remove("a:1", RemoveMode::Plain).unwrap();
    assert!(store.has_blob(&blob));
    drop(adding);
    store.prune(PruneScope::Untagged).unwrap();
    assert!(!store.has_blob(&blob));
}

#[test]
fn a_blob_goes_on_where_it_was_left_and_must_be_what_it_says() {
    let (_folder, store) = store(&[]);
    let _adding = store.adding().unwrap();
    let digest = Digest::of(b"hello world");
    let mut writer = store.blob_writer(&digest, 11).unwrap().unwrap();
    writer.write(b"hello").unwrap();
    drop(writer);
    let mut writer = store.blob_writer(&digest, 11).unwrap().unwrap();
    assert_eq!(writer.offset(), 5);
    writer.write(b" earth").unwrap();
    assert!(matches!(writer.finish(), Err(Error::Mismatch { .. })));
    let mut writer = store.blob_writer(&digest, 11).unwrap().unwrap();
    assert_eq!(writer.offset(), 0, "what is wrong is not gone on with");
    assert!(matches!(writer.write(b"more than promised"), Err(Error::Mismatch { .. })));
    drop(writer);
    let mut writer = store.blob_writer(&digest, 11).unwrap().unwrap();
    writer.write(b"hello world").unwrap();
    writer.finish().unwrap();
    assert!(store.blob_writer(&digest, 11).unwrap().is_none());
}

#[test]
fn the_file_system_of_an_image_is_made_once_and_goes_with_it() {
    let (folder, store) = store(&["a", "b"]);
    let [a, b] = ["a:1", "b:1"].map(|name| store.resolve(name).unwrap().id);
    let made: Vec<_> = std::thread::scope(|scope| {
        let ask = || store.erofs(&a).unwrap();
        let asked: Vec<_> = (0..4).map(|_| scope.spawn(ask)).collect();
        asked.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    let inode = |path: &Path| std::os::unix::fs::MetadataExt::ino(&fs::metadata(path).unwrap());
    let first = inode(&made[0]);
    assert!(made.iter().all(|path| inode(path) == first));
    assert_eq!(inode(&store.erofs(&a).unwrap()), first);
    assert_eq!(fs::read_dir(folder.path().join("images/ingest")).unwrap().count(), 0);
    let of_b = store.erofs(&b).unwrap();
    let bytes = |path: &Path| fs::metadata(path).unwrap().len();
    assert_eq!((bytes(&made[0]), bytes(&of_b)), (64 << 20, 64 << 20), "small images are alike");
    assert!(store.usage().unwrap().bytes < 32 << 20, "and take no more of the disk");
    let before = store.usage().unwrap().bytes;
    store.remove("a:1", RemoveMode::Plain).unwrap();
    assert!(!made[0].exists());
    assert!(of_b.exists());
    assert!(store.usage().unwrap().bytes < before);
    assert!(matches!(store.erofs(&a), Err(Error::NotFound { .. })));
    assert_eq!(fs::read_dir(folder.path().join("images/ingest")).unwrap().count(), 0);
}
