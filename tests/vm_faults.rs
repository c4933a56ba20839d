//! Guests that fail: each failure is told as what it is, with the last lines of the console, and nothing of the machine is left.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::ptrace;
use nix::sys::wait::{WaitPidFlag, waitpid};
use nix::unistd::Pid;
use rkvm_testing::{Isolation, Output, Sandbox, has_vms, wait};

fn sandbox() -> Option<Sandbox> {
    has_vms().then(|| {
        let sandbox = Sandbox::of(Isolation::Vm);
        sandbox.load_busybox();
        sandbox
    })
}

/// Runs `script` in a machine with all rights over its own kernel, on the bridge, so that there is a tap that could be left.
fn run(sandbox: &Sandbox, flags: &[&str], script: &str) -> Output {
    sandbox
        .rkvm(["run", "--name", "box", "--privileged"])
        .args(flags)
        .args(["busybox", "sh", "-c", script])
        .limit(Duration::from_secs(120))
        .run()
}

/// Takes more memory than the machine has; the kernel is to promise it first.
const EAT: &str = "echo 1 >/proc/sys/vm/overcommit_memory; exec dd if=/dev/zero of=/dev/null bs=400M count=1";

/// A machine that never came up has left nothing at all.
fn was_never_there(sandbox: &Sandbox) {
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
    sandbox.assert_no_leaks();
}

/// What is left when a machine has failed: the record of a container that has ended, which can be removed.
fn nothing_is_left(sandbox: &Sandbox, code: &str) {
    let format = "{{.State.Status}} {{.State.ExitCode}} {{.State.Pid}}";
    assert_eq!(sandbox.rkvm(["inspect", "--format", format, "box"]).ok().text(), format!("exited {code} 0"));
    sandbox.rkvm(["rm", "box"]).ok();
    sandbox.assert_no_leaks();
}

fn assert_says(output: &Output, all: &[&str]) {
    for text in all {
        assert!(output.stderr().contains(text), "{text:?} is missing: {output}");
    }
}

/// A copy of the guest's kernel that does `code` as its first instruction.
fn kernel_that_begins_with(sandbox: &Sandbox, code: &[u8]) -> String {
    let original = sandbox.rkvm(["info", "--format", "{{.Guest.Kernel}}"]).ok().text();
    let mut bytes = fs::read(original).unwrap();
    let number = |at: usize, length: usize| {
        let mut value = [0; 8];
        value[..length].copy_from_slice(&bytes[at..at + length]);
        u64::from_le_bytes(value)
    };
    // elf(5): entry, and the program header that it lies in.
    let (entry, headers, size, count) = (number(24, 8), number(32, 8), number(54, 2), number(56, 2));
    let place = (0..count).find_map(|index| {
        let header = (headers + index * size) as usize;
        let [offset, address, length] = [8, 24, 32].map(|field| number(header + field, 8));
        let within = entry.checked_sub(address).filter(|within| *within < length)?;
        (number(header, 4) == 1).then_some((offset + within) as usize)
    });
    let place = place.expect("the entry lies in a segment");
    bytes[place..place + code.len()].copy_from_slice(code);
    let path = sandbox.path().join("vmlinux");
    fs::write(&path, bytes).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn a_guest_kernel_that_panics() {
    let Some(sandbox) = sandbox() else { return };
    let output = run(&sandbox, &["--cmdline", "rdinit=/nonexistent"], "true").expect_code(125);
    assert_says(
        &output,
        &["the guest's kernel panicked: VFS", "last lines", "Kernel panic - not syncing: VFS"],
    );
    was_never_there(&sandbox);
}

#[test]
fn a_triple_fault() {
    let Some(sandbox) = sandbox() else { return };
    // An invalid instruction, when nothing handles exceptions yet.
    let kernel = kernel_that_begins_with(&sandbox, &[0x0f, 0x0b]);
    let output = run(&sandbox, &["--kernel", &kernel], "true").expect_code(125);
    assert_says(&output, &["triple fault"]);
    was_never_there(&sandbox);
}

#[test]
fn a_process_that_takes_all_memory_of_its_machine() {
    let Some(sandbox) = sandbox() else { return };
    // Without a limit the guest's kernel is what runs out, and kills the largest process: as Docker tells of it.
    run(&sandbox, &[], EAT).expect_code(137);
    assert_eq!(sandbox.rkvm(["inspect", "--format", "{{.State.OOMKilled}}", "box"]).ok().text(), "true");
    nothing_is_left(&sandbox, "137");
}

#[test]
fn a_guest_kernel_that_is_out_of_memory() {
    let Some(sandbox) = sandbox() else { return };
    let flags = ["--cmdline", "sysctl.vm.panic_on_oom=2"];
    let output = run(&sandbox, &flags, EAT).expect_code(125);
    assert_says(&output, &["the guest's kernel ran out of memory", "--memory", "last lines", "Kernel panic"]);
    nothing_is_left(&sandbox, "125");
}

/// An initramfs whose init says something and hangs.
fn hanging_initramfs(sandbox: &Sandbox) -> PathBuf {
    let folder = sandbox.path().join("initramfs");
    for name in ["bin", "dev"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    fs::copy("/bin/busybox", folder.join("bin/busybox")).unwrap();
    let script = "#!/bin/busybox sh\n/bin/busybox mknod /dev/kmsg c 1 11\necho '<3>here it hangs' >/dev/kmsg\n\
                  while :; do /bin/busybox sleep 100; done\n";
    fs::write(folder.join("init"), script).unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(folder.join("init"), fs::Permissions::from_mode(0o755)).unwrap();
    let archive = "cd initramfs && find . | busybox cpio -o -H newc >../hangs.cpio";
    sandbox.command("sh").args(["-c", archive]).ok();
    sandbox.path().join("hangs.cpio")
}

#[test]
fn a_boot_that_hangs() {
    let Some(sandbox) = sandbox() else { return };
    let initrd = hanging_initramfs(&sandbox);
    let limit = ["--annotation", "io.rkvm.vm.boot-timeout=8"];
    let init = ["--cmdline", "loglevel=4", "--initrd", initrd.to_str().unwrap()];
    let spinning = kernel_that_begins_with(&sandbox, &[0xeb, 0xfe]);
    let at_once = ["--kernel", &spinning];
    // The one has an init that hangs, the other does not get beyond its first instruction.
    for (flags, last) in [(&init[..], "here it hangs"), (&at_once, "")] {
        let output = run(&sandbox, &[&limit[..], flags].concat(), "true").expect_code(125);
        let phase = "the guest's kernel did not come as far as rkvm's init within 8 s";
        assert_says(&output, &[phase, "io.rkvm.vm.boot-timeout", last]);
        was_never_there(&sandbox);
    }
    let wrong = run(&sandbox, &["--annotation", "io.rkvm.vm.boot-timeout=soon"], "true").expect_code(125);
    assert_says(&wrong, &["io.rkvm.vm.boot-timeout", "soon"]);
    was_never_there(&sandbox);
}

/// The machine's process, once its guest runs.
fn machine(sandbox: &Sandbox) -> Option<Pid> {
    let runs = |pid: &i32| {
        let threads = fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
        threads
            .map(|thread| fs::read_to_string(thread.path().join("comm")).unwrap_or_default())
            .any(|name| name.trim() == "vcpu0")
    };
    sandbox.leaks().pids.into_iter().find(runs).map(Pid::from_raw)
}

#[test]
fn a_host_that_is_late_to_listen_hears_all_that_the_guest_has_said() {
    let Some(sandbox) = sandbox() else { return };
    let run = ["run", "--rm", "--annotation", "io.rkvm.vm.boot-timeout=30", "busybox", "true"];
    // Long enough to stop the thread that listens before the guest's init has said its first word.
    let running = sandbox.rkvm(run).env("RKVM_TEST_DELAY", "boot=1500").spawn();
    let listener = wait::until("the machine", || machine(&sandbox));
    std::thread::sleep(Duration::from_millis(500));
    // The group's leader alone: the guest and its devices go on, as they do where the host's scheduler takes its time.
    ptrace::seize(listener, ptrace::Options::empty()).unwrap();
    ptrace::interrupt(listener).unwrap();
    waitpid(listener, Some(WaitPidFlag::__WALL)).unwrap();
    std::thread::sleep(Duration::from_secs(3));
    ptrace::detach(listener, None).unwrap();
    running.wait().expect_code(0);
    sandbox.assert_no_leaks();
}

#[test]
fn a_console_that_was_asked_for() {
    let Some(sandbox) = sandbox() else { return };
    let file = sandbox.path().join("console");
    let annotation = format!("io.rkvm.vm.console={}", file.display());
    let flags = [
        "--annotation",
        &annotation,
        "--annotation",
        "io.rkvm.vm.boot-timeout=60",
        "--cmdline",
        "loglevel=7",
    ];
    run(&sandbox, &flags, "echo here").expect_code(0);
    let said = fs::read_to_string(&file).unwrap();
    assert!(said.contains("virtio_blk virtio"), "{said}");
    sandbox.rkvm(["rm", "box"]).ok();
    let nowhere = ["--annotation", "io.rkvm.vm.console=/nonexistent/console"];
    assert_says(&run(&sandbox, &nowhere, "true").expect_code(125), &["/nonexistent/console"]);
    was_never_there(&sandbox);
}

/// A small file system that is unmounted in the end, whatever the test does.
struct Small(PathBuf);

impl Small {
    fn mount(path: &Path, size: &str) -> Self {
        fs::create_dir_all(path).unwrap();
        mount(Some("tmpfs"), path, Some("tmpfs"), MsFlags::empty(), Some(size)).unwrap();
        Self(path.to_owned())
    }
}

impl Drop for Small {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_is_an_error_inside_and_hangs_nothing() {
    if !has_vms() {
        return;
    }
    let sandbox = Sandbox::of(Isolation::Vm);
    let small = Small::mount(&sandbox.root(), "size=32m");
    sandbox.load_busybox();
    let script =
        "dd if=/dev/zero of=/big bs=1M count=100; echo code $?; rm /big; echo again >/small && cat /small";
    let output = sandbox
        .rkvm(["run", "--rm", "--network", "none", "busybox", "sh", "-c", script])
        .run()
        .expect_code(0);
    assert_says(&output, &["No space left on device"]);
    assert_eq!(output.text(), "code 1\nagain");
    sandbox.rkvm(["system", "prune", "--all", "--force"]).ok();
    drop(small);
}
