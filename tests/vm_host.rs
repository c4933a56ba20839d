//! Hosts and kernels that a microVM cannot run on or with: `rkvm run` and `rkvm info` say what is missing and what to do. `/dev/kvm` is
//! hidden, replaced and closed in mount namespaces of the commands' own.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::path::{Path, PathBuf};

use rkvm_testing::{Cmd, Sandbox, binary, has_vms};

/// A /dev without KVM.
const HIDDEN: &str = "d=$PWD/dev; mkdir -p $d; mount -t tmpfs tmpfs $d; for n in null zero full random urandom tty; \
                      do touch $d/$n; mount --bind /dev/$n $d/$n; done; mount --rbind $d /dev";
/// Another device in its place.
const ANOTHER: &str = "mount --bind /dev/null /dev/kvm";
/// The device on a file system where none may be opened.
const CLOSED: &str = "d=$PWD/nodev; mkdir -p $d; mount -t tmpfs -o nodev tmpfs $d; mknod $d/kvm c 10 232; \
                      mount --bind $d/kvm /dev/kvm";

/// `program ARGS` behind the mounts that `script` makes.
fn behind(sandbox: &Sandbox, script: &str, program: &str) -> Cmd {
    let script = format!("set -e; {script}; exec \"$@\"");
    sandbox
        .command("unshare")
        .env("RKVM_ROOT", sandbox.root())
        .args(["--mount", "sh", "-c", &script, "sh"])
        .arg(binary(program))
}

#[test]
fn a_host_without_a_usable_kvm_is_told_what_it_lacks() {
    if !has_vms() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    let bundle = sandbox.bundle("c", &["true"]);
    for (script, what, hint) in [
        (HIDDEN, "this host has no KVM", "enable nested virtualization"),
        (ANOTHER, "it is another device", "/dev/kvm"),
        (CLOSED, "no permission", "nodev"),
    ] {
        let rkvm = |args: &[&str]| behind(&sandbox, script, "rkvm").args(args);
        let told = |text: &str| {
            for part in ["/dev/kvm", what, hint] {
                assert!(text.contains(part), "{part:?} is not in {text}");
            }
        };
        let run = rkvm(&["run", "--rm", "--isolation=vm", "--network", "none", "busybox", "true"]).run();
        told(&run.expect_code(125).stderr());
        let oci = behind(&sandbox, script, "rkvm-oci").arg("--root").arg(sandbox.oci_root());
        let oci = oci.args(["--isolation", "vm", "run", "--bundle"]).arg(&bundle.path).arg(sandbox.id("c"));
        told(&oci.run().expect_code(1).stderr());

        let info = rkvm(&["info", "--format", "json"]).ok().json();
        assert_eq!(info["KVM"]["Kind"], "none", "{info}");
        told(info["KVM"]["Reason"].as_str().unwrap());
        assert_eq!(info["Isolation"][1]["Available"], false, "{info}");
        let text = rkvm(&["info"]).ok().stdout();
        assert!(text.contains("KVM: none (") && text.contains("Guest Kernel: none, without a KVM"), "{text}");
        let features = rkvm(&["features", "--format", "json"]).ok().json();
        assert_eq!(features["vm"]["available"], false);
        // The other isolation does not care.
        let container = rkvm(&["run", "--rm", "--network", "none", "busybox", "echo", "well"]).ok();
        assert_eq!(container.text(), "well");
    }
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
}

/// The folder of the guest's artifacts, beside the binaries.
fn guest() -> PathBuf {
    binary("rkvm").parent().unwrap().join("guest")
}

/// The kernel that this host's microVMs boot, and the kind of its KVM.
fn kernel(sandbox: &Sandbox) -> (PathBuf, String) {
    let shown = sandbox.rkvm(["info", "--format", "{{.KVM.Kind}} {{.Guest.Kernel}}"]).ok().text();
    let (kind, path) = shown.split_once(' ').unwrap();
    (path.into(), kind.to_owned())
}

#[test]
fn a_kernel_of_ones_own_boots() {
    if !has_vms() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    let copy = sandbox.path().join("my-kernel");
    fs::copy(kernel(&sandbox).0, &copy).unwrap();
    let initrd = guest().join("initramfs.cpio");
    let run = |flags: &[&Path]| {
        let words = ["--cmdline", "my.word=1 my.other=2"].map(Path::new);
        sandbox.rkvm(["run", "--rm", "--isolation=vm", "--network", "none"]).args(words).args(flags)
    };
    let both = [Path::new("--kernel"), &copy, Path::new("--initrd"), &initrd];
    for flags in [&both[..2], &both[2..], &both[..]] {
        let said = run(flags).args(["busybox", "cat", "/proc/cmdline"]).ok().text();
        assert!(said.ends_with("my.word=1 my.other=2"), "{said}");
    }
    // Relative to where the command is run.
    let relative = [Path::new("--kernel"), Path::new("my-kernel")];
    run(&relative).args(["busybox", "true"]).ok();
}

#[test]
fn a_kernel_that_does_not_fit_is_told_why() {
    if !has_vms() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    let (path, kind) = kernel(&sandbox);
    let ours = fs::read(path).unwrap();
    // A bzImage as far as its header goes, with a version that says what is in it.
    let mut image = vec![0; 4096];
    image[0x1f1] = 1;
    image[0x202..0x206].copy_from_slice(b"HdrS");
    image[0x206..0x208].copy_from_slice(&0x20f_u16.to_le_bytes());
    image[0x20e..0x210].copy_from_slice(&0x200_u16.to_le_bytes());
    image[0x400..0x410].copy_from_slice(b"9.9-rkvm-pvm (x)");
    let mut elf32 = b"\x7fELF\x01\x01\x01".to_vec();
    elf32.resize(4096, 0);
    let mut cases = vec![
        ("truncated", ours[..ours.len() / 2].to_vec(), "is the file complete?"),
        ("beginning", ours[..40].to_vec(), "nothing more"),
        ("empty", vec![], "it is empty"),
        ("text", b"#!/bin/sh\n".to_vec(), "neither an ELF file nor a bzImage"),
        ("compressed", vec![0x1f, 0x8b, 8, 0], "unpack it"),
        ("elf32", elf32, "32-bit"),
        // A program of this host.
        ("program", fs::read(binary("rkvm-vmm")).unwrap(), "microVM"),
    ];
    if kind == "pvm" {
        cases.push(("bzimage", image, "9.9-rkvm-pvm) needs hardware virtualization"));
        // A plain kernel, as far as its mark goes: the build salt, a note of 9 bytes (the vDSO inside has one too).
        let mut plain = ours.clone();
        let head = [6_u32, 9, 0x100].map(u32::to_le_bytes).concat();
        let note = [&head[..], b"Linux\0\0\0rkvm-pvm\0"].concat();
        let notes: Vec<usize> =
            (0..plain.len() - note.len()).filter(|at| plain[*at..].starts_with(&note)).collect();
        assert!(!notes.is_empty(), "no build salt");
        for at in notes {
            plain[at + 4] = 11;
            plain[at + 20..at + 31].copy_from_slice(b"rkvm-plain\0");
        }
        cases.push(("plain", plain, "needs hardware virtualization"));
    }
    for (name, content, part) in cases {
        let file = sandbox.path().join(name);
        fs::write(&file, content).unwrap();
        let run = sandbox.rkvm(["run", "--rm", "--isolation=vm", "--network", "none", "--kernel", name]);
        let said = run.args(["busybox", "true"]).run().expect_code(125).stderr();
        assert!(said.contains(part), "{name}: {part:?} is not in {said}");
        assert!(!said.contains("SIGSYS") && !said.contains("panicked"), "{name}: {said}");
        assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "", "{name}");
    }
    sandbox.assert_no_leaks();
}
