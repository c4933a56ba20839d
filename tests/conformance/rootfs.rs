//! The root filesystem: read-only, masked and read-only paths, propagation, pivot_root.

use std::fs;

use serde_json::json;

use crate::subject::Subject;
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("is-the-bundles", is_the_bundles),
    case("absolute-path", absolute_path),
    case("read-only", read_only),
    case("writable", writable),
    case("nothing-of-the-host-is-reachable", nothing_of_the_host),
    case("masked-file", masked_file),
    case("masked-folder", masked_folder),
    case("masked-path-that-is-missing", masked_missing),
    case("read-only-path", readonly_path),
    case("read-only-path-that-is-missing", readonly_missing),
    case("read-only-folder-with-its-files", readonly_folder),
    case("propagation-is-private-to-the-container", propagation_default),
    case("propagation-private-and-bad", propagation_private),
    only_rkvm(
        "propagation-shared",
        "runc 1.1 loses it when it makes the parent mount private",
        propagation_shared,
    ),
    case("no-pivot", no_pivot),
    case("a-symbolic-link-as-rootfs", symlink_root),
];

fn is_the_bundles(s: &Subject) {
    let bundle = s.script("cat /etc/mark");
    fs::write(bundle.rootfs().join("etc/mark"), "bundle").unwrap();
    assert_eq!(s.says(&bundle), "bundle");
}

fn absolute_path(s: &Subject) {
    let mut bundle = s.script("cat /etc/mark");
    fs::write(bundle.rootfs().join("etc/mark"), "absolute").unwrap();
    let rootfs = s.sandbox.path().join("elsewhere");
    fs::rename(bundle.rootfs(), &rootfs).unwrap();
    bundle.change(|config| config["root"]["path"] = json!(rootfs));
    assert_eq!(s.says(&bundle), "absolute");
}

fn read_only(s: &Subject) {
    let mut bundle = s.script("touch /file; echo $?; touch /dev/shm/file; echo $?");
    bundle.change(|config| config["root"]["readonly"] = json!(true));
    assert_eq!(s.says(&bundle), "1\n0");
    assert!(!bundle.rootfs().join("file").exists());
}

fn writable(s: &Subject) {
    let bundle = s.script("echo text > /file");
    s.says(&bundle);
    assert_eq!(fs::read_to_string(bundle.rootfs().join("file")).unwrap(), "text\n");
}

fn nothing_of_the_host(s: &Subject) {
    fs::write(s.sandbox.path().join("host-file"), "host").unwrap();
    let bundle = s.script(&format!(
        "cat {0}/host-file /../../..{0}/host-file 2>/dev/null; cd /; cd ..; cd ..; ls -d tmp/rkvmt-* 2>/dev/null; \
         for i in 0 1 2; do readlink /proc/self/fd/$i; done; ls /proc/self/cwd/../../.. | sort",
        s.sandbox.path().display()
    ));
    let said = s.says(&bundle);
    assert!(!said.contains("host\n"), "{said}");
    assert!(said.ends_with("bin\ndev\netc\nhome\nmnt\nproc\nroot\nrun\nsys\ntmp\nusr\nvar"), "{said}");
}

fn masked_file(s: &Subject) {
    let mut bundle =
        s.script("cat /proc/timer_list /etc/secret | wc -c; echo x > /etc/secret; cat /etc/secret");
    fs::write(bundle.rootfs().join("etc/secret"), "secret").unwrap();
    bundle.change(|config| config["linux"]["maskedPaths"] = json!(["/proc/timer_list", "/etc/secret"]));
    assert_eq!(s.says(&bundle), "0");
    assert_eq!(fs::read_to_string(bundle.rootfs().join("etc/secret")).unwrap(), "secret");
}

fn masked_folder(s: &Subject) {
    let mut bundle = s.script("ls /secret | wc -l; touch /secret/new 2>/dev/null; echo $?");
    fs::create_dir(bundle.rootfs().join("secret")).unwrap();
    fs::write(bundle.rootfs().join("secret/file"), "secret").unwrap();
    bundle.change(|config| config["linux"]["maskedPaths"] = json!(["/secret"]));
    assert_eq!(s.says(&bundle), "0\n1");
}

fn masked_missing(s: &Subject) {
    let mut bundle = s.script("ls /no 2>/dev/null; echo ok");
    bundle.change(|config| config["linux"]["maskedPaths"] = json!(["/no/such/path"]));
    assert_eq!(s.says(&bundle), "ok");
}

fn readonly_path(s: &Subject) {
    let said = s.says_script("echo 1 > /proc/sys/kernel/hostname; echo $?; cat /proc/sys/kernel/hostname");
    assert_eq!(said, "1\nconformance");
}

fn readonly_missing(s: &Subject) {
    let mut bundle = s.script("echo ok");
    bundle.change(|config| config["linux"]["readonlyPaths"] = json!(["/no/such/path"]));
    assert_eq!(s.says(&bundle), "ok");
}

fn readonly_folder(s: &Subject) {
    let mut bundle = s.script("cat /kept/file; echo y > /kept/file; echo $?; rm /kept/file; echo $?");
    fs::create_dir(bundle.rootfs().join("kept")).unwrap();
    fs::write(bundle.rootfs().join("kept/file"), "x\n").unwrap();
    bundle.change(|config| config["linux"]["readonlyPaths"] = json!(["/kept"]));
    assert_eq!(s.says(&bundle), "x\n1\n1");
}

/// Optional fields (`shared:N`, `master:N`) of the mount at `point`, as the container sees it.
const OPTIONAL_FIELDS: &str = "optional() { awk -v p=\"$1\" '$5 == p { o = \"\"; for (i = 7; $i != \"-\"; i++) \
                               { sub(/:.*/, \"\", $i); o = o \" \" $i }; r = o } END { print \"[\" r \"]\" }' \
                               /proc/self/mountinfo; }; ";

fn propagation_default(s: &Subject) {
    let said = s.says_script(&format!("{OPTIONAL_FIELDS} optional /; optional /proc"));
    assert!(!said.contains("shared"), "a mount event could reach the host: {said}");
}

fn propagation_shared(s: &Subject) {
    let mut bundle = s.script(&format!("{OPTIONAL_FIELDS} optional /"));
    bundle.change(|config| config["linux"]["rootfsPropagation"] = json!("shared"));
    assert_eq!(s.says(&bundle), "[ shared]");
}

fn propagation_private(s: &Subject) {
    let mut bundle = s.script(&format!("{OPTIONAL_FIELDS} optional /"));
    bundle.change(|config| config["linux"]["rootfsPropagation"] = json!("private"));
    assert_eq!(s.says(&bundle), "[]");
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| config["linux"]["rootfsPropagation"] = json!("nonsense"));
    s.run_fails(&bundle, "");
}

fn no_pivot(s: &Subject) {
    let bundle = s.script("cat /etc/mark; ls / | wc -l");
    fs::write(bundle.rootfs().join("etc/mark"), "moved\n").unwrap();
    let output = s.cmd(["run", "--no-pivot", "--bundle"]).arg(&bundle.path).arg(s.id()).ok();
    assert_eq!(output.text(), "moved\n12");
}

fn symlink_root(s: &Subject) {
    let mut bundle = s.script("echo linked");
    std::os::unix::fs::symlink("rootfs", bundle.path.join("link")).unwrap();
    bundle.change(|config| config["root"]["path"] = json!("link"));
    // runc resolves the link itself on create but refuses it afterwards ("rootfs is not an absolute path, or is a symlink") in
    // 1.1: both answers are safe, a mount outside is not.
    let output = s.run(&bundle);
    assert!(output.code != 0 || output.text() == "linked", "{output}");
}
