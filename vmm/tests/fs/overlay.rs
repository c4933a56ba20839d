//! The shared folder as the upper layer of an overlay, as a container's write layer is.

use std::collections::BTreeSet;
use std::ffi::CString;
use std::fs::{self, File, Permissions};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, chown, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, XattrFlags, mknodat, renameat_with};
use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};

use crate::guest::as_user;
use crate::{Case, Folder};

pub const CASES: &[Case] = &[
    Case::new("overlay", overlay).prepare(prepare).check(check),
    Case::new("overlay-known", overlay_known).prepare(prepare).check(check),
    Case::new("overlay-first-write", first_writes),
    Case::new("overlay-old-layer", old_layer).prepare(prepare),
    Case::new("overlay-packages", packages).prepare(prepare).smp(),
    Case::new("overlay-database", database).prepare(prepare).smp(),
];

fn prepare(folder: &Folder) {
    for name in ["upper", "work"] {
        fs::create_dir(folder.at(name)).unwrap();
        fs::set_permissions(folder.at(name), Permissions::from_mode(0o755)).unwrap();
    }
}

const CAPABILITY: &str = "security.capability";
const NET_RAW: [u8; 20] = [1, 0, 0, 2, 0, 0x20, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

fn joined(name: &str) -> PathBuf {
    Path::new("/tmp/joined").join(name)
}

/// What any kernel takes.
const PLAIN: &str = "userxattr";
/// As init mounts it; of our kernels.
const KNOWN: &str = "userxattr,known_upper,private_upper";

fn mount_overlay(options: &str) {
    make_lower();
    mount_joined(options);
}

fn make_lower() {
    let lower = Path::new("/tmp/lower");
    for folder in ["etc/conf.d", "usr/lib", "var/cache/old", "tree/a/b"] {
        fs::create_dir_all(lower.join(folder)).unwrap();
    }
    for file in
        ["etc/passwd", "etc/conf.d/one", "usr/lib/large", "var/cache/old/x", "tree/a/b/leaf", "removed"]
    {
        fs::write(lower.join(file), format!("{file} of the image\n").repeat(1000)).unwrap();
    }
    fs::set_permissions(lower.join("etc/passwd"), Permissions::from_mode(0o4711)).unwrap();
    // As ping and chage are.
    fs::write(lower.join("usr/lib/ping"), b"ping").unwrap();
    chown(lower.join("usr/lib/ping"), Some(5), Some(42)).unwrap();
    fs::set_permissions(lower.join("usr/lib/ping"), Permissions::from_mode(0o2755)).unwrap();
    rustix::fs::setxattr(lower.join("usr/lib/ping"), CAPABILITY, &NET_RAW, XattrFlags::empty()).unwrap();
    symlink("passwd", lower.join("etc/link")).unwrap();
    fs::hard_link(lower.join("etc/passwd"), lower.join("etc/passwd-")).unwrap();
    fs::create_dir("/tmp/joined").unwrap();
}

fn mount_joined(options: &str) {
    mount_layer("", options);
}

/// With the folders of the write layer in the share's `folder`.
fn mount_layer(folder: &str, options: &str) {
    let write = Path::new("/mnt").join(folder);
    let write = write.display();
    let options = format!("lowerdir=/tmp/lower,upperdir={write}/upper,workdir={write}/work,{options}");
    let options = CString::new(options).unwrap();
    mount("overlay", "/tmp/joined", "overlay", MountFlags::empty(), Some(options.as_c_str()))
        .expect("an overlay over the share");
}

fn unmount_joined() {
    unmount("/tmp/joined", UnmountFlags::empty()).unwrap();
}

fn remount(options: &str) {
    unmount_joined();
    mount_joined(options);
}

fn names(folder: &str) -> BTreeSet<String> {
    let entries = fs::read_dir(joined(folder)).unwrap();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

fn overlay() {
    all_operations(PLAIN);
}

fn overlay_known() {
    all_operations(KNOWN);
}

fn all_operations(options: &str) {
    mount_overlay(options);
    let read = |name: &str| fs::read_to_string(joined(name)).unwrap();
    assert!(read("etc/passwd").starts_with("etc/passwd of the image"));

    // Made, changed (copied up, with its bits), removed.
    fs::write(joined("etc/new"), b"new").unwrap();
    File::options().append(true).open(joined("etc/passwd")).unwrap().write_all(b"appended").unwrap();
    assert!(read("etc/passwd").ends_with("appended"));
    fs::remove_file(joined("removed")).unwrap();
    fs::remove_file(joined("etc/link")).unwrap();
    assert!(!joined("removed").exists() && !names("").contains("removed"));
    // Copied up for a new time or link only: keeps all that makes it privileged.
    let ping = File::open(joined("usr/lib/ping")).unwrap();
    ping.set_times(fs::FileTimes::new().set_modified(std::time::UNIX_EPOCH)).unwrap();
    drop(ping);
    // A change of owner by a program takes it away, here as everywhere.
    fs::write(joined("etc/given"), b"").unwrap();
    fs::set_permissions(joined("etc/given"), Permissions::from_mode(0o4755)).unwrap();
    chown(joined("etc/given"), Some(5), Some(5)).unwrap();
    assert_eq!(fs::metadata(joined("etc/given")).unwrap().mode() & 0o7777, 0o755);
    // Removed and made again: a file, a folder that no longer shows the image's content.
    fs::write(joined("removed"), b"again").unwrap();
    fs::remove_dir_all(joined("var/cache")).unwrap();
    fs::create_dir(joined("var/cache")).unwrap();
    assert_eq!(names("var/cache"), BTreeSet::new());
    // Attributes.
    chown(joined("usr/lib/large"), Some(33), Some(33)).unwrap();
    fs::set_permissions(joined("usr/lib"), Permissions::from_mode(0o2775)).unwrap();
    // Renames: a file of the image, and a folder of it, which overlayfs leaves to programs.
    fs::rename(joined("etc/conf.d/one"), joined("etc/conf.d/two")).unwrap();
    let folder = fs::rename(joined("tree/a"), joined("tree/c"));
    assert_eq!(folder.unwrap_err().raw_os_error(), Some(libc::EXDEV));
    fs::create_dir_all(joined("new-tree/x/y")).unwrap();
    fs::rename(joined("new-tree/x"), joined("moved")).unwrap();
    renameat_with(CWD, joined("etc/new"), CWD, joined("etc/passwd-"), RenameFlags::EXCHANGE).unwrap();
    assert_eq!(read("etc/passwd-"), "new");
    // Links and special files.
    fs::hard_link(joined("usr/lib/large"), joined("usr/lib/same")).unwrap();
    assert_eq!(fs::metadata(joined("usr/lib/same")).unwrap().nlink(), 2);
    drop(UnixListener::bind(joined("socket")).unwrap());
    mknodat(CWD, joined("fifo"), FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    // Unlinked while open.
    let mut open =
        File::options().read(true).write(true).create(true).truncate(true).open(joined("open")).unwrap();
    fs::remove_file(joined("open")).unwrap();
    open.write_all(b"still").unwrap();
    drop(open);
    rustix::fs::syncfs(File::open(joined("")).unwrap()).unwrap();

    // All of that again from what is on the host.
    remount(options);
    assert!(read("etc/passwd").ends_with("appended"));
    assert_eq!(fs::metadata(joined("etc/passwd")).unwrap().mode() & 0o7777, 0o4711);
    assert_eq!(names("etc"), ["conf.d", "given", "new", "passwd", "passwd-"].map(str::to_owned).into());
    assert_eq!(names("etc/conf.d"), ["two".to_owned()].into());
    assert_eq!((read("removed").as_str(), names("var/cache").len()), ("again", 0));
    let ping = fs::metadata(joined("usr/lib/ping")).unwrap();
    assert_eq!((ping.uid(), ping.gid(), ping.mode() & 0o7777, ping.mtime()), (5, 42, 0o2755, 0));
    let mut value = [0; 20];
    assert_eq!(rustix::fs::getxattr(joined("usr/lib/ping"), CAPABILITY, &mut value), Ok(20));
    assert_eq!(value, NET_RAW);
    let large = fs::metadata(joined("usr/lib/large")).unwrap();
    assert_eq!((large.uid(), large.gid(), large.nlink(), large.len()), (33, 33, 2, 27_000));
    assert_eq!(fs::metadata(joined("usr/lib")).unwrap().mode() & 0o7777, 0o2775);
    assert!(fs::symlink_metadata(joined("socket")).unwrap().file_type().is_socket());
    assert!(joined("moved/y").is_dir() && joined("tree/a/b/leaf").exists());
    unmount_joined();
}

/// The write layer is in overlayfs' own form: the engine's `diff` and `cp` read it.
fn check(folder: &Folder) {
    let upper = |name: &str| folder.at("upper").join(name);
    for name in ["etc/link", "etc/conf.d/one"] {
        let metadata = fs::symlink_metadata(upper(name)).unwrap();
        assert!(metadata.file_type().is_char_device() && metadata.rdev() == 0, "{name} is a whiteout");
    }
    let mut value = [0; 8];
    let length = rustix::fs::lgetxattr(upper("var/cache"), "user.overlay.opaque", &mut value).unwrap();
    assert_eq!(&value[..length], b"y");
    assert_eq!(fs::metadata(upper("usr/lib/large")).unwrap().uid(), 33);
    assert!(!upper("tree/a/b/leaf").exists());
}

/// Each kind of write, as the first one to a layer of its own that overlayfs has taken to be empty until then.
fn first_writes() {
    type Write = (&'static str, fn(), &'static [&'static str], &'static [&'static str]);
    let writes: &[Write] = &[
        ("file", || fs::write(joined("new"), b"new").unwrap(), &["new"], &[]),
        ("file-below", || fs::write(joined("etc/new"), b"new").unwrap(), &["etc/new", "etc/passwd"], &[]),
        ("folder", || fs::create_dir_all(joined("etc/a/b")).unwrap(), &["etc/a/b", "etc/passwd"], &[]),
        ("symlink", || symlink("etc", joined("new")).unwrap(), &["new", "new/passwd"], &[]),
        ("fifo", || mknodat(CWD, joined("new"), FileType::Fifo, Mode::RUSR, 0).unwrap(), &["new"], &[]),
        ("remove", || fs::remove_file(joined("removed")).unwrap(), &["etc"], &["removed"]),
        ("remove-below", || fs::remove_file(joined("etc/passwd")).unwrap(), &["etc/link"], &["etc/passwd"]),
        ("remove-tree", || fs::remove_dir_all(joined("tree")).unwrap(), &["etc"], &["tree", "tree/a/b/leaf"]),
        ("rename", || fs::rename(joined("removed"), joined("new")).unwrap(), &["new"], &["removed"]),
        (
            "rename-out",
            || fs::rename(joined("etc/conf.d/one"), joined("new")).unwrap(),
            &["new", "etc/conf.d"],
            &["etc/conf.d/one"],
        ),
        (
            "rename-over",
            || fs::rename(joined("removed"), joined("etc/passwd")).unwrap(),
            &["etc/passwd", "etc/passwd-"],
            &["removed"],
        ),
        (
            "link",
            || fs::hard_link(joined("removed"), joined("etc/new")).unwrap(),
            &["removed", "etc/new"],
            &[],
        ),
        ("append", || drop(File::options().append(true).open(joined("removed"))), &["removed", "etc"], &[]),
        (
            "mode",
            || fs::set_permissions(joined("etc"), Permissions::from_mode(0o711)).unwrap(),
            &["etc/passwd"],
            &[],
        ),
        (
            "mode-of-root",
            || fs::set_permissions(joined(""), Permissions::from_mode(0o711)).unwrap(),
            &["etc"],
            &[],
        ),
    ];
    make_lower();
    for (name, write, there, gone) in writes {
        for folder in ["upper", "work"] {
            fs::create_dir_all(Path::new("/mnt").join(name).join(folder)).unwrap();
        }
        mount_layer(name, KNOWN);
        // Looked up before, whether it is there or not: what the kernel remembers of that must not outlive the write.
        for path in there.iter().chain(*gone).chain(&["nothing", "etc/nothing"]) {
            let _ = joined(path).exists();
        }
        write();
        for again in [false, true] {
            if again {
                unmount_joined();
                mount_layer(name, KNOWN);
            }
            for (paths, wanted) in [(there, true), (gone, false)] {
                for path in *paths {
                    assert_eq!(
                        fs::symlink_metadata(joined(path)).is_ok(),
                        wanted,
                        "{name}: {path} ({again})"
                    );
                    let (folder, entry) = path.rsplit_once('/').unwrap_or(("", path));
                    let listed = joined(folder).exists() && names(folder).contains(entry);
                    assert_eq!(listed, wanted, "{name}: {path} in its folder ({again})");
                }
            }
        }
        unmount_joined();
    }
}

/// A layer is taken to be empty at its first mount only, and until the first write.
fn old_layer() {
    mount_overlay(KNOWN);
    assert!(fs::read_to_string("/proc/mounts").unwrap().contains("private_upper"));
    // Behind its back, which is what the option says that nobody does: so it is seen whether anybody asks.
    fs::write("/mnt/upper/one", b"").unwrap();
    fs::write("/mnt/upper/two", b"").unwrap();
    assert!(!joined("one").exists() && joined("etc/passwd").exists());
    fs::write(joined("three"), b"").unwrap();
    assert!(joined("two").exists() && joined("three").exists());
    // `rkvm cp` mounts the layer on the host while the machine does not run: nothing but the folder of overlayfs tells of it.
    unmount_joined();
    fs::remove_file("/mnt/upper/three").unwrap();
    fs::write("/mnt/upper/four", b"").unwrap();
    mount_joined(KNOWN);
    assert!(joined("one").exists() && joined("four").exists() && !joined("three").exists());
    unmount_joined();
}

/// What a package manager does: unpack beside, set owners, link the old file away, rename over, sync, run what was unpacked.
fn packages() {
    mount_overlay(KNOWN);
    for package in 0..6 {
        for index in 0..25 {
            let (target, fresh) =
                (format!("usr/lib/p{package}-{index}"), format!("usr/lib/p{package}-{index}.dpkg-new"));
            let mut file = File::create_new(joined(&fresh)).unwrap();
            file.write_all(format!("{package} {index}\n").repeat(index + 1).as_bytes()).unwrap();
            std::os::unix::fs::fchown(&file, Some(0), Some(package)).unwrap();
            file.set_permissions(Permissions::from_mode(0o755)).unwrap();
            file.sync_all().unwrap();
            if joined(&target).exists() {
                fs::hard_link(joined(&target), joined(&format!("{target}.dpkg-tmp"))).unwrap();
            }
            fs::rename(joined(&fresh), joined(&target)).unwrap();
        }
        File::open(joined("usr/lib")).unwrap().sync_all().unwrap();
        fs::write(joined("var/status-new"), format!("{package}")).unwrap();
        fs::rename(joined("var/status-new"), joined("var/status")).unwrap();
    }
    assert_eq!(names("usr/lib").len(), 6 * 25 + 2);
    fs::copy(std::env::current_exe().unwrap(), joined("usr/lib/program")).unwrap();
    let program =
        std::process::Command::new(joined("usr/lib/program")).arg(crate::guest::CHILD).status().unwrap();
    assert_eq!(program.code(), Some(1));
    fs::remove_dir_all(joined("usr")).unwrap();
    assert!(!joined("usr").exists());
    unmount_joined();
}

/// What a database does, as a user of its own: preallocated segments, writes in place, fdatasync, a mapped file, recovery from the log.
fn database() {
    const PAGE: usize = 8192;
    const POSTGRES: u32 = 70;
    mount_overlay(KNOWN);
    fs::create_dir(joined("data")).unwrap();
    chown(joined("data"), Some(POSTGRES), Some(POSTGRES)).unwrap();
    fs::set_permissions(joined("data"), Permissions::from_mode(0o700)).unwrap();
    as_user(POSTGRES, POSTGRES, &[], || {
        let new =
            |name: &str| File::options().read(true).write(true).create_new(true).open(joined(name)).unwrap();
        let log = new("data/log");
        rustix::fs::fallocate(&log, rustix::fs::FallocateFlags::empty(), 0, 4 << 20).unwrap();
        let table = new("data/table");
        for page in 0..200_usize {
            let content = vec![page as u8; PAGE];
            std::os::unix::fs::FileExt::write_all_at(&log, &content, (page * PAGE) as u64).unwrap();
            if page % 20 == 0 {
                log.sync_data().unwrap();
            }
            std::os::unix::fs::FileExt::write_all_at(&table, &content, ((199 - page) * PAGE) as u64).unwrap();
        }
        table.sync_all().unwrap();
        fs::rename(joined("data/log"), joined("data/log.old")).unwrap();
        File::open(joined("data")).unwrap().sync_all().unwrap();
    });
    remount(KNOWN);
    let (log, table) = (fs::read(joined("data/log.old")).unwrap(), fs::read(joined("data/table")).unwrap());
    assert_eq!((log.len(), table.len()), (4 << 20, 200 * PAGE));
    assert!(
        (0..200)
            .all(|page| log[page * PAGE + 5] == page as u8 && table[(199 - page) * PAGE + 5] == page as u8)
    );
    assert_eq!(fs::metadata(joined("data/table")).unwrap().uid(), POSTGRES);
    unmount_joined();
}
