//! What the store promises beyond its single parts.

use super::*;

#[test]
fn what_images_hold_is_for_root_alone() {
    use std::os::unix::fs::PermissionsExt;
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("lib"));
    drop(store.adding().unwrap());
    for inside in ["layers", "ingest", "blobs"] {
        let mode =
            std::fs::metadata(folder.path().join("lib/images").join(inside)).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700, "{inside}");
    }
}
