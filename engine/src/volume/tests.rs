use std::os::unix::fs::{MetadataExt, symlink};

use super::*;

fn store() -> (tempfile::TempDir, VolumeStore) {
    let folder = tempfile::tempdir().unwrap();
    let store = VolumeStore::new(folder.path());
    (folder, store)
}

fn nobody(_: &str) -> Result<Vec<String>, VolumeError> {
    Ok(vec![])
}

#[test]
fn names_that_are_no_names_are_refused() {
    for name in ["", "a", ".hidden", "-v", "a/b", "..", "a b", "\u{e9}e", &"x".repeat(201)] {
        assert!(matches!(validate_name(name), Err(VolumeError::InvalidName { .. })), "{name:?}");
    }
    for name in ["ab", "web_data-1.0", &"f".repeat(64)] {
        validate_name(name).unwrap();
    }
}

#[test]
fn creating_twice_gives_the_first_with_its_labels() {
    let (_folder, store) = store();
    let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
    let first = store.create("data", labels.clone()).unwrap();
    fs::write(store.path("data").join("file"), "x").unwrap();
    let second = store.create("data", BTreeMap::new()).unwrap();
    assert_eq!(first, second);
    assert_eq!(second.labels, labels);
    assert!(store.path("data").join("file").exists());
    assert_eq!(fs::metadata(store.path("data")).unwrap().mode() & 0o7777, 0o755);
}

#[test]
fn many_creators_of_one_name_make_one_volume() {
    let (folder, store) = store();
    let threads: Vec<_> = (0..16)
        .map(|_| {
            let store = store.clone();
            std::thread::spawn(move || store.create_or_get("shared").unwrap())
        })
        .collect();
    let made: Vec<_> = threads.into_iter().map(|thread| thread.join().unwrap()).collect();
    assert!(made.windows(2).all(|pair| pair[0] == pair[1]));
    assert_eq!(fs::read_dir(folder.path().join("volumes")).unwrap().count(), 1, "something was left aside");
}

#[test]
fn a_used_volume_stays_and_names_its_user() {
    let (_folder, store) = store();
    store.create_or_get("data").unwrap();
    let error = store.remove::<VolumeError>("data", |_| Ok(vec!["c1".into()])).unwrap_err();
    assert!(error.to_string().contains("c1"), "{error}");
    store.get("data").unwrap();
    store.remove("data", nobody).unwrap();
    assert!(matches!(store.get("data"), Err(VolumeError::NotFound { .. })));
    assert!(matches!(store.remove("data", nobody), Err(VolumeError::NotFound { .. })));
}

#[test]
fn prune_takes_the_unused_chosen_ones_and_the_leftovers_of_killed_commands() {
    let (folder, store) = store();
    store.create_or_get("named").unwrap();
    let used = store.create_anonymous(BTreeMap::new()).unwrap();
    let unused = store.create_anonymous(BTreeMap::new()).unwrap();
    fs::write(store.path(&unused.name).join("file"), vec![1; 100_000]).unwrap();
    let root = folder.path().join("volumes");
    fs::create_dir_all(root.join(".new-0123/_data")).unwrap();
    fs::create_dir_all(root.join(".old-4567/_data")).unwrap();

    let users = |name: &str| Ok::<_, VolumeError>(if name == used.name { vec!["c".into()] } else { vec![] });
    let removed = store.prune(|volume| volume.naming == Naming::Anonymous, users).unwrap();

    assert_eq!(removed.len(), 1);
    assert_eq!(removed[0].0.name, unused.name);
    assert!(removed[0].1 >= 100_000, "{} bytes", removed[0].1);
    let mut left: Vec<_> =
        fs::read_dir(&root).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    left.sort();
    let mut expected = vec!["named".to_owned(), used.name];
    expected.sort();
    assert_eq!(left, expected);
}

#[test]
fn removal_waits_for_those_who_are_about_to_mount() {
    let (_folder, store) = store();
    store.create_or_get("data").unwrap();
    let hold = store.hold().unwrap();
    let other = store.clone();
    let (sender, receiver) = std::sync::mpsc::channel();
    let thread = std::thread::spawn(move || {
        let result = other.remove::<VolumeError>("data", |_| Ok(vec!["late".into()]));
        sender.send(result.is_err()).unwrap();
    });
    // A holder may still make volumes.
    store.create_or_get("second").unwrap();
    assert!(receiver.recv_timeout(std::time::Duration::from_millis(100)).is_err());
    drop(hold);
    assert!(receiver.recv().unwrap(), "the user that came during the hold must be seen");
    thread.join().unwrap();
}

#[test]
fn links_in_place_of_folders_are_never_followed() {
    let (folder, store) = store();
    let outside = folder.path().join("outside");
    fs::create_dir_all(outside.join("_data")).unwrap();
    fs::write(outside.join("precious"), "x").unwrap();
    store.create_or_get("good").unwrap();
    symlink(&outside, folder.path().join("volumes/evil")).unwrap();
    assert!(matches!(store.get("evil"), Err(VolumeError::Foreign { .. })));
    assert!(store.remove("evil", nobody).is_err());

    symlink(&outside, store.path("good").join("link")).unwrap();
    store.remove("good", nobody).unwrap();
    assert!(outside.join("precious").exists());
}
