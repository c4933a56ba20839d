use std::sync::atomic::{AtomicBool, Ordering};

use super::*;
use crate::record::*;

fn record() -> ContainerRecord {
    ContainerRecord {
        id: ids::random().unwrap(),
        name: String::new(),
        created: "2026-01-01T00:00:00.000000000Z".to_owned(),
        image: ImageUse::default(),
        isolation: rkvm_oci::Isolation::Container,
        process: ProcessConfig::default(),
        network: NetworkConfig::default(),
        mounts: vec![MountConfig {
            kind: MountKind::Tmpfs { options: vec!["size=1m".to_owned()] },
            target: "/tmp".to_owned(),
            read_only: false,
        }],
        limits: Limits::default(),
        boot: crate::record::Boot::default(),
        security: Security::default(),
        restart: RestartPolicy::OnFailure { max_retries: 3 },
        auto_remove: false,
        log: LogConfig::default(),
        labels: Default::default(),
        annotations: Default::default(),
    }
}

fn paths() -> (tempfile::TempDir, Paths) {
    let folder = tempfile::tempdir().unwrap();
    let paths = Paths::new(folder.path().join("run"), folder.path().join("lib"));
    (folder, paths)
}

#[test]
fn a_container_is_found_by_id_prefix_and_name_until_it_is_removed() {
    let (_folder, paths) = paths();
    let locked = create(&paths, record(), Some("web")).unwrap();
    let id = locked.container.id().to_owned();
    for reference in [id.as_str(), &id[..5], "web", "/web"] {
        assert_eq!(resolve(&paths, reference).unwrap(), id, "{reference}");
    }
    assert_eq!(peek(&paths, &id).unwrap(), locked.container);
    locked.remove(&paths).unwrap();
    for reference in [id.as_str(), "web", "", "..", "/"] {
        assert!(matches!(resolve(&paths, reference), Err(Error::NoSuchContainer(_))), "{reference}");
    }
    assert!(matches!(lock(&paths, &id), Err(Error::NoSuchContainer(_))));
    assert_eq!(fs::read_dir(paths.names()).unwrap().count(), 0);
}

#[test]
fn a_prefix_of_two_ids_is_ambiguous_and_the_error_names_both() {
    let (_folder, paths) = paths();
    for last in ["1", "2"] {
        let mut record = record();
        record.id = format!("{}{last}", "a".repeat(63));
        create(&paths, record, None).unwrap();
    }
    let error = resolve(&paths, "aaa").unwrap_err();
    assert!(matches!(&error, Error::Ambiguous { ids, .. } if ids.len() == 2), "{error}");
}

#[test]
fn a_name_is_taken_once_and_free_again_after_rename() {
    let (_folder, paths) = paths();
    let mut first = create(&paths, record(), Some("web")).unwrap();
    assert!(matches!(create(&paths, record(), Some("web")), Err(Error::NameTaken { .. })));
    assert_eq!(ids(&paths).unwrap().len(), 1, "a refused create leaves nothing");
    first.rename(&paths, "db").unwrap();
    let second = create(&paths, record(), Some("web")).unwrap();
    assert!(matches!(first.rename(&paths, "web"), Err(Error::NameTaken { .. })));
    assert_eq!(resolve(&paths, "db").unwrap(), first.container.id());
    assert_eq!(resolve(&paths, "web").unwrap(), second.container.id());
}

#[test]
fn a_listing_beside_it_takes_nothing_from_a_create() {
    let (_folder, paths) = paths();
    make_folder(&paths.containers()).unwrap();
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !done.load(Ordering::Relaxed) {
                    ids(&paths).unwrap();
                }
            });
        }
        let made = (0..1000)
            .try_for_each(|_| create(&paths, record(), None).and_then(|locked| locked.remove(&paths)));
        // Before anything panics: the scope waits for the others.
        done.store(true, Ordering::Relaxed);
        made.unwrap();
    });
    assert_eq!(fs::read_dir(paths.containers()).unwrap().count(), 0);
}

#[test]
fn a_container_has_its_name_for_as_long_as_it_exists() {
    let (_folder, paths) = paths();
    let made = record();
    let (files, link) = (paths.container(&made.id), paths.names().join("web"));
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut without = 0;
            while !done.load(Ordering::Relaxed) {
                let nameless = files.state().exists() && fs::symlink_metadata(&link).is_err();
                without += u32::from(nameless && files.state().exists());
            }
            without
        });
        let removed = (0..2000).try_for_each(|_| {
            create(&paths, made.clone(), Some("web")).and_then(|locked| locked.remove(&paths))
        });
        // Before anything panics: the scope waits for the watcher.
        done.store(true, Ordering::Relaxed);
        removed.unwrap();
        assert_eq!(watcher.join().unwrap(), 0);
    });
}

#[test]
fn the_name_of_a_removal_that_was_killed_is_free() {
    let (_folder, paths) = paths();
    let killed = create(&paths, record(), Some("web")).unwrap();
    remove_state(&killed.container.paths).unwrap();
    assert!(matches!(create(&paths, record(), Some("web")), Err(Error::NameTaken { .. })), "it is at work");
    drop(killed);
    let next = create(&paths, record(), Some("web")).unwrap();
    assert_eq!(resolve(&paths, "web").unwrap(), next.container.id());
    assert_eq!(fs::read_dir(paths.containers()).unwrap().count(), 1);
}

#[test]
fn remains_of_a_killed_create_are_swept_and_its_name_is_free() {
    let (_folder, paths) = paths();
    let locked = create(&paths, record(), Some("web")).unwrap();
    let files = locked.container.paths.clone();
    fs::remove_file(files.state()).unwrap();
    assert_eq!(ids(&paths).unwrap().len(), 0);
    assert!(files.dir().exists(), "a locked folder is somebody's work");
    drop(locked);
    assert_eq!(ids(&paths).unwrap().len(), 0);
    assert!(!files.dir().exists());
    create(&paths, record(), Some("web")).unwrap();
}

#[test]
fn a_damaged_record_is_named() {
    let (_folder, paths) = paths();
    let locked = create(&paths, record(), Some("web")).unwrap();
    fs::write(locked.container.paths.record(), "{").unwrap();
    let error = peek(&paths, locked.container.id()).unwrap_err();
    assert!(error.to_string().contains("record.json"), "{error}");
}
