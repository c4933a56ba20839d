//! The machine on hardware virtualization, which the host of the tests may lack: QEMU emulates a processor with SVM, Debian's kernel offers
//! KVM in it, and our VMM boots guests there. Slow as an emulator is, so each boot is a short one.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use rkvm_vmm::initramfs::{Archive, modules};
use rkvm_vmm::virtio::{block::Block, rng::Rng, vsock::Vsock};
use rkvm_vmm::{Access, Console, Host, Image, VmConfig, build};

/// Debian's kernel and its modules, as dev/kernel.sh leaves them.
fn debian(name: &str) -> PathBuf {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/kernel").join(name);
    assert!(path.exists(), "{} is missing: run dev/kernel.sh", path.display());
    path
}

/// The folder of this build's binaries.
fn binaries() -> PathBuf {
    std::env::current_exe().unwrap().parent().unwrap().parent().unwrap().to_owned()
}

/// A program without its debug information, which is most of it.
fn stripped(program: &Path) -> Vec<u8> {
    let work = tempfile::tempdir().unwrap();
    let result = work.path().join("stripped");
    let strip = Command::new("strip").arg("-o").arg(&result).arg(program).status().unwrap();
    assert!(strip.success(), "cannot strip {}", program.display());
    fs::read(result).unwrap()
}

/// Boots an emulated machine with KVM in it that runs `script` (busybox sh) with `files` at hand; its console.
fn in_emulated_host(script: &str, files: &[(&str, Vec<u8>)]) -> String {
    let work = tempfile::tempdir().unwrap();
    let mut archive = Archive::new(Vec::new());
    for folder in ["bin", "proc", "sys", "dev", "tmp"] {
        archive.folder(folder, 0o755).unwrap();
    }
    archive.file("bin/busybox", 0o755, &fs::read("/bin/busybox").unwrap()).unwrap();
    // This test itself boots the inner guest, see `inside`.
    archive.file("boot", 0o755, &stripped(&std::env::current_exe().unwrap())).unwrap();
    let init = format!(
        "#!/bin/busybox sh\nexport PATH=/bin\n/bin/busybox --install -s /bin\nmount -t proc proc /proc\nmount -t devtmpfs dev /dev; dmesg -n 1\n\
         for module in /modules/*; do insmod $module; done\n{script}\necho THE END\npoweroff -f\n"
    );
    archive.file("init", 0o755, init.as_bytes()).unwrap();
    for (name, content) in files {
        archive.file(name, 0o644, content).unwrap();
    }
    let mut initramfs = archive.finish().unwrap();
    initramfs.extend(modules::archive(&debian("modules"), &["kvm_amd"]).unwrap());
    let path = work.path().join("initramfs");
    fs::write(&path, initramfs).unwrap();
    let out = Command::new("timeout")
        .args([
            "300",
            "qemu-system-x86_64",
            "-accel",
            "tcg",
            "-cpu",
            "EPYC,+svm",
            "-m",
            "1536",
            "-display",
            "none",
        ])
        .args(["-nodefaults", "-serial", "stdio", "-no-reboot", "-kernel"])
        .arg(debian("vmlinuz"))
        .arg("-initrd")
        .arg(&path)
        .args(["-append", "console=ttyS0 quiet panic=-1"])
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let console = String::from_utf8_lossy(&out.stdout).into_owned();
    if let Some(path) = std::env::var_os("RKVM_TEST_CONSOLE") {
        fs::write(path, &console).unwrap();
    }
    assert!(console.contains("THE END"), "{console}{}", String::from_utf8_lossy(&out.stderr));
    console
}

/// Runs in the emulated host: boots what the test has put there.
#[test]
#[ignore = "a part of the other test, which runs it in another machine"]
fn inside() {
    let mut config = VmConfig::new(Image::open("/vmlinuz".as_ref()).unwrap());
    config.initrd = Some(Image::open("/initramfs.inner".as_ref()).unwrap());
    (config.vcpus, config.memory_mib) = (2, 512);
    config.console = Console::Full;
    config.console_output = Some(Box::new(std::io::stdout()));
    config.cmdline = "loglevel=7".to_owned();
    config.attach(Rng::new().unwrap());
    config.attach(Block::open("/tmp/disk".as_ref(), Access::ReadWrite, "disk").unwrap());
    config.attach(Vsock::bind("/tmp/vsock".as_ref()).unwrap());
    let machine = build(&Host::open().unwrap(), config).unwrap();
    println!("kind: {}", machine.kind());
    machine.start().unwrap();
    println!("end: {}", machine.wait(Some(Duration::from_secs(200))));
    println!("markers: {:?}", machine.markers().iter().map(|marker| marker.value).collect::<Vec<_>>());
    println!("exits: {:?}", machine.exit_counts());
}

#[test]
fn a_distribution_kernel_with_modules_boots_and_finds_its_devices() {
    let base = binaries().join("guest/initramfs.cpio");
    assert!(base.exists(), "{} is missing: run ./x guest", base.display());
    let initramfs = modules::append(&fs::read(base).unwrap(), &debian("modules")).unwrap();
    let console = in_emulated_host(
        "head -c 1048576 /dev/zero > /tmp/disk\n\
         /boot --ignored --exact inside --nocapture --test-threads=1 2>&1",
        &[("vmlinuz", fs::read(debian("vmlinuz")).unwrap()), ("initramfs.inner", initramfs)],
    );
    assert!(console.contains("kind: hardware (AMD SVM)"), "{console}");
    // Both processors; the disk by its driver; the marker of init; nobody on the host's side of its socket, and a clean end.
    assert!(console.contains("smp: Brought up 1 node, 2 CPUs"), "{console}");
    assert!(console.contains("virtio_blk virtio1: [vda] 2048 512-byte"), "{console}");
    assert!(console.contains("markers: [1, 255]"), "{console}");
    assert!(console.contains("rkvm-init: ") && console.contains("end: the guest powered off"), "{console}");
}

/// Our kernel for hardware, if it has been built here (guest/kernel/build.sh --variant plain).
fn plain_kernel() -> Option<PathBuf> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache/guest-kernel");
    let built = fs::read_dir(cache).into_iter().flatten().flatten().map(|entry| entry.path());
    let plain = built
        .filter(|path| path.file_name().is_some_and(|name| name.as_encoded_bytes().starts_with(b"plain-")));
    plain.map(|folder| folder.join("vmlinux")).find(|kernel| kernel.exists())
}

/// As `/lib/modules/VERSION`, a tar archive: the lists, and of the modules those that a machine of ours wants.
fn modules_of_a_distribution() -> Vec<u8> {
    let folder = debian("modules");
    let list = fs::read_to_string(folder.join("modules.dep")).unwrap();
    let wanted = |path: &str| {
        let file = path.rsplit('/').next().unwrap_or_default();
        modules::WANTED.iter().any(|name| file.strip_prefix(name).is_some_and(|rest| rest.starts_with(".ko")))
    };
    let mut files = vec!["modules.dep".to_owned(), "modules.builtin".to_owned()];
    for (path, needs) in list.lines().filter_map(|line| line.split_once(':')) {
        if wanted(path) {
            files.extend(std::iter::once(path).chain(needs.split_whitespace()).map(str::to_owned));
        }
    }
    files.sort();
    files.dedup();
    let tar = Command::new("tar").arg("-C").arg(folder).args(["-cf", "-"]).args(files).output().unwrap();
    assert!(tar.status.success());
    tar.stdout
}

const CONFIG: &str = r#"{
    "ociVersion": "1.2.0", "hostname": "inner", "root": { "path": "rootfs" },
    "annotations": { "io.rkvm.vm.boot-timeout": "120" },
    "process": {
        "user": { "uid": 0, "gid": 0 }, "cwd": "/", "env": ["PATH=/bin"],
        "args": ["/bin/busybox", "sh", "-c", "busybox hostname; busybox uname -r; busybox cut -d' ' -f1 /proc/modules; echo to stderr >&2; exit 7"]
    },
    "mounts": [
        { "destination": "/proc", "type": "proc", "source": "proc" },
        { "destination": "/shared", "type": "bind", "source": "/shared", "options": ["bind", "ro"] }
    ],
    "linux": { "namespaces": [
        { "type": "pid" }, { "type": "ipc" }, { "type": "uts" }, { "type": "mount" }, { "type": "network" }
    ] }
}"#;

/// The whole way of a container: runtime, jail, machine, init, shared root filesystem, program, exit code.
#[test]
fn the_runtime_runs_a_bundle_on_our_kernel_and_on_a_distributions() {
    let plain = plain_kernel();
    let ours = plain.is_some();
    // The root of the machine is its initramfs, which nothing can pivot out of: the runtime gets a root of its own.
    let script = format!(
        "mkdir /new; mount -t tmpfs tmpfs /new; cd /new; mkdir proc sys dev tmp run guest shared bundle bundle/rootfs bundle/rootfs/bin bundle/rootfs/proc bundle/rootfs/shared\n\
         mkdir -p lib/modules/$(uname -r); tar -C lib/modules/$(uname -r) -xf /modules.tar\n\
         cp -a /bin /rkvm-oci /rkvm-vmm /vmlinuz .; chmod 755 rkvm-oci rkvm-vmm; cp /config.json bundle; cp /bin/busybox bundle/rootfs/bin\n\
         cp /initramfs.cpio guest; test ! -e /vmlinux-plain || cp /vmlinux-plain guest\n\
         mount --bind /proc proc; mount --bind /dev dev; mount -t sysfs sysfs sys; mount -t cgroup2 cgroup2 sys/fs/cgroup\n\
         oci() {{ chroot /new /bin/env RKVM_GUEST=/guest /rkvm-oci --isolation vm \"$@\" </dev/null 2>&1; }}\n\
         if {ours}; then oci run -b /bundle one; echo \"ours: $?\"\n\
         for turn in 1 2; do oci run -b /bundle again; echo \"from the template: $?\"; done\n\
         echo \"templates: $(find /new/run/rkvm-templates -type f -size +1000 | wc -l)\"; fi\n\
         oci run --kernel /vmlinuz -b /bundle two; echo \"theirs: $?\"\n\
         echo \"left: $(oci list -q)$(ps | grep -c '[r]kvm-vmm')\"",
    );
    let mut files = vec![
        ("rkvm-oci", stripped(&binaries().join("rkvm-oci"))),
        ("rkvm-vmm", stripped(&binaries().join("rkvm-vmm"))),
        ("initramfs.cpio", fs::read(binaries().join("guest/initramfs.cpio")).unwrap()),
        ("vmlinuz", fs::read(debian("vmlinuz")).unwrap()),
        ("modules.tar", modules_of_a_distribution()),
        ("config.json", CONFIG.as_bytes().to_vec()),
    ];
    files.extend(plain.map(|path| ("vmlinux-plain", fs::read(path).unwrap())));
    let console = in_emulated_host(&script, &files).replace('\r', "");
    if ours {
        assert!(console.contains("inner\n6.1.192-rkvm") && console.contains("ours: 7\n"), "{console}");
        // The first machine became a template, which both of the others went on from: one that fails is emptied.
        assert_eq!(console.matches("from the template: 7\n").count(), 2, "{console}");
        assert!(console.contains("templates: 1\n"), "{console}");
    } else {
        eprintln!("not run on our own kernel: it has not been built (guest/kernel/build.sh --variant plain)");
    }
    assert!(console.contains("virtiofs\n") && console.contains("theirs: 7\n"), "{console}");
    assert!(console.contains("to stderr\n") && console.contains("left: 0\n"), "{console}");
}
