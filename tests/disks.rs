//! Block devices of the host, given with `--device`: the device file itself in a container, a disk of the machine in a microVM.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::MetadataExt;

use rkvm_testing::{Isolation, Output, Sandbox, has_vms, in_both_isolations};

in_both_isolations!(a_disk_is_read_written_and_flushed, a_disk_is_read_only_where_the_flag_says_so);

const BYTES: u64 = 8 << 20;

/// A loop device over a file of the sandbox, detached in the end.
struct Loop {
    device: String,
    file: std::path::PathBuf,
}

impl Loop {
    fn attach(sandbox: &Sandbox) -> Self {
        let file = sandbox.path().join("disk.img");
        fs::write(&file, b"from the host\n").unwrap();
        fs::File::options().write(true).open(&file).unwrap().set_len(BYTES).unwrap();
        let device = sandbox.command("losetup").args(["--find", "--show"]).arg(&file).ok().text();
        Self { device, file }
    }
}

impl Drop for Loop {
    fn drop(&mut self) {
        let _ = std::process::Command::new("losetup").args(["--detach", &self.device]).status();
    }
}

/// The host's root owns the device file, so that a container needs to be that.
fn run(sandbox: &Sandbox, device: &str, script: &str) -> Output {
    let flags = ["run", "--rm", "--network", "none", "--userns", "host", "--device", device];
    sandbox.rkvm(flags).args(["busybox", "sh", "-c", script]).run()
}

fn a_disk_is_read_written_and_flushed(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    let disk = Loop::attach(&sandbox);
    let device = format!("{}:/dev/data", disk.device);
    let script = "test -b /dev/data || exit 3; blockdev --getsize64 /dev/data; blockdev --getro /dev/data; head -n 1 /dev/data; \
                  echo from inside | dd of=/dev/data bs=512 seek=1000 conv=fsync,notrunc 2>/dev/null; \
                  dd if=/dev/data bs=512 skip=1000 count=1 2>/dev/null | head -n 1; test ! -e /dev/sda";
    let said = run(&sandbox, &device, script).expect_code(0).text();
    assert_eq!(said, format!("{BYTES}\n0\nfrom the host\nfrom inside"));
    let bytes = fs::read(&disk.file).unwrap();
    assert!(bytes[512_000..].starts_with(b"from inside\n"));
}

fn a_disk_is_read_only_where_the_flag_says_so(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    let disk = Loop::attach(&sandbox);
    let device = format!("{}:/dev/data:r", disk.device);
    let script = "head -n 1 /dev/data; if echo never >/dev/data; then sync; echo written; fi";
    let said = run(&sandbox, &device, script).text();
    assert_eq!(said, "from the host");
    assert!(fs::read(&disk.file).unwrap().starts_with(b"from the host\n"));
}

#[test]
fn what_a_guest_discards_is_free_on_the_host() {
    if !has_vms() {
        return;
    }
    let sandbox = Sandbox::of(Isolation::Vm);
    sandbox.load_busybox();
    let disk = Loop::attach(&sandbox);
    let fill =
        "dd if=/dev/urandom of=/dev/data bs=1M count=8 conv=fsync 2>/dev/null; blkdiscard /dev/data; sync";
    run(&sandbox, &format!("{}:/dev/data", disk.device), fill).expect_code(0);
    assert!(fs::metadata(&disk.file).unwrap().blocks() * 512 < BYTES / 2);
    assert!(fs::read(&disk.file).unwrap().iter().all(|byte| *byte == 0));
}

#[test]
fn what_is_no_disk_is_refused_by_name() {
    if !has_vms() {
        return;
    }
    let sandbox = Sandbox::of(Isolation::Vm);
    sandbox.load_busybox();
    for device in ["/dev/fuse", "/dev/null"] {
        let output = run(&sandbox, device, "true").expect_code(125);
        assert!(output.stderr().contains(device) && output.stderr().contains("block devices"), "{output}");
    }
}
