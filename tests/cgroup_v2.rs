//! cgroup v2, all of it: the machine that runs the tests may have v1, so this boots Debian's kernel in QEMU (without KVM, so
//! anywhere), with the real `rkvm-oci` as all that there is, and reads the results from the console.
//!
//! The cases are in `cgroup_v2/guest.sh`. Needs `qemu-system-x86`, `busybox-static` and `.cache/kernel/vmlinuz`, which `./x test`
//! provides.

// Test code: a failed expectation is a failed test.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::{self, File};
use std::io::{self, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rkvm_testing::{binary, have};
use serde_json::{Value, json};

/// A boot and all cases take about 20 seconds on an idle machine.
const TIMEOUT: Duration = Duration::from_secs(180);

const CASES: &[&str] = &[
    "limits",
    "pids",
    "memory",
    "quota",
    "freezer",
    "devices",
    "update",
    "stats",
    "kill",
    "nested",
    "namespace",
    "refused",
    "nothing_left",
];

#[test]
fn everything_holds_on_a_host_with_cgroup_v2_alone() {
    let kernel = Path::new(env!("CARGO_MANIFEST_DIR")).join(".cache/kernel/vmlinuz");
    assert!(kernel.exists(), "{} is missing: `./x test` or dev/kernel.sh fetches it", kernel.display());
    assert!(have("qemu-system-x86_64"), "qemu-system-x86 is not installed: `./x test` installs it");
    let folder = tempfile::tempdir().unwrap();
    let initramfs = folder.path().join("initramfs");
    write_initramfs(&initramfs, folder.path());
    let console = boot(&kernel, &initramfs, &folder.path().join("console"));
    let result = |name: &str| {
        let start = format!("RESULT {name} ");
        console.lines().find_map(|line| line.strip_prefix(&start)).unwrap_or("did not run")
    };
    let failed: Vec<String> = CASES
        .iter()
        .filter(|name| result(name) != "ok")
        .map(|name| format!("{name}: {}", result(name)))
        .collect();
    let tail: Vec<&str> = console.lines().rev().take(40).collect();
    let tail: Vec<&str> = tail.into_iter().rev().collect();
    assert!(failed.is_empty(), "{failed:#?}\nthe console ends with:\n{}", tail.join("\n"));
}

/// Boots until the guest powers off; what it wrote to its serial console.
fn boot(kernel: &Path, initramfs: &Path, console: &Path) -> String {
    let mut qemu = Command::new("qemu-system-x86_64")
        .args(["-accel", "tcg", "-m", "768", "-smp", "1", "-nodefaults", "-display", "none", "-no-reboot"])
        .args(["-serial", "stdio", "-append", "console=ttyS0 quiet panic=-1 rdinit=/init"])
        .arg("-kernel")
        .arg(kernel)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(Stdio::null())
        .stdout(File::create(console).unwrap())
        .spawn()
        .unwrap();
    let deadline = Instant::now() + TIMEOUT;
    while qemu.try_wait().unwrap().is_none() {
        if Instant::now() > deadline {
            qemu.kill().unwrap();
            qemu.wait().unwrap();
            let text = String::from_utf8_lossy(&fs::read(console).unwrap()).into_owned();
            panic!("the guest did not end within {TIMEOUT:?}; its console:\n{text}");
        }
        thread::sleep(Duration::from_millis(50));
    }
    String::from_utf8_lossy(&fs::read(console).unwrap()).replace('\r', "")
}

/// The guest's whole file system, as the kernel takes it: a cpio archive.
fn write_initramfs(path: &Path, work: &Path) {
    let stripped = work.join("rkvm-oci");
    let strip = Command::new("strip").arg("-o").arg(&stripped).arg(binary("rkvm-oci")).status().unwrap();
    assert!(strip.success());
    let mut archive = Cpio { file: io::BufWriter::new(File::create(path).unwrap()), entries: 0 };
    for folder in ["bin", "new", "cases"] {
        archive.add(folder, 0o040_755, &[]);
    }
    archive.add("init", 0o100_755, include_bytes!("cgroup_v2/guest.sh"));
    let busybox = fs::read("/bin/busybox").expect("busybox-static is installed by `./x test`");
    archive.add("bin/busybox", 0o100_755, &busybox);
    archive.add("bin/rkvm-oci", 0o100_755, &fs::read(stripped).unwrap());
    for name in CASES.iter().filter(|name| **name != "nothing_left") {
        archive.add(&format!("cases/{name}"), 0o040_755, &[]);
        for folder in ["rootfs", "rootfs/bin", "rootfs/proc", "rootfs/dev", "rootfs/sys", "rootfs/tmp"] {
            archive.add(&format!("cases/{name}/{folder}"), 0o040_755, &[]);
        }
        archive.add(&format!("cases/{name}/rootfs/bin/busybox"), 0o100_755, &busybox);
        let config = serde_json::to_vec(&config(name)).unwrap();
        archive.add(&format!("cases/{name}/config.json"), 0o100_644, &config);
    }
    archive.add("TRAILER!!!", 0, &[]);
    archive.file.flush().unwrap();
}

/// Writes the format of the kernel's Documentation/driver-api/early-userspace/buffer-format.rst.
struct Cpio {
    file: io::BufWriter<File>,
    entries: u32,
}

impl Cpio {
    fn add(&mut self, name: &str, mode: u32, data: &[u8]) {
        self.entries += 1;
        let length = name.len() + 1;
        write!(self.file, "070701{:08x}{mode:08x}{:016x}{:08x}{:08x}", self.entries, 0, 1, 0).unwrap();
        write!(self.file, "{:08x}{:032x}{length:08x}{:08x}{name}\0", data.len(), 0, 0).unwrap();
        self.pad(110 + length);
        self.file.write_all(data).unwrap();
        self.pad(data.len());
    }

    fn pad(&mut self, written: usize) {
        self.file.write_all(&[0; 3][..written.wrapping_neg() % 4]).unwrap();
    }
}

fn config(name: &str) -> Value {
    let mut config = json!({
        "ociVersion": "1.2.0",
        "process": {
            "user": { "uid": 0, "gid": 0 },
            "args": ["/bin/busybox", "sh", "-c", program(name)],
            "env": ["PATH=/bin"],
            "cwd": "/",
            "capabilities": {
                "bounding": ["CAP_MKNOD"], "effective": ["CAP_MKNOD"], "permitted": ["CAP_MKNOD"],
            },
        },
        "root": { "path": "rootfs" },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/dev", "type": "tmpfs", "source": "tmpfs", "options": ["nosuid", "mode=755"] },
        ],
        "linux": {
            "cgroupsPath": format!("/test/{name}"),
            "namespaces": [
                { "type": "pid" }, { "type": "mount" }, { "type": "uts" }, { "type": "ipc" }, { "type": "cgroup" },
                { "type": "network" },
            ],
            "resources": resources(name),
        },
    });
    if name == "devices" {
        config["linux"]["devices"] = json!([
            { "path": "/dev/screen", "type": "c", "major": 5, "minor": 1, "fileMode": 0o666 },
            { "path": "/dev/memory", "type": "c", "major": 1, "minor": 1, "fileMode": 0o666 },
        ]);
    }
    if name == "namespace" {
        let mount = json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" });
        let sysfs = json!({ "destination": "/sys", "type": "sysfs", "source": "sysfs", "options": ["ro"] });
        config["mounts"].as_array_mut().unwrap().extend([sysfs, mount]);
    }
    config
}

/// What the case's container runs, in busybox's shell.
fn program(name: &str) -> &'static str {
    match name {
        "pids" => "for i in 1 2 3 4 5 6 7 8; do busybox sleep 1000 & done; wait",
        "memory" => "busybox tail /dev/zero; echo code $?; exec busybox sleep 1000",
        "quota" => "while :; do :; done",
        "devices" => {
            "(echo > /dev/screen) && echo written; (: < /dev/screen) && echo was-read; \
             (: < /dev/memory) && echo was-opened; (: > /dev/memory) && echo was-opened; \
             busybox head -c 9 /dev/zero | busybox wc -c | busybox grep -q 9 && echo zeros; \
             busybox mknod /dev/other c 1 1 && echo made; (: < /dev/other) && echo was-opened; \
             echo end; exec busybox sleep 1000"
        }
        "stats" => "i=0; while [ $i -lt 2000 ]; do i=$((i+1)); done; echo busy-end; exec busybox sleep 1000",
        "kill" => "for i in 1 2 3 4 5; do busybox sleep 1000 & done; wait",
        "namespace" => {
            "busybox cat /proc/self/cgroup; [ -f /sys/fs/cgroup/cgroup.procs ] && echo seen; echo end; \
             exec busybox sleep 1000"
        }
        _ => "exec busybox sleep 1000",
    }
}

fn resources(name: &str) -> Value {
    match name {
        "limits" => json!({
            "memory": { "limit": 67_108_864, "swap": 83_886_080, "reservation": 33_554_432 },
            "cpu": { "shares": 512, "quota": 50_000, "period": 200_000, "burst": 10_000, "cpus": "0", "mems": "0" },
            "pids": { "limit": 50 },
            "hugepageLimits": [{ "pageSize": "2MB", "limit": 4_194_304 }],
            "blockIO": { "weight": 500 },
            "unified": { "memory.high": "60817408" },
        }),
        "pids" => json!({ "pids": { "limit": 5 } }),
        "memory" => json!({ "memory": { "limit": 16_777_216 } }),
        "quota" => json!({ "cpu": { "quota": 5_000, "period": 50_000 } }),
        "devices" => json!({
            "devices": [
                { "allow": false, "access": "rwm" },
                { "allow": true, "type": "c", "major": 5, "minor": 1, "access": "w" },
            ],
        }),
        "stats" => json!({ "memory": { "limit": 67_108_864 }, "pids": { "limit": 99 } }),
        "refused" => json!({ "network": { "classID": 1_048_577 } }),
        _ => json!({}),
    }
}
