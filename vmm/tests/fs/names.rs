//! Names: links, renames, folders, special files.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::{FileTypeExt, MetadataExt, symlink};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use rustix::fs::{CWD, FileType, Mode, RenameFlags, makedev, mknodat, renameat_with};
use rustix::io::Errno;

use crate::guest::in_another_process;
use crate::{Case, Folder, at};

pub const CASES: &[Case] = &[
    Case::new("symbolic-links", symbolic).prepare(prepare_symbolic),
    Case::new("hard-links", hard).check(check_hard),
    Case::new("renames", renames).check(check_renames),
    Case::new("special-files", special).check(check_special),
    Case::new("big-folders", big).prepare(prepare_big),
    Case::new("deep-trees", deep),
    Case::new("names", names).check(check_names),
    Case::new("statfs", statfs),
];

fn prepare_symbolic(folder: &Folder) {
    fs::write(folder.outside("secret"), b"secret").unwrap();
    symlink("/etc/hostname", folder.at("absolute")).unwrap();
    symlink(folder.outside("secret"), folder.at("outside")).unwrap();
    symlink("../secret", folder.at("above")).unwrap();
    symlink("../../../../../../../../../../etc/passwd", folder.at("far-above")).unwrap();
    symlink("/proc/self/root/etc/passwd", folder.at("magic")).unwrap();
}

fn symbolic() {
    fs::create_dir(at("folder")).unwrap();
    fs::write(at("folder/file"), b"content").unwrap();
    for (target, name) in
        [("folder/file", "relative"), ("missing", "dangling"), ("loop", "loop"), ("folder", "to-folder")]
    {
        symlink(target, at(name)).unwrap();
        assert_eq!(fs::read_link(at(name)).unwrap(), Path::new(target));
        assert!(fs::symlink_metadata(at(name)).unwrap().is_symlink());
    }
    assert_eq!(fs::read(at("relative")).unwrap(), b"content");
    assert_eq!(fs::read(at("to-folder/file")).unwrap(), b"content");
    assert_eq!(fs::read(at("dangling")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    assert_eq!(fs::read(at("loop")).unwrap_err().raw_os_error(), Some(libc::ELOOP));
    // A link longer than a path can be is refused, the longest possible one is kept.
    let long = "x".repeat(4095);
    symlink(&long, at("long")).unwrap();
    assert_eq!(fs::read_link(at("long")).unwrap(), Path::new(&long));
    // Links are the guest's to follow: in its own file system, where there is no such file, and never in the host's.
    for name in ["absolute", "outside", "above", "far-above", "magic"] {
        assert_eq!(fs::read(at(name)).unwrap_err().kind(), std::io::ErrorKind::NotFound, "{name}");
    }
    fs::create_dir("/etc").unwrap();
    fs::write("/etc/hostname", b"the guest's").unwrap();
    assert_eq!(fs::read(at("absolute")).unwrap(), b"the guest's");
    // The root's parent is the guest's root.
    assert_eq!(fs::metadata(at("..")).unwrap().ino(), fs::metadata("/").unwrap().ino());
}

fn hard() {
    fs::write(at("one"), b"content").unwrap();
    fs::hard_link(at("one"), at("two")).unwrap();
    let (one, two) = (fs::metadata(at("one")).unwrap(), fs::metadata(at("two")).unwrap());
    assert_eq!((one.ino(), one.nlink(), two.nlink()), (two.ino(), 2, 2));
    fs::write(at("two"), b"changed").unwrap();
    assert_eq!(fs::read(at("one")).unwrap(), b"changed");
    fs::remove_file(at("one")).unwrap();
    assert_eq!(fs::metadata(at("two")).unwrap().nlink(), 1);
    assert_eq!(fs::hard_link(at("two"), at("two")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    symlink("two", at("link")).unwrap();
    fs::hard_link(at("link"), at("same-link")).unwrap();
    assert!(fs::symlink_metadata(at("same-link")).unwrap().is_symlink());
    assert_eq!(fs::hard_link(at("two"), "/tmp/two").unwrap_err().raw_os_error(), Some(libc::EXDEV));
}

fn check_hard(folder: &Folder) {
    assert_eq!(fs::metadata(folder.at("two")).unwrap().nlink(), 1);
    assert_eq!(fs::symlink_metadata(folder.at("link")).unwrap().nlink(), 2);
}

fn rename_with(from: &str, to: &str, flags: RenameFlags) -> Result<(), Errno> {
    renameat_with(CWD, at(from), CWD, at(to), flags)
}

fn renames() {
    let read = |name: &str| fs::read_to_string(at(name)).unwrap();
    for name in ["a", "b", "c"] {
        fs::write(at(name), name).unwrap();
        fs::create_dir(at(&format!("dir-{name}"))).unwrap();
    }
    fs::rename(at("a"), at("b")).unwrap();
    assert_eq!((read("b").as_str(), at("a").exists()), ("a", false));
    assert_eq!(rename_with("b", "c", RenameFlags::NOREPLACE), Err(Errno::EXIST));
    rename_with("b", "new", RenameFlags::NOREPLACE).unwrap();
    rename_with("new", "c", RenameFlags::EXCHANGE).unwrap();
    assert_eq!((read("new").as_str(), read("c").as_str()), ("c", "a"));
    rename_with("new", "dir-a", RenameFlags::EXCHANGE).unwrap();
    assert!(at("new").is_dir() && at("dir-a").is_file());
    rename_with("c", "dir-b/moved", RenameFlags::WHITEOUT).unwrap();
    let whiteout = fs::symlink_metadata(at("c")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
    assert_eq!(read("dir-b/moved"), "a");

    fs::create_dir_all(at("tree/deep/deeper")).unwrap();
    fs::write(at("tree/deep/deeper/leaf"), "leaf").unwrap();
    let open = File::open(at("tree/deep")).unwrap();
    fs::rename(at("tree/deep"), at("dir-c/moved")).unwrap();
    assert_eq!(read("dir-c/moved/deeper/leaf"), "leaf");
    assert!(open.metadata().is_ok());
    assert_eq!(fs::rename(at("dir-b"), at("dir-c")).unwrap_err().raw_os_error(), Some(libc::ENOTEMPTY));
    assert_eq!(fs::rename(at("dir-c"), at("dir-c/moved/x")).unwrap_err().raw_os_error(), Some(libc::EINVAL));
    assert_eq!(fs::rename(at("missing"), at("x")).unwrap_err().raw_os_error(), Some(libc::ENOENT));
    // A file keeps its identity, and open descriptors work on.
    let mut file = File::open(at("dir-a")).unwrap();
    fs::rename(at("dir-a"), at("renamed")).unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "c");
}

fn check_renames(folder: &Folder) {
    assert_eq!(fs::read(folder.at("renamed")).unwrap(), b"c");
    assert_eq!(fs::read(folder.at("dir-c/moved/deeper/leaf")).unwrap(), b"leaf");
    let whiteout = fs::symlink_metadata(folder.at("c")).unwrap();
    assert!(whiteout.file_type().is_char_device() && whiteout.rdev() == 0);
}

fn special() {
    let make = |name: &str, kind, device| mknodat(CWD, at(name), kind, Mode::from_raw_mode(0o640), device);
    make("fifo", FileType::Fifo, 0).unwrap();
    let reader = std::thread::spawn(|| fs::read_to_string(at("fifo")).unwrap());
    assert!(in_another_process(&["write", at("fifo").to_str().unwrap()]));
    assert_eq!(reader.join().unwrap(), "word");

    let listener = UnixListener::bind(at("socket")).unwrap();
    let server = std::thread::spawn(move || {
        let mut text = String::new();
        listener.accept().unwrap().0.read_to_string(&mut text).unwrap();
        text
    });
    assert!(in_another_process(&["connect", at("socket").to_str().unwrap()]));
    assert_eq!(server.join().unwrap(), "word");

    // A deleted file of an overlay is one; other devices would be the host's.
    make("whiteout", FileType::CharacterDevice, 0).unwrap();
    assert_eq!(make("memory", FileType::CharacterDevice, makedev(1, 1)), Err(Errno::PERM));
    assert_eq!(make("disk", FileType::BlockDevice, makedev(8, 0)), Err(Errno::PERM));
    make("regular", FileType::RegularFile, 0).unwrap();
}

fn check_special(folder: &Folder) {
    let kind = |name: &str| fs::symlink_metadata(folder.at(name)).unwrap().file_type();
    assert!(kind("fifo").is_fifo() && kind("socket").is_socket() && kind("whiteout").is_char_device());
    assert!(kind("regular").is_file() && !folder.at("memory").exists() && !folder.at("disk").exists());
}

const BIG: usize = 4000;

fn prepare_big(folder: &Folder) {
    fs::create_dir(folder.at("big")).unwrap();
    for index in 0..BIG {
        File::create(folder.at("big").join(format!("a-file-with-a-rather-long-name-{index:05}"))).unwrap();
    }
}

fn big() {
    let list =
        || fs::read_dir(at("big")).unwrap().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>();
    let names = list();
    assert_eq!(names.len(), BIG);
    assert_eq!(names.iter().collect::<BTreeSet<_>>().len(), BIG, "every name once");
    // With attributes of each, as `ls -l` and `find` ask for them.
    assert!(fs::read_dir(at("big")).unwrap().all(|entry| entry.unwrap().metadata().unwrap().is_file()));
    // Removing while listing, as `rm -rf` does.
    for entry in fs::read_dir(at("big")).unwrap() {
        fs::remove_file(entry.unwrap().path()).unwrap();
    }
    assert_eq!(list().len(), 0);
    fs::remove_dir(at("big")).unwrap();
}

fn deep() {
    std::env::set_current_dir(at("")).unwrap();
    let name = "d".repeat(200);
    for _ in 0..60 {
        fs::create_dir(&name).unwrap();
        std::env::set_current_dir(&name).unwrap();
    }
    fs::write("leaf", b"deep").unwrap();
    for _ in 0..60 {
        std::env::set_current_dir("..").unwrap();
    }
    assert_eq!(std::env::current_dir().unwrap(), PathBuf::from(crate::guest::MOUNT));
    fs::remove_dir_all(&name).unwrap();
    assert!(!Path::new(&name).exists());
}

const NAMES: [&str; 6] = [" ", "new\nline", "-rf", "ünï", "a\\b'\"$", "..."];

fn names() {
    for name in NAMES {
        fs::write(at(name), name).unwrap();
    }
    let longest = "n".repeat(255);
    fs::write(at(&longest), b"").unwrap();
    assert_eq!(fs::write(at(&"n".repeat(256)), b"").unwrap_err().raw_os_error(), Some(libc::ENAMETOOLONG));
    let found: BTreeSet<_> = fs::read_dir(at("")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(found.len(), NAMES.len() + 1);
    assert_eq!(fs::create_dir(at("-rf")).unwrap_err().raw_os_error(), Some(libc::EEXIST));
    assert_eq!(fs::remove_dir(at("-rf")).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
    assert_eq!(fs::read(at("-rf/x")).unwrap_err().raw_os_error(), Some(libc::ENOTDIR));
}

fn check_names(folder: &Folder) {
    for name in NAMES {
        assert_eq!(fs::read_to_string(folder.at(name)).unwrap(), name);
    }
}

fn statfs() {
    let answer = rustix::fs::statvfs(at("")).unwrap();
    assert!(answer.f_blocks > 0 && answer.f_bfree <= answer.f_blocks && answer.f_namemax == 255);
}
