//! The guest's half: this program as PID 1.

use std::path::Path;
use std::process::ExitCode;
use std::time::Duration;

use rustix::mount::{MountFlags, mount};
use rustix::system::RebootCommand;

/// Where the shared folder is in the guest.
pub const MOUNT: &str = "/mnt";
/// First argument of a process that a case starts.
pub const CHILD: &str = "guest-child";
/// Last line of a case that went well.
pub const PASSED: &str = "the case passed";
/// Word of the kernel's command line that names the case.
pub const CASE: &str = "rkvm.case=";

/// Runs the case that the command line names, says how it went, and ends the machine.
pub fn init() -> ExitCode {
    let outcome = std::panic::catch_unwind(|| {
        let case = set_up();
        let case = crate::cases().into_iter().find(|known| known.name == case).expect("a known case");
        (case.guest)();
        std::env::set_current_dir("/").unwrap();
        rustix::mount::unmount(MOUNT, rustix::mount::UnmountFlags::empty())
            .expect("nothing keeps the mount busy");
    });
    if outcome.is_ok() {
        eprintln!("{PASSED}");
    }
    // The console is slow, and does not outlive the machine.
    let _ = rustix::termios::tcdrain(std::io::stderr());
    let _ = rustix::system::reboot(RebootCommand::Restart);
    ExitCode::FAILURE
}

fn set_up() -> String {
    for folder in ["/proc", "/sys", "/dev", MOUNT, "/tmp"] {
        std::fs::create_dir_all(folder).unwrap();
    }
    for (kind, target) in [("proc", "/proc"), ("sysfs", "/sys"), ("devtmpfs", "/dev"), ("tmpfs", "/tmp")] {
        mount(kind, target, kind, MountFlags::empty(), None)
            .unwrap_or_else(|error| panic!("{target}: {error}"));
    }
    mount_share();
    let words = std::fs::read_to_string("/proc/cmdline").unwrap();
    words.split_whitespace().find_map(|word| word.strip_prefix(CASE)).expect("a case").to_owned()
}

/// Mounts the shared folder.
pub fn mount_share() {
    mount("rkvm", MOUNT, "virtiofs", MountFlags::empty(), None).expect("mount the shared folder");
    std::env::set_current_dir(MOUNT).unwrap();
}

/// Starts this program as another process that runs [`child`]; whether it exits with success.
pub fn in_another_process(arguments: &[&str]) -> bool {
    let program = std::env::current_exe().unwrap();
    std::process::Command::new(program).arg(CHILD).args(arguments).status().unwrap().success()
}

/// Another process of a case: `lock flock|posix FILE` tries to get a lock, `connect SOCKET` sends a word, `write FIFO`.
pub fn child(arguments: &[String]) -> ExitCode {
    use std::io::Write;
    let [what, path] = arguments else { return ExitCode::FAILURE };
    let path = Path::new(path);
    let open = || std::fs::File::options().read(true).write(true).open(path).unwrap();
    let done = match what.as_str() {
        "flock" => rustix::fs::flock(open(), rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok(),
        "posix" => {
            rustix::fs::fcntl_lock(open(), rustix::fs::FlockOperation::NonBlockingLockExclusive).is_ok()
        }
        "connect" => std::os::unix::net::UnixStream::connect(path).unwrap().write_all(b"word").is_ok(),
        "write" => std::fs::File::options().write(true).open(path).unwrap().write_all(b"word").is_ok(),
        _ => false,
    };
    if done { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// Runs `work` in a thread with other credentials.
pub fn as_user<T: Send>(uid: u32, gid: u32, groups: &[u32], work: impl FnOnce() -> T + Send) -> T {
    use rustix::fs::{Gid, Uid};
    use rustix::thread::{set_thread_groups, set_thread_res_gid, set_thread_res_uid};
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            let (uid, gid) = (Uid::from_raw(uid), Gid::from_raw(gid));
            set_thread_groups(&groups).unwrap();
            set_thread_res_gid(gid, gid, gid).unwrap();
            set_thread_res_uid(uid, uid, uid).unwrap();
            work()
        });
        thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

/// Waits until `done` says so, at most for a few seconds.
pub fn soon(what: &str, mut done: impl FnMut() -> bool) {
    for _ in 0..1000 {
        if done() {
            return;
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    panic!("{what}: nothing happened");
}
