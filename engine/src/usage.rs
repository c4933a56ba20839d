//! How much space folders take.

use std::collections::HashSet;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Bytes on disk of everything below `folder`. A file with several names counts once, links are not followed, and what
/// cannot be read counts as nothing.
pub fn disk_bytes(folder: &Path) -> u64 {
    // `st_blocks` counts 512-byte units whatever the file system's block size is (stat(2)).
    sum(folder, &mut HashSet::new(), &|metadata| metadata.blocks() * 512)
}

/// Bytes of content of every file below `folder`, as [`disk_bytes`] counts them: what images and write layers are measured in.
pub fn content_bytes(folder: &Path) -> u64 {
    sum(folder, &mut HashSet::new(), &|metadata| if metadata.is_file() { metadata.size() } else { 0 })
}

fn sum(folder: &Path, seen: &mut HashSet<(u64, u64)>, bytes: &dyn Fn(&fs::Metadata) -> u64) -> u64 {
    let Ok(entries) = fs::read_dir(folder) else { return 0 };
    let mut total = 0;
    for entry in entries.flatten() {
        // `DirEntry::metadata` does not follow links.
        let Ok(metadata) = entry.metadata() else { continue };
        if metadata.is_dir() {
            total += bytes(&metadata) + sum(&entry.path(), seen, bytes);
        } else if metadata.nlink() == 1 || seen.insert((metadata.dev(), metadata.ino())) {
            total += bytes(&metadata);
        }
    }
    total
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn each_file_counts_once_and_links_lead_nowhere() {
        let folder = tempfile::tempdir().unwrap();
        let inside = folder.path().join("in/side");
        fs::create_dir_all(&inside).unwrap();
        fs::write(inside.join("a"), vec![1; 10_000]).unwrap();
        fs::hard_link(inside.join("a"), inside.join("b")).unwrap();
        symlink("/usr", inside.join("usr")).unwrap();
        assert_eq!(content_bytes(folder.path()), 10_000);
        assert!((8_192..100_000).contains(&disk_bytes(folder.path())));
        assert_eq!(content_bytes(&folder.path().join("missing")), 0);
    }
}
