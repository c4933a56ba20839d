//! The host's side: its changes, its limits, its mounts, and what must not be reachable.

use std::fs::{self, File};
use std::io::{Read, Seek, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, symlink};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rustix::fs::inotify;
use rustix::mount::{MountFlags, mount, mount_bind, mount_remount};

use crate::guest::soon;
use crate::sys::{Lease, lease};
use crate::{Case, Folder, at, guest, wait_until};

pub const CASES: &[Case] = &[
    Case::new("changes-of-the-host", changes).prepare(prepare_changes).meanwhile(make_changes),
    Case::new("inotify", notices).meanwhile(changes_to_notice),
    Case::new("full-disk", full).prepare(|folder| tmpfs(folder, "small", c"size=1m")),
    Case::new("mounts", mounts).prepare(prepare_mounts).check(check_mounts),
    Case::new("stays-inside", inside).prepare(prepare_inside).meanwhile(swap_folders).smp(),
    Case::new("stuck-request", stuck).prepare(prepare_stuck).meanwhile(hold_a_file).smp(),
    Case::new("mounted-again", again),
    Case::new("driver-bound-again", bound_again),
];

/// Tells the other side that `step` is reached.
fn tell(step: &str) {
    File::create(at(step)).unwrap();
}

fn prepare_changes(folder: &Folder) {
    fs::write(folder.at("content"), b"old content").unwrap();
    fs::write(folder.at("removed"), b"").unwrap();
    fs::create_dir(folder.at("folder")).unwrap();
}

fn changes() {
    assert_eq!(fs::read(at("content")).unwrap(), b"old content");
    assert!(at("removed").exists() && !at("made").exists());
    assert_eq!(fs::read_dir(at("folder")).unwrap().count(), 0);
    let mut open = File::open(at("content")).unwrap();
    tell("guest-has-looked");
    soon("a name that was not there is looked for again", || at("host-has-changed").exists());
    // Content: at the next opening, even when size and name are the same.
    assert_eq!(fs::read(at("content")).unwrap(), b"new content");
    assert_eq!(fs::read_dir(at("folder")).unwrap().count(), 2, "a folder is listed anew at each opening");
    // Names and attributes: within the time for which the guest may keep them.
    soon("removed", || !at("removed").exists());
    soon("made", || at("made").exists());
    soon("the mode", || fs::metadata(at("content")).unwrap().mode() & 0o777 == 0o640);
    soon("the file that is open", || {
        open.rewind().unwrap();
        let mut text = String::new();
        open.read_to_string(&mut text).unwrap();
        text == "new content"
    });
    // The other way round, at once.
    fs::write(at("from-guest"), b"at once").unwrap();
    let mut log = File::options().append(true).create(true).open(at("log")).unwrap();
    log.write_all(b"unsynced").unwrap();
    tell("guest-has-written");
    soon("the host's last word", || at("host-has-seen").exists());
}

fn make_changes(folder: &Folder) {
    use std::os::unix::fs::PermissionsExt;
    folder.wait_for("guest-has-looked");
    fs::write(folder.at("content"), b"new content").unwrap();
    fs::set_permissions(folder.at("content"), fs::Permissions::from_mode(0o640)).unwrap();
    fs::remove_file(folder.at("removed")).unwrap();
    fs::write(folder.at("made"), b"").unwrap();
    fs::write(folder.at("folder/one"), b"").unwrap();
    fs::write(folder.at("folder/two"), b"").unwrap();
    fs::write(folder.at("host-has-changed"), b"").unwrap();
    folder.wait_for("guest-has-written");
    assert_eq!(fs::read(folder.at("from-guest")).unwrap(), b"at once");
    assert_eq!(fs::read(folder.at("log")).unwrap(), b"unsynced");
    fs::write(folder.at("host-has-seen"), b"").unwrap();
}

/// The guest's own changes are noticed; the host's are not.
fn notices() {
    let watch = inotify::init(inotify::CreateFlags::NONBLOCK | inotify::CreateFlags::CLOEXEC).unwrap();
    inotify::add_watch(&watch, at(""), inotify::WatchFlags::CREATE).unwrap();
    let names = || {
        let mut buffer = [std::mem::MaybeUninit::uninit(); 4096];
        let mut events = inotify::Reader::new(watch.as_fd(), &mut buffer);
        let mut names = vec![];
        while let Ok(event) = events.next() {
            names.extend(event.file_name().map(|name| name.to_str().unwrap().to_owned()));
        }
        names
    };
    tell("by-guest");
    assert_eq!(names(), ["by-guest"]);
    soon("the host's file", || at("by-host").exists());
    assert_eq!(names(), [""; 0]);
}

fn changes_to_notice(folder: &Folder) {
    folder.wait_for("by-guest");
    fs::write(folder.at("by-host"), b"").unwrap();
}

fn tmpfs(folder: &Folder, name: &str, options: &std::ffi::CStr) {
    fs::create_dir(folder.at(name)).unwrap();
    mount("tmpfs", folder.at(name), "tmpfs", MountFlags::empty(), Some(options)).unwrap();
}

fn full() {
    let mut file = File::create(at("small/file")).unwrap();
    let mut written = 0;
    let error = loop {
        match file.write(&[1; 65536]) {
            Ok(bytes) => written += bytes,
            Err(error) => break error,
        }
    };
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
    assert!((900_000..=1 << 20).contains(&written), "{written}");
    assert_eq!(fs::metadata(at("small/file")).unwrap().len(), written as u64);
    let free = rustix::fs::statvfs(at("small")).unwrap();
    assert!(free.f_bfree < 16 && free.f_blocks == 256, "the mount has its own numbers");
    fs::remove_file(at("small/file")).unwrap();
    drop(file);
    fs::write(at("small/file"), b"room again").unwrap();
}

fn prepare_mounts(folder: &Folder) {
    tmpfs(folder, "one", c"");
    tmpfs(folder, "two", c"");
    for (name, content) in [("one/file", "one"), ("two/file", "two")] {
        fs::write(folder.at(name), content).unwrap();
    }
    fs::create_dir(folder.outside("source")).unwrap();
    fs::write(folder.outside("source/file"), b"read only").unwrap();
    fs::create_dir(folder.at("read-only")).unwrap();
    mount_bind(folder.outside("source"), folder.at("read-only")).unwrap();
    mount_remount(folder.at("read-only"), MountFlags::BIND | MountFlags::RDONLY, c"").unwrap();
    // A single file, as /etc/hosts is.
    fs::write(folder.outside("hosts"), b"127.0.0.1 localhost\n").unwrap();
    fs::write(folder.at("hosts"), b"").unwrap();
    mount_bind(folder.outside("hosts"), folder.at("hosts")).unwrap();
}

fn mounts() {
    let metadata = |name: &str| fs::metadata(at(name)).unwrap();
    let devices = [metadata("").dev(), metadata("one").dev(), metadata("two").dev()];
    assert!(devices[0] != devices[1] && devices[1] != devices[2] && devices[0] != devices[2], "{devices:?}");
    // Files of two file systems may have the same number, but then not the same device.
    let (one, two) = (metadata("one/file"), metadata("two/file"));
    assert_ne!((one.dev(), one.ino()), (two.dev(), two.ino()));
    assert_eq!(
        (fs::read(at("one/file")).unwrap(), fs::read(at("two/file")).unwrap()),
        (b"one".into(), b"two".into())
    );
    assert_eq!(fs::rename(at("one/file"), at("two/other")).unwrap_err().raw_os_error(), Some(libc::EXDEV));
    assert_eq!(fs::read_dir(at("one")).unwrap().count(), 1);

    let read_only =
        |result: std::io::Result<()>| assert_eq!(result.unwrap_err().raw_os_error(), Some(libc::EROFS));
    assert_eq!(fs::read(at("read-only/file")).unwrap(), b"read only");
    read_only(fs::write(at("read-only/file"), b""));
    read_only(fs::write(at("read-only/new"), b""));
    read_only(fs::remove_file(at("read-only/file")));
    read_only(fs::create_dir(at("read-only/folder")));
    read_only(fs::rename(at("read-only/file"), at("read-only/other")));
    read_only(std::os::unix::fs::chown(at("read-only/file"), Some(1), None));
    read_only(
        rustix::fs::setxattr(at("read-only/file"), "user.x", b"", rustix::fs::XattrFlags::empty())
            .map_err(Into::into),
    );
    read_only(File::options().append(true).open(at("read-only/file")).map(drop));

    File::options().append(true).open(at("hosts")).unwrap().write_all(b"10.0.0.1 web\n").unwrap();
}

fn check_mounts(folder: &Folder) {
    assert_eq!(fs::read_to_string(folder.outside("hosts")).unwrap(), "127.0.0.1 localhost\n10.0.0.1 web\n");
    assert_eq!(fs::read(folder.outside("source/file")).unwrap(), b"read only");
    assert_eq!(fs::read_dir(folder.outside("source")).unwrap().count(), 1);
}

fn prepare_inside(folder: &Folder) {
    fs::create_dir(folder.outside("elsewhere")).unwrap();
    fs::write(folder.outside("elsewhere/file"), b"outside").unwrap();
    fs::create_dir(folder.at("swapped")).unwrap();
    fs::write(folder.at("swapped/file"), b"inside").unwrap();
    symlink(folder.outside("elsewhere"), folder.at("link")).unwrap();
}

/// Reads, writes and lists through a path whose middle the host keeps exchanging for a link to elsewhere.
fn inside() {
    tell("racing");
    let begun = Instant::now();
    let (mut found, mut refused) = (0, 0);
    // The guest keeps for a second which of the two the name is, so it takes some seconds until it has had both.
    let enough = |found, refused| found > 0 && refused > 0 && begun.elapsed() > Duration::from_secs(3);
    while !enough(found, refused) && begun.elapsed() < Duration::from_secs(30) {
        match fs::read(at("swapped/file")) {
            Ok(content) => {
                assert_eq!(content, b"inside");
                found += 1;
            }
            Err(_) => refused += 1,
        }
        let _ = fs::write(at("swapped/new"), b"by the guest");
        let _ = fs::remove_file(at("swapped/new"));
        if let Ok(entries) = fs::read_dir(at("swapped")) {
            let names: Vec<_> = entries.flatten().map(|entry| entry.file_name()).collect();
            assert!(!names.contains(&"of-the-host".into()), "{names:?}");
        }
    }
    eprintln!("{found} found, {refused} refused");
    assert!(found > 0 && refused > 0);
    tell("raced");
}

fn swap_folders(folder: &Folder) {
    folder.wait_for("racing");
    fs::write(folder.outside("elsewhere/of-the-host"), b"").unwrap();
    let swap = || {
        let exchange = rustix::fs::RenameFlags::EXCHANGE;
        rustix::fs::renameat_with(
            rustix::fs::CWD,
            folder.at("swapped"),
            rustix::fs::CWD,
            folder.at("link"),
            exchange,
        )
        .unwrap();
    };
    let mut turns = 0;
    wait_until("the end of the race", || {
        turns += 1;
        // An odd number: the longest time, between two turns, passes in one state and in the other, and the guest has both.
        for _ in 0..21 {
            swap();
            std::thread::sleep(Duration::from_micros(300));
        }
        folder.at("raced").exists()
    });
    eprintln!("{turns} turns of the host's");
    let names: Vec<_> =
        fs::read_dir(folder.outside("elsewhere")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "nothing of the guest's is outside: {names:?}");
    assert_eq!(fs::read(folder.outside("elsewhere/file")).unwrap(), b"outside");
}

fn prepare_stuck(folder: &Folder) {
    fs::write(folder.at("stuck"), b"at last").unwrap();
    fs::write(folder.at("free"), b"free").unwrap();
}

/// A request that the host does not finish holds up neither the processors nor other requests.
fn stuck() {
    tell("ready");
    soon("the host's hold", || at("held").exists());
    let through = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| {
            let content = fs::read(at("stuck")).unwrap();
            through.store(true, Ordering::SeqCst);
            content
        });
        for round in 0..50 {
            assert_eq!(fs::read(at("free")).unwrap(), b"free");
            fs::write(at("other"), round.to_string()).unwrap();
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(!through.load(Ordering::SeqCst), "the file is held");
        tell("guest-has-worked");
        assert_eq!(waiting.join().unwrap(), b"at last");
    });
}

/// Holds a lease on the file: whoever opens it waits until it is given back.
fn hold_a_file(folder: &Folder) {
    folder.wait_for("ready");
    let file = File::options().read(true).write(true).open(folder.at("stuck")).unwrap();
    // The server may have it open for a moment: it has looked at it.
    wait_until("a lease", || lease(&file, Lease::Take).is_ok());
    fs::write(folder.at("held"), b"").unwrap();
    folder.wait_for("guest-has-worked");
    lease(&file, Lease::GiveBack).unwrap();
}

/// Unmounting closes what was open on the host; mounting again begins anew.
fn again() {
    for round in 0..5 {
        fs::write(at("file"), round.to_string()).unwrap();
        std::env::set_current_dir("/").unwrap();
        rustix::mount::unmount(guest::MOUNT, rustix::mount::UnmountFlags::empty()).unwrap();
        guest::mount_share();
        assert_eq!(fs::read_to_string(at("file")).unwrap(), round.to_string());
    }
}

/// The driver resets the device and starts it again.
fn bound_again() {
    fs::write(at("file"), b"before").unwrap();
    let driver = std::path::Path::new("/sys/bus/virtio/drivers/virtiofs");
    let device = fs::read_dir(driver).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let device = device.into_iter().find(|name| name.starts_with("virtio")).unwrap();
    for _ in 0..3 {
        std::env::set_current_dir("/").unwrap();
        rustix::mount::unmount(guest::MOUNT, rustix::mount::UnmountFlags::empty()).unwrap();
        fs::write(driver.join("unbind"), &device).unwrap();
        fs::write(driver.join("bind"), &device).unwrap();
        guest::mount_share();
        assert_eq!(fs::read(at("file")).unwrap(), b"before");
    }
}
