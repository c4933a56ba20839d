//! Owners, permissions, extended attributes.

use std::fs::{self, File, Permissions};
use std::io::{ErrorKind, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, PermissionsExt, chown, lchown, symlink};

use rustix::fs::XattrFlags;
use rustix::io::Errno;

use crate::guest::as_user;
use crate::{Case, Folder, at};

pub const CASES: &[Case] = &[
    Case::new("owners", owners).check(check_owners),
    Case::new("permissions", permissions),
    Case::new("groups", groups).check(check_groups),
    Case::new("privileged-bits", privileged_bits),
    Case::new("times", times).check(check_times),
    Case::new("extended-attributes", attributes).check(check_attributes),
];

const USER: u32 = 1000;
const OTHER: u32 = 1001;
const TEAM: u32 = 2000;

fn mode(name: &str) -> u32 {
    fs::metadata(at(name)).unwrap().mode() & 0o7777
}

fn chmod(name: &str, mode: u32) {
    fs::set_permissions(at(name), Permissions::from_mode(mode)).unwrap();
}

fn owner(name: &str) -> (u32, u32) {
    let metadata = fs::symlink_metadata(at(name)).unwrap();
    (metadata.uid(), metadata.gid())
}

fn owners() {
    chmod("", 0o1777);
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o027));
    as_user(USER, TEAM, &[], || {
        fs::write(at("file"), b"").unwrap();
        fs::create_dir(at("folder")).unwrap();
        symlink("file", at("link")).unwrap();
        drop(std::os::unix::net::UnixListener::bind(at("socket")).unwrap());
        File::options().write(true).create_new(true).mode(0o4755).open(at("set-user-id")).unwrap();
    });
    for name in ["file", "folder", "link", "socket", "set-user-id"] {
        assert_eq!(owner(name), (USER, TEAM), "{name}");
    }
    assert_eq!((mode("file"), mode("folder"), mode("set-user-id")), (0o640, 0o750, 0o4750));
    File::create(at("of-root")).unwrap();
    assert_eq!((owner("of-root"), mode("of-root")), ((0, 0), 0o640));
    chown(at("of-root"), Some(OTHER), Some(TEAM)).unwrap();
    lchown(at("link"), Some(OTHER), None).unwrap();
    assert_eq!(
        (owner("of-root"), owner("link"), owner("file")),
        ((OTHER, TEAM), (OTHER, TEAM), (USER, TEAM))
    );
}

fn check_owners(folder: &Folder) {
    let metadata = |name: &str| fs::symlink_metadata(folder.at(name)).unwrap();
    assert_eq!(
        (metadata("file").uid(), metadata("file").gid(), metadata("file").mode() & 0o7777),
        (USER, TEAM, 0o640)
    );
    assert_eq!((metadata("of-root").uid(), metadata("link").uid()), (OTHER, OTHER));
}

fn permissions() {
    chmod("", 0o755);
    fs::write(at("private"), b"private").unwrap();
    chmod("private", 0o600);
    fs::write(at("readable"), b"readable").unwrap();
    chmod("readable", 0o644);
    fs::create_dir(at("closed")).unwrap();
    fs::write(at("closed/file"), b"").unwrap();
    chmod("closed", 0o700);
    fs::create_dir(at("open")).unwrap();
    chmod("open", 0o1777);
    let denied =
        |result: std::io::Result<()>| assert_eq!(result.unwrap_err().kind(), ErrorKind::PermissionDenied);
    as_user(USER, USER, &[], || {
        denied(fs::read(at("private")).map(drop));
        denied(fs::write(at("readable"), b""));
        denied(fs::write(at("new"), b""));
        denied(fs::metadata(at("closed/file")).map(drop));
        denied(fs::remove_file(at("readable")));
        denied(chown(at("readable"), Some(USER), None));
        denied(fs::set_permissions(at("readable"), Permissions::from_mode(0o666)));
        assert_eq!(fs::read(at("readable")).unwrap(), b"readable");
        fs::write(at("open/of-user"), b"").unwrap();
        // The owner may do with a file what its own bits do not allow others.
        chmod("open/of-user", 0o000);
        denied(fs::read(at("open/of-user")).map(drop));
        chmod("open/of-user", 0o400);
        denied(fs::write(at("open/of-user"), b""));
        // Made read-only, and written through the descriptor that made it.
        let mut file =
            File::options().write(true).create_new(true).mode(0o400).open(at("open/write-once")).unwrap();
        file.write_all(b"once").unwrap();
    });
    // In a sticky folder nobody removes what others own.
    as_user(OTHER, OTHER, &[], || {
        denied(fs::remove_file(at("open/of-user")));
        denied(fs::rename(at("open/of-user"), at("open/mine")));
    });
    // Root overrides bits.
    chmod("open/of-user", 0o000);
    fs::write(at("open/of-user"), b"by root").unwrap();
}

fn groups() {
    for (name, bits) in [("team", 0o770), ("inheriting", 0o2775)] {
        fs::create_dir(at(name)).unwrap();
        chown(at(name), Some(0), Some(TEAM)).unwrap();
        chmod(name, bits);
    }
    // A member by a supplementary group only.
    as_user(USER, USER, &[TEAM], || {
        fs::write(at("team/file"), b"").unwrap();
        fs::create_dir(at("team/folder")).unwrap();
        symlink("x", at("team/link")).unwrap();
        fs::write(at("inheriting/file"), b"").unwrap();
        fs::create_dir(at("inheriting/folder")).unwrap();
        fs::rename(at("team/file"), at("team/renamed")).unwrap();
        chown(at("team/renamed"), None, Some(TEAM)).unwrap();
    });
    assert_eq!((owner("team/renamed"), owner("team/folder")), ((USER, TEAM), (USER, USER)));
    assert_eq!((owner("inheriting/file"), owner("inheriting/folder")), ((USER, TEAM), (USER, TEAM)));
    assert_eq!((mode("inheriting/file") & 0o2000, mode("inheriting/folder") & 0o2000), (0, 0o2000));
    as_user(OTHER, OTHER, &[], || {
        assert_eq!(fs::write(at("team/intruder"), b"").unwrap_err().kind(), ErrorKind::PermissionDenied);
    });
}

fn check_groups(folder: &Folder) {
    let metadata = fs::metadata(folder.at("inheriting/folder")).unwrap();
    assert_eq!((metadata.uid(), metadata.gid(), metadata.mode() & 0o2000), (USER, TEAM, 0o2000));
}

/// Set-user-id and set-group-id are lost when somebody else changes the content or the owner.
fn privileged_bits() {
    for name in ["written", "truncated", "given", "by-root"] {
        fs::write(at(name), b"content").unwrap();
        chmod(name, 0o6777);
        assert_eq!(mode(name), 0o6777);
    }
    as_user(USER, USER, &[], || {
        File::options().write(true).open(at("written")).unwrap().write_all(b"x").unwrap();
        File::options().write(true).truncate(true).open(at("truncated")).unwrap();
    });
    assert_eq!((mode("written"), mode("truncated")), (0o777, 0o777));
    chown(at("given"), Some(USER), None).unwrap();
    assert_eq!(mode("given"), 0o777);
    File::options().write(true).open(at("by-root")).unwrap().write_all(b"x").unwrap();
    assert_eq!(mode("by-root"), 0o6777, "a write by root keeps them, as on any file system");
}

fn times() {
    let before = std::time::SystemTime::now();
    fs::write(at("file"), b"").unwrap();
    let made = fs::metadata(at("file")).unwrap().modified().unwrap();
    let apart = made.duration_since(before).unwrap_or_else(|error| error.duration());
    assert!(apart.as_secs() < 5, "clocks of host and guest: {apart:?} apart");
    let file = File::options().write(true).open(at("file")).unwrap();
    let second = std::time::UNIX_EPOCH + std::time::Duration::new(1_000_000_000, 123_456_789);
    file.set_times(fs::FileTimes::new().set_modified(second).set_accessed(second)).unwrap();
    let metadata = fs::metadata(at("file")).unwrap();
    assert_eq!((metadata.modified().unwrap(), metadata.accessed().unwrap()), (second, second));
}

fn check_times(folder: &Folder) {
    let metadata = fs::metadata(folder.at("file")).unwrap();
    assert_eq!((metadata.mtime(), metadata.mtime_nsec()), (1_000_000_000, 123_456_789));
}

fn get(name: &str, key: &str) -> Result<Vec<u8>, Errno> {
    let mut value = vec![0; 70_000];
    let length = rustix::fs::lgetxattr(at(name), key, &mut value)?;
    value.truncate(length);
    Ok(value)
}

fn attributes() {
    fs::write(at("file"), b"").unwrap();
    fs::create_dir(at("folder")).unwrap();
    let set = |name: &str, key: &str, value: &[u8], flags| rustix::fs::lsetxattr(at(name), key, value, flags);
    for name in ["file", "folder"] {
        for (key, value) in [("user.one", &b"value"[..]), ("user.empty", b""), ("user.overlay.opaque", b"y")]
        {
            set(name, key, value, XattrFlags::empty()).unwrap();
            assert_eq!(get(name, key).unwrap(), value);
        }
        assert_eq!(set(name, "user.one", b"", XattrFlags::CREATE), Err(Errno::EXIST));
        assert_eq!(set(name, "user.none", b"", XattrFlags::REPLACE), Err(Errno::NODATA));
        assert_eq!(get(name, "user.none"), Err(Errno::NODATA));
        let mut list = vec![0; 1000];
        let length = rustix::fs::llistxattr(at(name), &mut list).unwrap();
        let list = String::from_utf8(list[..length].to_vec()).unwrap();
        let keys: std::collections::BTreeSet<_> = list.split_terminator('\0').collect();
        assert!(
            ["user.one", "user.empty", "user.overlay.opaque"].iter().all(|key| keys.contains(key)),
            "{keys:?}"
        );
        rustix::fs::lremovexattr(at(name), "user.empty").unwrap();
        assert_eq!(get(name, "user.empty"), Err(Errno::NODATA));
        // Too small a buffer says how much is needed.
        assert_eq!(rustix::fs::lgetxattr(at(name), "user.one", &mut [0; 2]), Err(Errno::RANGE));
        assert_eq!(rustix::fs::lgetxattr_query(at(name), "user.one"), Ok(5));
    }
    set("file", "user.large", &[7; 2000], XattrFlags::empty()).unwrap();
    assert_eq!(get("file", "user.large").unwrap(), vec![7; 2000]);
    // File capabilities, as installing ping does.
    const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    set("file", "security.capability", &NET_RAW, XattrFlags::empty()).unwrap();
    assert_eq!(get("file", "security.capability").unwrap(), NET_RAW);
    fs::write(at("file"), b"changed").unwrap();
    assert_eq!(get("file", "security.capability"), Err(Errno::NODATA), "a write takes them away");
    // POSIX access control lists are not offered.
    assert_eq!(get("file", "system.posix_acl_access"), Err(Errno::NOTSUP));
}

fn check_attributes(folder: &Folder) {
    let mut value = [0; 16];
    let length = rustix::fs::getxattr(folder.at("folder"), "user.one", &mut value).unwrap();
    assert_eq!(&value[..length], b"value");
}
