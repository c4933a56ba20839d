//! Content of files: reads, writes, mappings, locks.

use std::fs::{self, File};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{FileExt, MetadataExt, OpenOptionsExt};

use rustix::fs::{FallocateFlags, FlockOperation};

use crate::guest::in_another_process;
use crate::sys::{Mapping, with_mapping};
use crate::{Case, Folder, at};

pub const CASES: &[Case] = &[
    Case::new("content", content).prepare(prepare_content).check(check_content).smp(),
    Case::new("holes-and-sizes", holes).check(check_holes),
    Case::new("append", append).check(check_append),
    Case::new("mappings", mappings).check(check_mappings).smp(),
    Case::new("sync", sync),
    Case::new("locks", locks).meanwhile(locks_of_the_host),
    Case::new("unlinked-but-open", unlinked),
    Case::new("many-open-files", many_open),
    Case::new("copy-within-the-host", copy_range),
    Case::new("parallel", parallel).smp(),
    Case::new("temporary-files", temporary),
];

const LARGE: usize = (9 << 20) + 4321;

/// Bytes that differ from block to block.
fn pattern(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| (at ^ (at >> 8) ^ (at >> 16)) as u8).collect()
}

fn prepare_content(folder: &Folder) {
    fs::write(folder.at("from-host"), pattern(LARGE)).unwrap();
    fs::write(folder.at("empty"), b"").unwrap();
}

fn content() {
    assert_eq!(fs::read(at("from-host")).unwrap(), pattern(LARGE));
    assert_eq!(fs::read(at("empty")).unwrap(), b"");
    // Odd places and lengths.
    let file = File::open(at("from-host")).unwrap();
    for (offset, bytes) in [(1, 1), (4095, 2), (1 << 20, 1), ((1 << 20) - 1, 4099), (LARGE - 5, 5)] {
        let mut read = vec![0; bytes];
        file.read_exact_at(&mut read, offset as u64).unwrap();
        assert_eq!(read, pattern(LARGE)[offset..offset + bytes]);
    }
    assert_eq!(file.read_at(&mut [0; 10], LARGE as u64).unwrap(), 0);
    assert_eq!(file.read_at(&mut [0; 10], i64::MAX as u64 - 20).unwrap(), 0);

    fs::write(at("from-guest"), pattern(LARGE)).unwrap();
    assert_eq!(fs::read(at("from-guest")).unwrap(), pattern(LARGE));
    // Without the page cache, as databases do.
    let mut direct = File::options();
    let mut direct =
        direct.read(true).write(true).create(true).custom_flags(libc::O_DIRECT).open(at("direct")).unwrap();
    direct.write_all(&pattern(3 << 20)).unwrap();
    direct.rewind().unwrap();
    let mut back = Vec::new();
    direct.read_to_end(&mut back).unwrap();
    assert_eq!(back, pattern(3 << 20));
    // Overwriting in the middle, byte by byte too.
    let file = File::options().write(true).open(at("from-guest")).unwrap();
    for offset in [0_u64, 4096, 4097, 5 << 20, LARGE as u64 - 1] {
        file.write_all_at(b"!", offset).unwrap();
    }
}

fn check_content(folder: &Folder) {
    let mut expected = pattern(LARGE);
    for offset in [0, 4096, 4097, 5 << 20, LARGE - 1] {
        expected[offset] = b'!';
    }
    assert!(fs::read(folder.at("from-guest")).unwrap() == expected);
    assert!(fs::read(folder.at("direct")).unwrap() == pattern(3 << 20));
}

fn holes() {
    let file = File::options().read(true).write(true).create_new(true).open(at("sparse")).unwrap();
    file.write_all_at(b"end", 1 << 30).unwrap();
    assert_eq!(file.metadata().unwrap().len(), (1 << 30) + 3);
    let mut zeros = [1; 100];
    file.read_exact_at(&mut zeros, 12345).unwrap();
    assert_eq!(zeros, [0; 100]);
    let hole = rustix::fs::seek(&file, rustix::fs::SeekFrom::Data(0)).unwrap();
    assert!(hole > 0 && hole <= 1 << 30, "the hole at the beginning is one: data at {hole}");

    let file = File::options().read(true).write(true).create_new(true).open(at("sized")).unwrap();
    file.set_len(10_000).unwrap();
    file.write_all_at(b"kept", 3).unwrap();
    file.set_len(5).unwrap();
    file.set_len(9).unwrap();
    assert_eq!(fs::read(at("sized")).unwrap(), b"\0\0\0ke\0\0\0\0");
    assert_eq!(fs::metadata(at("sized")).unwrap().len(), 9);
    File::create(at("sized")).unwrap();
    assert_eq!(fs::metadata(at("sized")).unwrap().len(), 0, "O_TRUNC");

    let file = File::create_new(at("allocated")).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::empty(), 0, 1 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    rustix::fs::fallocate(&file, FallocateFlags::KEEP_SIZE, 0, 2 << 20).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 1 << 20);
    file.write_all_at(&[7; 8192], 0).unwrap();
    rustix::fs::fallocate(&file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, 4096, 4096).unwrap();
    let content = fs::read(at("allocated")).unwrap();
    assert_eq!((content[4095], content[4096], content[8191]), (7, 0, 0));
}

fn check_holes(folder: &Folder) {
    let sparse = fs::metadata(folder.at("sparse")).unwrap();
    assert_eq!(sparse.len(), (1 << 30) + 3);
    assert!(sparse.blocks() * 512 < 1 << 20, "holes take no room on the host");
}

fn append() {
    let mut options = File::options();
    let (mut one, mut two) =
        (options.append(true).create(true).open(at("log")).unwrap(), options.open(at("log")).unwrap());
    for _ in 0..10 {
        one.write_all(b"one\n").unwrap();
        two.write_all(b"two\n").unwrap();
    }
    // A mapping of a file that is open for appending changes it where it is mapped.
    let file = File::options().read(true).append(true).open(at("log")).unwrap();
    with_mapping(&file, 4096, Mapping::Shared, |bytes| bytes[..3].copy_from_slice(b"ONE"));
}

fn check_append(folder: &Folder) {
    assert_eq!(
        fs::read_to_string(folder.at("log")).unwrap(),
        "one\ntwo\n".repeat(10).replacen("one", "ONE", 1)
    );
}

fn mappings() {
    const BYTES: usize = 3 << 20;
    fs::write(at("mapped"), pattern(BYTES)).unwrap();
    let file = File::options().read(true).write(true).open(at("mapped")).unwrap();
    with_mapping(&file, BYTES, Mapping::Private, |bytes| {
        assert_eq!(bytes, pattern(BYTES));
        bytes.fill(1);
    });
    assert_eq!(fs::read(at("mapped")).unwrap(), pattern(BYTES), "a private mapping's stores stay private");
    with_mapping(&file, BYTES, Mapping::Shared, |bytes| {
        bytes.iter_mut().for_each(|byte| *byte = !*byte);
        // Seen by read(2) at once.
        let mut read = [0; 8192];
        file.read_exact_at(&mut read, 1 << 20).unwrap();
        assert_eq!(read, bytes[1 << 20..(1 << 20) + 8192]);
    });
    // A program is executed from the share: mapped, private, and not to be written meanwhile.
    fs::copy(std::env::current_exe().unwrap(), at("program")).unwrap();
    let status =
        std::process::Command::new(at("program")).args([crate::guest::CHILD, "no", "such"]).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

fn check_mappings(folder: &Folder) {
    let expected: Vec<u8> = pattern(3 << 20).iter().map(|byte| !byte).collect();
    assert!(fs::read(folder.at("mapped")).unwrap() == expected);
}

fn sync() {
    let mut file = File::create(at("synced")).unwrap();
    file.write_all(&pattern(100_000)).unwrap();
    file.sync_all().unwrap();
    file.write_all(b"more").unwrap();
    file.sync_data().unwrap();
    File::open(at("")).unwrap().sync_all().expect("folders can be synced");
    rustix::fs::syncfs(&file).unwrap();
    File::options()
        .custom_flags(libc::O_DSYNC)
        .write(true)
        .open(at("synced"))
        .unwrap()
        .write_all(b"x")
        .unwrap();
}

fn locks() {
    for (kind, name) in [("flock", "flocked"), ("posix", "locked")] {
        let file = File::create(at(name)).unwrap();
        match kind {
            "flock" => rustix::fs::flock(&file, FlockOperation::LockExclusive).unwrap(),
            _ => rustix::fs::fcntl_lock(&file, FlockOperation::LockExclusive).unwrap(),
        }
        assert!(!in_another_process(&[kind, name]), "{kind}: two exclusive locks at once");
        if kind == "flock" {
            // The host has a turn while we hold it: see `locks_of_the_host`.
            File::create(at("held")).unwrap();
            crate::guest::soon("the host's turn", || at("host-had-a-turn").exists());
        }
        drop(file);
        assert!(in_another_process(&[kind, name]), "{kind}: the lock ends with its file");
    }
}

/// Locks are the guest's own: they neither keep the host from locking nor are kept by it.
fn locks_of_the_host(folder: &Folder) {
    folder.wait_for("held");
    let file = File::open(folder.at("flocked")).unwrap();
    rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive).unwrap();
    fs::write(folder.at("host-had-a-turn"), b"").unwrap();
}

fn unlinked() {
    let mut file = File::options().read(true).write(true).create_new(true).open(at("gone")).unwrap();
    file.write_all(b"before").unwrap();
    fs::remove_file(at("gone")).unwrap();
    file.write_all(b" after").unwrap();
    file.rewind().unwrap();
    let mut text = String::new();
    file.read_to_string(&mut text).unwrap();
    assert_eq!(text, "before after");
    let metadata = file.metadata().unwrap();
    assert_eq!((metadata.nlink(), metadata.len()), (0, 12));
    file.set_len(3).unwrap();
    assert_eq!(file.metadata().unwrap().len(), 3);
    // A new file of that name is another one.
    fs::write(at("gone"), b"new").unwrap();
    assert_ne!(fs::metadata(at("gone")).unwrap().ino(), metadata.ino());
    // A folder that is removed while it is open.
    fs::create_dir(at("folder")).unwrap();
    let folder = File::open(at("folder")).unwrap();
    fs::remove_dir(at("folder")).unwrap();
    assert!(folder.metadata().is_ok());
}

fn many_open() {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile);
    rustix::process::setrlimit(
        rustix::process::Resource::Nofile,
        rustix::process::Rlimit { current: limit.maximum, ..limit },
    )
    .unwrap();
    let files: Vec<File> = (0..2000)
        .map(|index| {
            let mut file = File::options()
                .read(true)
                .write(true)
                .create_new(true)
                .open(at(&format!("f{index}")))
                .unwrap();
            write!(file, "{index}").unwrap();
            file
        })
        .collect();
    for (index, mut file) in files.into_iter().enumerate() {
        file.seek(SeekFrom::Start(0)).unwrap();
        let mut text = String::new();
        file.read_to_string(&mut text).unwrap();
        assert_eq!(text, index.to_string());
    }
}

fn copy_range() {
    fs::write(at("source"), pattern(5 << 20)).unwrap();
    let (source, target) = (File::open(at("source")).unwrap(), File::create(at("copy")).unwrap());
    let mut copied = 0;
    while copied < 5 << 20 {
        let step = rustix::fs::copy_file_range(&source, None, &target, None, (5 << 20) - copied).unwrap();
        assert!(step > 0);
        copied += step;
    }
    assert_eq!(fs::read(at("copy")).unwrap(), pattern(5 << 20));
    assert_eq!(fs::copy(at("copy"), at("again")).unwrap(), 5 << 20);
    assert_eq!(fs::read(at("again")).unwrap(), pattern(5 << 20));
}

/// Several threads at once, each in a folder of its own and all in one file.
fn parallel() {
    let shared = File::create(at("shared")).unwrap();
    std::thread::scope(|scope| {
        for thread in 0..8_u64 {
            let shared = &shared;
            scope.spawn(move || {
                let folder = at(&format!("thread-{thread}"));
                fs::create_dir(&folder).unwrap();
                for round in 0..40_u64 {
                    let file = folder.join(round.to_string());
                    fs::write(&file, pattern((round * 977) as usize)).unwrap();
                    shared.write_all_at(&[thread as u8; 512], (round * 8 + thread) * 512).unwrap();
                    assert_eq!(fs::read(&file).unwrap(), pattern((round * 977) as usize));
                    fs::rename(&file, folder.join("last")).unwrap();
                }
            });
        }
    });
    let content = fs::read(at("shared")).unwrap();
    assert_eq!(content.len(), 40 * 8 * 512);
    assert!(
        content
            .chunks(512)
            .enumerate()
            .all(|(index, chunk)| chunk.iter().all(|byte| *byte == (index % 8) as u8))
    );
}

/// O_TMPFILE is not offered, and says so in the way that makes programs do without it.
fn temporary() {
    let refused = File::options().write(true).custom_flags(libc::O_TMPFILE).open(at("")).unwrap_err();
    assert_eq!(refused.raw_os_error(), Some(libc::EOPNOTSUPP));
}
