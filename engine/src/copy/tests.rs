use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::path::Path;

use super::*;

/// A host folder and a "container" whose root is another folder, beside a secret that neither may reach.
struct Scene {
    folder: tempfile::TempDir,
}

impl Scene {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["host", "root/etc", "root/data"] {
            fs::create_dir_all(folder.path().join(name)).unwrap();
        }
        fs::write(folder.path().join("secret"), "secret").unwrap();
        fs::write(folder.path().join("root/etc/conf"), "inside").unwrap();
        Self { folder }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn container(&self) -> Root {
        Root::container(&self.path("root"), 0).unwrap()
    }

    fn get(&self, source: &str, target: &str) -> Result<Report> {
        let host = Root::host().unwrap();
        copy(
            &self.container(),
            Path::new(source),
            &host,
            &self.path(target),
            Ownership::Destination,
            Links::Keep,
        )
    }

    fn put(&self, source: &str, target: &str) -> Result<Report> {
        let host = Root::host().unwrap();
        copy(
            &host,
            &self.path(source),
            &self.container(),
            Path::new(target),
            Ownership::Destination,
            Links::Keep,
        )
    }

    fn text(&self, name: &str) -> String {
        fs::read_to_string(self.path(name)).unwrap_or_else(|error| panic!("{name}: {error}"))
    }
}

#[test]
fn a_file_goes_where_docker_puts_it() {
    let scene = Scene::new();
    scene.get("/etc/conf", "host").unwrap();
    assert_eq!(scene.text("host/conf"), "inside");
    scene.get("etc/conf", "host/other").unwrap();
    assert_eq!(scene.text("host/other"), "inside");
    fs::write(scene.path("host/new"), "new").unwrap();
    assert_eq!(scene.put("host/new", "/etc/conf").unwrap().bytes, 3);
    assert_eq!(scene.text("root/etc/conf"), "new");
    scene.put("host/new", "/data/").unwrap();
    assert_eq!(scene.text("root/data/new"), "new");
}

#[test]
fn a_folder_goes_where_docker_puts_it() {
    let scene = Scene::new();
    fs::create_dir_all(scene.path("host/site/sub")).unwrap();
    fs::write(scene.path("host/site/sub/page"), "page").unwrap();
    scene.put("host/site", "/data").unwrap();
    assert_eq!(scene.text("root/data/site/sub/page"), "page");
    scene.put("host/site/.", "/data").unwrap();
    assert_eq!(scene.text("root/data/sub/page"), "page");
    scene.put("host/site", "/new").unwrap();
    assert_eq!(scene.text("root/new/sub/page"), "page");
    scene.put("host/site/.", "/newer").unwrap();
    assert_eq!(scene.text("root/newer/sub/page"), "page");
    scene.get("/", "host/all").unwrap();
    assert_eq!(scene.text("host/all/etc/conf"), "inside");
}

#[test]
fn what_does_not_fit_is_refused_with_its_path() {
    let scene = Scene::new();
    fs::create_dir(scene.path("host/folder")).unwrap();
    fs::create_dir_all(scene.path("root/data/folder/conf")).unwrap();
    fs::write(scene.path("host/file"), "x").unwrap();
    for (result, part) in [
        (scene.get("/nope", "host"), "container:/nope"),
        (scene.get("/etc/conf/", "host"), "not a folder"),
        (scene.get("/etc/conf", "host/no/such"), "make it first"),
        (scene.put("host/file", "/no/such/file"), "container:/no/such/file"),
        (scene.put("host/file", "/nope/"), "make it first"),
        (scene.put("host/folder", "/etc/conf"), "not a folder"),
        (scene.get("/etc/conf", "root/data/folder"), "is a folder"),
    ] {
        let error = result.unwrap_err().to_string();
        assert!(error.contains(part), "{part} is not in {error}");
    }
}

/// CVE-2018-15664, CVE-2019-14271 and their kin: links that a container made must not lead to the host.
#[test]
fn links_of_a_container_never_lead_out_of_it() {
    let scene = Scene::new();
    let secret = scene.path("secret");
    let up = "../../../../../../../../..";
    symlink(&secret, scene.path("root/absolute")).unwrap();
    symlink(format!("{up}{}", secret.display()), scene.path("root/relative")).unwrap();
    symlink(scene.folder.path(), scene.path("root/folder")).unwrap();
    symlink("/proc/self/root", scene.path("root/magic")).unwrap();
    fs::write(scene.path("host/file"), "written").unwrap();
    let host = Root::host().unwrap();
    let target = scene.path("host");
    for source in ["/absolute", "/relative", "/folder/secret", "/magic/etc/passwd", "/../../secret"] {
        let followed =
            copy(&scene.container(), Path::new(source), &host, &target, Ownership::Preserve, Links::Follow);
        assert!(matches!(followed, Err(CopyError::NotFound { .. })), "{source}: {followed:?}");
    }
    for target in ["/absolute", "/relative", "/folder/secret"] {
        let _ = scene.put("host/file", target);
        assert_eq!(scene.text("secret"), "secret", "{target}");
    }
    let _ = scene.put("host/file", "/folder");
    assert!(!scene.path("file").exists());
}

#[test]
fn a_link_is_copied_as_a_link_and_followed_on_demand() {
    let scene = Scene::new();
    symlink("/etc/conf", scene.path("root/link")).unwrap();
    scene.get("/link", "host/link").unwrap();
    assert_eq!(fs::read_link(scene.path("host/link")).unwrap(), Path::new("/etc/conf"));
    let host = Root::host().unwrap();
    let target = scene.path("host/content");
    copy(&scene.container(), Path::new("/link"), &host, &target, Ownership::Destination, Links::Follow)
        .unwrap();
    assert_eq!(scene.text("host/content"), "inside");
    fs::write(scene.path("host/file"), "through").unwrap();
    scene.put("host/file", "/link").unwrap();
    assert_eq!(scene.text("root/etc/conf"), "through", "a link as target is followed, inside");
}

#[test]
fn attributes_come_along_and_set_user_id_only_on_demand() {
    let scene = Scene::new();
    let tool = scene.path("root/data/tool");
    fs::write(&tool, "tool").unwrap();
    std::os::unix::fs::chown(&tool, Some(1234), Some(2345)).unwrap();
    fs::set_permissions(&tool, fs::Permissions::from_mode(0o4751)).unwrap();
    let old = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1_000_000_000);
    fs::File::options().write(true).open(&tool).unwrap().set_modified(old).unwrap();

    scene.get("/data/tool", "host/plain").unwrap();
    let plain = fs::metadata(scene.path("host/plain")).unwrap();
    assert_eq!((plain.uid(), plain.gid(), plain.mode() & 0o7777), (0, 0, 0o751));
    assert_eq!(plain.modified().unwrap(), old);

    let host = Root::host().unwrap();
    let target = scene.path("host/whole");
    copy(&scene.container(), Path::new("/data/tool"), &host, &target, Ownership::Preserve, Links::Keep)
        .unwrap();
    let whole = fs::metadata(target).unwrap();
    assert_eq!((whole.uid(), whole.gid(), whole.mode() & 0o7777), (1234, 2345, 0o4751));
}

#[test]
fn ids_move_into_and_out_of_a_mapped_container() {
    let scene = Scene::new();
    let base = 700_000;
    let root = Root::container(&scene.path("root"), base).unwrap();
    let host = Root::host().unwrap();
    let file = scene.path("host/file");
    fs::write(&file, "x").unwrap();
    std::os::unix::fs::chown(&file, Some(5), Some(6)).unwrap();
    let owner = |name: &str| {
        let metadata = fs::symlink_metadata(scene.path(name)).unwrap();
        (metadata.uid(), metadata.gid())
    };
    copy(&host, &file, &root, Path::new("/data/plain"), Ownership::Destination, Links::Keep).unwrap();
    assert_eq!(owner("root/data/plain"), (base, base));
    copy(&host, &file, &root, Path::new("/data/whole"), Ownership::Preserve, Links::Keep).unwrap();
    assert_eq!(owner("root/data/whole"), (base + 5, base + 6));
    let target = scene.path("host/back");
    copy(&root, Path::new("/data/whole"), &host, &target, Ownership::Preserve, Links::Keep).unwrap();
    assert_eq!(owner("host/back"), (5, 6));
}

#[test]
fn hard_links_fifos_and_special_files() {
    let scene = Scene::new();
    let tree = scene.path("host/tree");
    fs::create_dir(&tree).unwrap();
    fs::write(tree.join("a"), "one").unwrap();
    fs::hard_link(tree.join("a"), tree.join("b")).unwrap();
    nix::unistd::mkfifo(&tree.join("fifo"), nix::sys::stat::Mode::from_bits_truncate(0o644)).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(tree.join("socket")).unwrap();
    let report = scene.put("host/tree", "/data").unwrap();
    assert_eq!(report.bytes, 3, "a file with two names is copied once");
    assert_eq!(report.skipped.len(), 1);
    let inode = |name: &str| fs::metadata(scene.path(name)).unwrap().ino();
    assert_eq!(inode("root/data/tree/a"), inode("root/data/tree/b"));
    assert!(fs::metadata(scene.path("root/data/tree/fifo")).unwrap().file_type().is_fifo());
    assert!(!scene.path("root/data/tree/socket").exists());
}

#[test]
fn archives_go_out_and_in() {
    let scene = Scene::new();
    let deep = format!("root/data/{}", "long-folder-name/".repeat(12));
    fs::create_dir_all(scene.path(&deep)).unwrap();
    fs::write(scene.path(&format!("{deep}file")), "deep").unwrap();
    fs::hard_link(scene.path(&format!("{deep}file")), scene.path("root/data/again")).unwrap();
    symlink("/etc/conf", scene.path("root/data/link")).unwrap();
    let mut archive = vec![];
    pack(&scene.container(), Path::new("/data"), &mut archive, Links::Keep).unwrap();

    fs::create_dir(scene.path("root/copy")).unwrap();
    let target = Path::new("/copy");
    unpack(archive.as_slice(), &scene.container(), target, Ownership::Preserve).unwrap();
    let copied = |name: &str| scene.path(&name.replacen("root/data", "root/copy/data", 1));
    assert_eq!(fs::read_to_string(copied(&format!("{deep}file"))).unwrap(), "deep");
    assert_eq!(fs::metadata(copied("root/data/again")).unwrap().nlink(), 2);
    assert_eq!(fs::read_link(copied("root/data/link")).unwrap(), Path::new("/etc/conf"));
}

#[test]
fn hostile_archives_stay_inside() {
    let scene = Scene::new();
    let entry = |name: &str, kind: tar::EntryType, link: &str| {
        let mut header = tar::Header::new_gnu();
        // The checked setters refuse `..`, which is what is wanted here.
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
        header.set_entry_type(kind);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.set_size(if kind == tar::EntryType::Regular { 4 } else { 0 });
        header.set_cksum();
        let mut bytes = header.as_bytes().to_vec();
        if kind == tar::EntryType::Regular {
            bytes.extend([b'e'; 4]);
            bytes.extend([0; 508]);
        }
        bytes
    };
    let put = |entries: &[Vec<u8>]| {
        let mut archive = entries.concat();
        archive.extend([0; 1024]);
        unpack(archive.as_slice(), &scene.container(), Path::new("/data"), Ownership::Preserve)
    };
    use tar::EntryType::{Link, Regular, Symlink};
    let folder = scene.folder.path().display().to_string();

    let error = put(&[entry("../../secret", Regular, "")]).unwrap_err().to_string();
    assert!(error.contains("../../secret"), "{error}");
    put(&[entry("out", Symlink, &folder), entry("out/secret", Regular, "")]).unwrap_err();
    put(&[entry("hard", Link, "../../secret")]).unwrap_err();
    put(&[entry("slink", Symlink, &format!("{folder}/secret")), entry("hard", Link, "slink")]).unwrap_err();
    put(&[entry("/absolute", Regular, "")]).unwrap();
    assert_eq!(scene.text("root/data/absolute"), "eeee");
    assert_eq!(scene.text("secret"), "secret");
    let error =
        unpack(&b"this is no archive"[..], &scene.container(), Path::new("/data"), Ownership::Preserve);
    assert!(matches!(error, Err(CopyError::Archive { .. })));
}
