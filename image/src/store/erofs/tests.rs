//! The file system shows what overlayfs shows of the same layers.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use rustix::fs::{
    AtFlags, CWD, FileType, Mode, Timespec, Timestamps, XattrFlags, mknodat, setxattr, utimensat,
};

use super::{make, places};

/// Everything that can be seen of a tree: kind, owner, mode, links, device, size, time, target, content and attributes.
const LIST: &str = r#"cd "$1"
find . ! -type d -printf '%P %y %U:%G %m %n %s %T@ %l\n' | sort
find . -type d -printf '%P/ %U:%G %m %T@\n' | sort
find . \( -type c -o -type b \) -exec stat -c '%n %t:%T' {} + | sort
find . -type f -exec sha256sum {} + | sort -k2
find . | sort | while IFS= read -r name; do getfattr -hd -m - "$name" 2>/dev/null; done
[ "$(stat -c %i a/first)" = "$(stat -c %i a/second)" ] && echo one file
"#;

fn node(path: &Path, kind: FileType, device: u64) {
    mknodat(CWD, path, kind, Mode::from_raw_mode(0o640), device).unwrap();
}

fn stamp(path: &Path, seconds: i64) {
    let time = Timespec { tv_sec: seconds, tv_nsec: 123_456_789 };
    utimensat(
        CWD,
        path,
        &Timestamps { last_access: time, last_modification: time },
        AtFlags::SYMLINK_NOFOLLOW,
    )
    .unwrap();
}

/// Two layers in overlayfs' form with one of everything.
fn layers(folder: &Path) -> Vec<PathBuf> {
    let low = folder.join("low");
    let high = folder.join("high");
    for path in ["a", "gone", "opaque/old", "mixed"] {
        fs::create_dir_all(low.join(path)).unwrap();
    }
    for path in ["mixed", "opaque/new"] {
        fs::create_dir_all(high.join(path)).unwrap();
    }
    fs::write(low.join("a/first"), "linked").unwrap();
    fs::hard_link(low.join("a/first"), low.join("a/second")).unwrap();
    fs::write(low.join("gone/file"), "hidden").unwrap();
    fs::write(low.join("opaque/old/file"), "hidden").unwrap();
    fs::write(low.join("mixed/low"), "low").unwrap();
    fs::write(low.join("mixed/both"), "low").unwrap();
    fs::write(high.join("mixed/both"), vec![b'x'; 3_000_000]).unwrap();
    fs::write(low.join("mixed/empty"), "").unwrap();
    symlink("../a/first", low.join("mixed/link")).unwrap();
    node(&high.join("gone"), FileType::CharacterDevice, 0);
    setxattr(high.join("opaque"), "trusted.overlay.opaque", b"y", XattrFlags::empty()).unwrap();
    node(&low.join("a/null"), FileType::CharacterDevice, rustix::fs::makedev(1, 3));
    node(&low.join("a/disk"), FileType::BlockDevice, rustix::fs::makedev(259, 70_000));
    node(&low.join("a/fifo"), FileType::Fifo, 0);
    setxattr(low.join("a/first"), "user.note", b"kept", XattrFlags::empty()).unwrap();
    // cap_net_raw+ep of a version 2 attribute (linux/capability.h).
    let capability = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    setxattr(low.join("mixed/low"), "security.capability", &capability, XattrFlags::empty()).unwrap();
    chown(low.join("a/first"), Some(70_000), Some(100_000)).unwrap();
    chown(high.join("mixed"), Some(33), Some(33)).unwrap();
    fs::set_permissions(low.join("a/first"), fs::Permissions::from_mode(0o6751)).unwrap();
    fs::set_permissions(&high, fs::Permissions::from_mode(0o755)).unwrap();
    // Above what `sh` and `find` sort alike, a name with every byte that shells and mount options make something of.
    fs::write(high.join("mixed/a:b,c\\d e"), "odd").unwrap();
    for (path, seconds) in [("a/first", 1_000_000_000), ("mixed/link", 1), ("a", 2_524_608_000)] {
        stamp(&low.join(path), seconds);
    }
    vec![low, high]
}

/// What is at `mount`ed file system, listed in a mount namespace of its own.
fn list(folder: &Path, mount: &str) -> String {
    let script = format!("set -e; mkdir -p mnt; mount {mount} mnt; sh -c \"$0\" sh mnt");
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", &script, LIST])
        .current_dir(folder)
        .env("LC_ALL", "C")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn it_shows_what_overlayfs_shows() {
    let folder = tempfile::tempdir().unwrap();
    let layers = layers(folder.path());
    make(folder.path(), &layers, &folder.path().join("image")).unwrap();
    fs::create_dir(folder.path().join("places")).unwrap();
    places(&folder.path().join("places")).unwrap();
    let overlay = list(folder.path(), "-t overlay -o ro,lowerdir=high:low:places overlay");
    let erofs = list(folder.path(), "-t erofs -o ro,loop image");
    assert_eq!(erofs, overlay);
    for seen in ["user.note=\"kept\"", "one file", "a/null 1:3", "security.capability", "70000:100000 6751 2"]
    {
        assert!(erofs.contains(seen), "{seen} is not in:\n{erofs}");
    }
    assert!(!erofs.contains("gone") && !erofs.contains("old"), "{erofs}");
}

#[test]
fn the_same_layers_give_the_same_bytes() {
    let folder = tempfile::tempdir().unwrap();
    let layers = layers(folder.path());
    let made = |name: &str| {
        let aside = folder.path().join(name);
        fs::create_dir(&aside).unwrap();
        make(&aside, &layers, &aside.join("image")).unwrap();
        fs::read(aside.join("image")).unwrap()
    };
    assert!(made("1") == made("2"));
}

#[test]
fn as_many_layers_as_an_image_may_have() {
    let folder = tempfile::tempdir().unwrap();
    let deep = folder.path().join("a-long-name-such-as-a-digest-is".repeat(3));
    let layers: Vec<PathBuf> = (0..127).map(|index| deep.join(index.to_string())).collect();
    for (index, layer) in layers.iter().enumerate() {
        fs::create_dir_all(layer).unwrap();
        fs::write(layer.join(format!("only-{index}")), "").unwrap();
        fs::write(layer.join("top"), index.to_string()).unwrap();
    }
    make(folder.path(), &layers, &folder.path().join("image")).unwrap();
    let script = "mkdir mnt && mount -t erofs -o ro,loop image mnt && ls mnt | wc -l && cat mnt/top";
    let output = Command::new("unshare")
        .args(["--mount", "sh", "-c", script])
        .current_dir(folder.path())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "132\n126");
}

#[test]
fn nothing_stays_mounted_and_other_threads_keep_their_folder() {
    let folder = tempfile::tempdir().unwrap();
    let before = std::env::current_dir().unwrap();
    make(folder.path(), &[], &folder.path().join("image")).unwrap();
    assert_eq!(std::env::current_dir().unwrap(), before);
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mounts.contains(folder.path().to_str().unwrap()), "{mounts}");
    assert_eq!(fs::metadata(folder.path().join("image")).unwrap().size() % 4096, 0);
}
