//! Layers made in code: what each kind of entry becomes, and what is refused.

use std::fs;
use std::io::{Cursor, Write};
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tar::{Builder, EntryType, Header};
use tempfile::TempDir;

use super::{Unpacked, unpack};
use crate::digest::Digest;
use crate::error::{EntryProblem, Error};
use crate::limits::Limits;

/// Builds an archive entry by entry, with headers as wrong as a test wants them.
struct Tar {
    builder: Builder<Vec<u8>>,
}

impl Tar {
    fn new() -> Self {
        Self { builder: Builder::new(vec![]) }
    }

    fn raw(mut self, kind: EntryType, path: &str, link: &str, mode: u32, data: &[u8]) -> Self {
        let mut header = header(kind, path, link, mode);
        header.set_size(data.len() as u64);
        header.set_cksum();
        self.builder.append(&header, data).unwrap();
        self
    }

    fn file(self, path: &str, data: &[u8]) -> Self {
        self.raw(EntryType::Regular, path, "", 0o644, data)
    }

    fn folder(self, path: &str) -> Self {
        self.raw(EntryType::Directory, path, "", 0o755, b"")
    }

    fn symlink(self, path: &str, target: &str) -> Self {
        self.raw(EntryType::Symlink, path, target, 0o777, b"")
    }

    fn hard_link(self, path: &str, target: &str) -> Self {
        self.raw(EntryType::Link, path, target, 0o644, b"")
    }

    fn pax(mut self, records: &[(&str, &[u8])]) -> Self {
        self.builder.append_pax_extensions(records.iter().map(|(key, value)| (*key, *value))).unwrap();
        self
    }

    fn done(self) -> Vec<u8> {
        self.builder.into_inner().unwrap()
    }
}

/// A header with names as they are: the tar crate's own setters refuse hostile ones.
fn header(kind: EntryType, path: &str, link: &str, mode: u32) -> Header {
    let mut header = Header::new_gnu();
    let old = header.as_old_mut();
    old.name[..path.len()].copy_from_slice(path.as_bytes());
    old.linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(1_700_000_000);
    header
}

fn try_unpack(archive: &[u8]) -> (TempDir, PathBuf, Result<Unpacked, Error>) {
    let folder = tempfile::tempdir().unwrap();
    let root = folder.path().join("fs");
    let result = unpack(Cursor::new(archive), &root, &Limits::default());
    (folder, root, result)
}

#[track_caller]
fn unpacked(archive: &[u8]) -> (TempDir, PathBuf, Unpacked) {
    let (folder, root, result) = try_unpack(archive);
    (folder, root, result.unwrap())
}

/// Unpacks an archive that must be refused, and checks that nothing came to be beside the layer's folder.
#[track_caller]
fn refused(archive: &[u8]) -> String {
    let (folder, _, result) = try_unpack(archive);
    let error = result.expect_err("a hostile archive was taken");
    let beside: Vec<_> =
        fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(beside, ["fs"], "something was written outside of the layer");
    error.to_string()
}

fn xattr(path: &Path, name: &str) -> Option<Vec<u8>> {
    let mut value = vec![0; 256];
    let length = rustix::fs::lgetxattr(path, name, &mut value[..]).ok()?;
    value.truncate(length);
    Some(value)
}

#[test]
fn every_kind_of_entry_becomes_what_it_is() {
    let mut device = header(EntryType::Char, "dev/null", "", 0o666);
    device.set_size(0);
    device.set_device_major(1).unwrap();
    device.set_device_minor(3).unwrap();
    device.set_cksum();
    let mut owned = header(EntryType::Regular, "etc/owned", "", 0o6750);
    owned.set_size(3);
    owned.set_uid(1000);
    owned.set_gid(65535);
    owned.set_cksum();
    let mut tar = Tar::new()
        .raw(EntryType::Directory, "./", "", 0o755, b"")
        .raw(EntryType::Directory, "tmp", "", 0o1777, b"")
        .folder("dev/")
        .file("./etc/hosts", b"localhost")
        .hard_link("etc/hosts2", "./etc/hosts")
        .symlink("abs", "/etc/hosts")
        .symlink("etc/up", "../../../../etc/passwd")
        .raw(EntryType::Fifo, "dev/fifo", "", 0o600, b"");
    tar.builder.append(&device, &b""[..]).unwrap();
    tar.builder.append(&owned, &b"own"[..]).unwrap();
    let archive = tar.done();
    let (_folder, root, report) = unpacked(&archive);
    assert_eq!(report.diff_id, Digest::of(&archive));
    assert_eq!((report.entries, report.size), (10, 12));
    assert_eq!(report.implied, [PathBuf::from("etc")]);
    let at = |path: &str| fs::symlink_metadata(root.join(path)).unwrap();
    assert_eq!(at("tmp").mode() & 0o7777, 0o1777);
    assert_eq!(at("etc").mode() & 0o7777, 0o755);
    assert_eq!((at("etc/hosts").ino(), at("etc/hosts").nlink()), (at("etc/hosts2").ino(), 2));
    assert_eq!(at("etc/hosts").mtime(), 1_700_000_000);
    assert_eq!(at("dev").mtime(), 1_700_000_000, "a folder's time is set after its content was made");
    assert_eq!(fs::read_link(root.join("abs")).unwrap(), Path::new("/etc/hosts"));
    assert_eq!(at("abs").mtime(), 1_700_000_000);
    assert!(at("dev/fifo").file_type().is_fifo());
    assert!(at("dev/null").file_type().is_char_device());
    assert_eq!((at("dev/null").rdev(), at("dev/null").mode() & 0o7777), (rustix::fs::makedev(1, 3), 0o666));
    let owned = at("etc/owned");
    assert_eq!((owned.uid(), owned.gid(), owned.mode() & 0o7777), (1000, 65535, 0o6750));
}

#[test]
fn whiteouts_become_overlayfs_own() {
    let archive = Tar::new()
        .folder("a")
        .file("a/.wh.gone", b"")
        .folder("b")
        .file("b/.wh..wh..opq", b"")
        .file("b/new", b"1")
        .file("c/.wh.x", b"")
        .folder("c/x")
        .folder("d/y")
        .file("d/.wh.y", b"")
        .file("e/z", b"2")
        .file("e/.wh.z", b"")
        .file(".wh..wh.plnk", b"")
        .done();
    let (_folder, root, _) = unpacked(&archive);
    let gone = fs::symlink_metadata(root.join("a/gone")).unwrap();
    assert!(gone.file_type().is_char_device() && gone.rdev() == 0);
    let opaque = |path: &str| xattr(&root.join(path), "trusted.overlay.opaque");
    assert_eq!(opaque("b"), Some(b"y".to_vec()));
    assert_eq!(opaque("c/x"), Some(b"y".to_vec()), "a folder after its own whiteout hides what is below");
    assert_eq!(opaque("d/y"), Some(b"y".to_vec()), "and before it");
    assert_eq!(opaque("a"), None);
    assert_eq!(fs::read(root.join("e/z")).unwrap(), b"2", "a whiteout does not hide its own layer's file");
    assert!(!root.join(".wh..wh.plnk").exists());
}

#[test]
fn long_names_attributes_and_times_come_from_extended_headers() {
    let long = format!("{}/{}", "d".repeat(200), "f".repeat(200));
    let capability = [1, 0, 0, 2, 0, b'\n', 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    let archive = Tar::new()
        .pax(&[
            ("path", long.as_bytes()),
            ("mtime", b"1600000000.25"),
            ("uid", b"70000"),
            ("SCHILY.xattr.user.note", b"a\nb=c"),
            ("SCHILY.xattr.security.capability", &capability),
        ])
        .file("short", b"x")
        .raw(EntryType::GNULongName, "././@LongLink", "", 0, format!("{}\0", "g".repeat(150)).as_bytes())
        .file("gggg", b"y")
        .raw(EntryType::GNULongLink, "././@LongLink", "", 0, format!("{}\0", "t".repeat(150)).as_bytes())
        .symlink("link", "ttt")
        .done();
    let (_folder, root, _) = unpacked(&archive);
    let file = root.join(long);
    let metadata = fs::metadata(&file).unwrap();
    assert_eq!(
        (metadata.mtime(), metadata.mtime_nsec(), metadata.uid()),
        (1_600_000_000, 250_000_000, 70000)
    );
    assert_eq!(xattr(&file, "user.note").unwrap(), b"a\nb=c");
    assert_eq!(xattr(&file, "security.capability").unwrap(), capability, "chown must not take it away");
    assert_eq!(fs::read(root.join("g".repeat(150))).unwrap(), b"y");
    assert_eq!(fs::read_link(root.join("link")).unwrap(), Path::new(&"t".repeat(150)));
}

#[test]
fn sparse_files_of_every_format_keep_their_holes() {
    for flags in [
        &["--format=gnu"][..],
        &["--format=posix", "--sparse-version=0.0"],
        &["--format=posix", "--sparse-version=0.1"],
        &["--format=posix", "--sparse-version=1.0"],
    ] {
        let folder = tempfile::tempdir().unwrap();
        let source = folder.path().join("sparse");
        let mut file = fs::File::create(&source).unwrap();
        let mut expected = vec![0; 9 << 20];
        for piece in 0..40_usize {
            let at = piece * 200_000;
            expected[at..at + 5].copy_from_slice(b"piece");
        }
        file.write_all(&expected[..5]).unwrap();
        for piece in 1..40_u64 {
            std::os::unix::fs::FileExt::write_all_at(&file, b"piece", piece * 200_000).unwrap();
        }
        file.set_len(9 << 20).unwrap();
        let archive = folder.path().join("a.tar");
        let mut tar = std::process::Command::new("tar");
        let made =
            tar.arg("-cSf").arg(&archive).args(flags).arg("-C").arg(folder.path()).arg("sparse").status();
        assert!(made.unwrap().success());
        let (_unpacked, root, report) = unpacked(&fs::read(&archive).unwrap());
        assert!(fs::read(root.join("sparse")).unwrap() == expected, "{flags:?}");
        let blocks = fs::metadata(root.join("sparse")).unwrap().blocks() * 512;
        assert!(blocks < 1 << 20 && report.size < 1 << 20, "{flags:?} has no holes: {blocks} bytes");
    }
}

#[test]
fn gzip_and_zstd_are_told_by_their_first_bytes() {
    let archive = Tar::new().file("a", &vec![7; 300_000]).done();
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    let half = archive.len() / 2;
    gzip.write_all(&archive[..half]).unwrap();
    let mut members = gzip.finish().unwrap();
    let mut gzip = flate2::write::GzEncoder::new(vec![], flate2::Compression::fast());
    gzip.write_all(&archive[half..]).unwrap();
    members.extend(gzip.finish().unwrap());
    let zstd = zstd::encode_all(Cursor::new(&archive), 1).unwrap();
    for compressed in [&archive, &members, &zstd] {
        let (_folder, root, report) = unpacked(compressed);
        assert_eq!(report.diff_id, Digest::of(&archive));
        assert_eq!(fs::read(root.join("a")).unwrap(), vec![7; 300_000]);
    }
    for cut in [members.len() / 2, members.len() - 3] {
        assert!(refused(&members[..cut]).contains("ends in the middle"), "gzip cut at {cut}");
    }
    assert!(refused(&zstd[..zstd.len() - 3]).contains("compressed data"), "zstd cut");
    assert!(refused(b"BZh91AY&SY").contains("bzip2"));
}

#[test]
fn names_and_links_that_leave_the_layer_are_refused_by_name() {
    let cases: [(&str, Tar); 14] = [
        ("/etc/x", Tar::new().file("/etc/x", b"")),
        ("../x", Tar::new().file("../x", b"")),
        ("a/../../x", Tar::new().file("a/../../x", b"")),
        ("a/..", Tar::new().folder("a/..")),
        ("l/x", Tar::new().symlink("l", "/tmp").file("l/x", b"")),
        ("l/x", Tar::new().symlink("l", "../..").file("l/x", b"")),
        ("l/d/", Tar::new().symlink("l", "..").folder("l/d/")),
        ("l/null", Tar::new().symlink("l", "/dev").raw(EntryType::Char, "l/null", "", 0o666, b"")),
        ("l/.wh.x", Tar::new().symlink("l", "/").file("l/.wh.x", b"")),
        ("h", Tar::new().hard_link("h", "/etc/passwd")),
        ("h", Tar::new().hard_link("h", "../../etc/passwd")),
        ("h", Tar::new().symlink("l", "/etc").hard_link("h", "l/passwd")),
        (".wh...", Tar::new().file(".wh...", b"")),
        (".", Tar::new().symlink(".", "/")),
    ];
    for (entry, tar) in cases {
        let error = refused(&tar.done());
        assert!(error.contains(&format!("entry {entry:?}")), "{entry}: {error}");
    }
}

#[test]
fn nothing_is_written_through_what_is_there_already() {
    let outside = tempfile::tempdir().unwrap();
    let victim = outside.path().join("victim");
    fs::write(&victim, "before").unwrap();
    let target = victim.to_str().unwrap();
    assert!(target.len() < 100, "the victim's path must fit the header");
    let archive = Tar::new()
        .symlink("a", target)
        .file("a", b"new")
        .symlink("b", target)
        .hard_link("c", "b")
        .file("c", b"new")
        .file("d", b"one")
        .hard_link("e", "d")
        .file("e", b"two")
        .folder("f")
        .file("f/x", b"")
        .file("f", b"now a file")
        .file("g", b"")
        .folder("g")
        .symlink("h", "f")
        .folder("h")
        .done();
    let (_folder, root, _) = unpacked(&archive);
    assert_eq!(fs::read(&victim).unwrap(), b"before");
    assert_eq!(fs::read(root.join("a")).unwrap(), b"new");
    assert_eq!(fs::read(root.join("c")).unwrap(), b"new");
    assert_eq!(fs::read(root.join("d")).unwrap(), b"one");
    assert_eq!(fs::read(root.join("f")).unwrap(), b"now a file");
    assert!(root.join("g").is_dir() && fs::symlink_metadata(root.join("h")).unwrap().is_dir());
}

#[test]
fn links_inside_of_the_layer_are_followed() {
    let archive = Tar::new().folder("usr/lib").symlink("lib", "usr/lib").file("lib/x", b"1").done();
    let (_folder, root, _) = unpacked(&archive);
    assert_eq!(fs::read(root.join("usr/lib/x")).unwrap(), b"1");
}

#[test]
fn missing_targets_and_overlay_attributes_are_refused() {
    let missing = refused(&Tar::new().hard_link("h", "nothing").done());
    assert!(missing.contains("entry \"h\"") && missing.contains("nothing"), "{missing}");
    let own =
        refused(&Tar::new().pax(&[("SCHILY.xattr.trusted.overlay.redirect", b"/etc")]).folder("a").done());
    assert!(own.contains("trusted.overlay.redirect"), "{own}");
    let under_a_file = refused(&Tar::new().file("a", b"").file("a/b", b"").done());
    assert!(under_a_file.contains("entry \"a/b\""), "{under_a_file}");
}

#[test]
fn limits_hold_for_bytes_entries_and_names() {
    let limits = Limits { layer_bytes: 1 << 20, layer_entries: 10 };
    let over = |archive: &[u8]| {
        let folder = tempfile::tempdir().unwrap();
        unpack(Cursor::new(archive), &folder.path().join("fs"), &limits).unwrap_err()
    };
    let mut bomb = flate2::write::GzEncoder::new(vec![], flate2::Compression::best());
    bomb.write_all(&Tar::new().file("zeros", &vec![0; 64 << 20]).done()).unwrap();
    let bomb = bomb.finish().unwrap();
    assert!(bomb.len() < 100_000);
    assert!(matches!(over(&bomb), Error::Limit { unit: "bytes", limit: 1_048_576, .. }));
    // Behind the archive's end, too: it has to be read for the digest.
    let mut padded = Tar::new().done();
    padded.resize(2 << 20, 0);
    assert!(matches!(over(&padded), Error::Limit { unit: "bytes", .. }));
    let many = (0..11).fold(Tar::new(), |tar, n| tar.file(&n.to_string(), b"")).done();
    assert!(matches!(over(&many), Error::Limit { unit: "entries", limit: 10, .. }));
    let name = Tar::new().raw(EntryType::GNULongName, "././@LongLink", "", 0, &vec![b'n'; 2 << 20]).done();
    let error = refused(&name);
    assert!(error.contains("long name"), "{error}");
}

#[test]
fn damaged_archives_are_refused_wherever_they_are_cut() {
    let archive = Tar::new().file("one", &[1; 2000]).pax(&[("path", b"two")]).file("x", &[2; 2000]).done();
    let whole = Digest::of(&archive);
    for cut in (1..archive.len() - 1024).step_by(97) {
        let (_folder, _, result) = try_unpack(&archive[..cut]);
        match result {
            Err(Error::Archive { .. } | Error::Entry { problem: EntryProblem::Header(_), .. }) => {}
            // Between two entries only the digest tells.
            Ok(report) => assert_ne!(report.diff_id, whole, "cut at {cut}"),
            Err(other) => panic!("cut at {cut}: {other}"),
        }
    }
    let mut flipped = archive.clone();
    flipped[0] ^= 1;
    assert!(refused(&flipped).contains("checksum"));
}

/// Random headers: whatever they say, nothing panics, hangs or leaves the folder.
#[test]
fn random_archives_never_leave_the_layer() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let kinds = b"0123456xgLKS7\0";
    let names = [
        "a",
        "b/",
        "./c",
        "a/b",
        "b/a",
        "../a",
        "/a",
        "c/../b",
        ".wh.a",
        "b/.wh..wh..opq",
        ".",
        "",
        "b/c/d",
        "l/x",
    ];
    let targets = ["a", "..", "/", "b", "../../a", "b/a", "l", ".", ""];
    for _ in 0..400 {
        let mut tar = Tar::new();
        for _ in 0..8 {
            let kind = EntryType::new(kinds[random(kinds.len() as u64) as usize]);
            let name = names[random(names.len() as u64) as usize];
            let target = targets[random(targets.len() as u64) as usize];
            let data = vec![b'0' + random(10) as u8; random(600) as usize];
            tar = tar.raw(kind, name, target, random(0o10000) as u32, &data);
        }
        let mut archive = tar.done();
        if random(3) == 0 {
            let at = random(archive.len() as u64) as usize;
            archive[at] ^= 1 << random(8);
        }
        let (folder, _, _) = try_unpack(&archive);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
    }
}

#[test]
fn the_folder_is_closed_while_it_is_filled_and_open_after() {
    let (_folder, root, _) = unpacked(&Tar::new().file("a", b"").done());
    assert_eq!(fs::metadata(&root).unwrap().permissions().mode() & 0o7777, 0o755);
}
