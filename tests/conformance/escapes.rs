//! Known ways out, closed.

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::json;

use crate::subject::Subject;
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("cwd-in-a-leaked-descriptor", leaked_cwd),
    case("exec-cwd-in-a-leaked-descriptor", leaked_exec_cwd),
    case("no-descriptor-of-the-host-in-init", host_fds_init),
    case("no-descriptor-of-the-host-in-exec", host_fds_exec),
    case("runtime-binary-cannot-be-overwritten", overwrite_runtime),
    case("runtime-binary-as-the-program", runtime_as_program),
    case("link-as-a-mount-target-stays-inside", link_target),
    case("link-to-the-host-as-a-parent-of-a-target", link_parent),
    case("link-as-a-device-path", link_device),
    case("link-as-a-masked-path", link_masked),
    case("cwd-through-a-link", link_cwd),
    case("proc-that-is-a-link", proc_link),
    case("sys-that-is-a-link", sys_link),
    only_rkvm("dev-that-is-a-link", "runc 1.1 makes its links there on the host", dev_link),
    case("environment-of-the-caller-is-not-visible", caller_environment),
];

fn leaked_cwd(s: &Subject) {
    // CVE-2024-21626: a descriptor of the host's file system that is still open when cwd is entered.
    for number in 3..20 {
        let mut bundle =
            s.script("pwd -P; ls -d ../../../../../work ../../../../tmp/rkvmt-* 2>/dev/null; true");
        bundle.change(|config| config["process"]["cwd"] = json!(format!("/proc/self/fd/{number}")));
        let output = s.run(&bundle);
        let text = output.stdout();
        assert!(output.code != 0 || !text.contains("rkvmt-"), "fd {number} leads out: {output}");
        assert!(output.code != 0, "a cwd outside of the root was entered: {output}");
    }
}

fn leaked_exec_cwd(s: &Subject) {
    s.sleeper();
    for number in 3..20 {
        let output = s
            .cmd(["exec", "--cwd", &format!("/proc/self/fd/{number}")])
            .arg(s.id())
            .args(["sh", "-c", "ls -d ../../../../tmp/rkvmt-*"])
            .run();
        assert!(!output.stdout().contains("rkvmt-"), "fd {number} leads out: {output}");
    }
}

const LIST_FDS: &str = "for f in /proc/1/fd/* /proc/self/fd/*; do readlink $f; done | sort -u";

fn host_fds_init(s: &Subject) {
    let bundle = s.script(&format!("{LIST_FDS}; sleep 1000"));
    let (pid, _) = s.create(&bundle);
    s.start();
    // From outside, so that nothing is hidden by what the container can see.
    rkvm_testing::wait::until("the program to run", || {
        fs::read_to_string(format!("/proc/{pid}/cmdline"))
            .ok()
            .filter(|line| line.contains("sleep"))
            .map(|_| ())
    });
    for entry in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let entry = entry.unwrap();
        let number: u32 = entry.file_name().to_string_lossy().parse().unwrap();
        // The shell keeps its own copies above 9.
        assert!(number <= 2 || number >= 10, "descriptor {number}: {:?}", fs::read_link(entry.path()));
    }
}

fn host_fds_exec(s: &Subject) {
    s.sleeper();
    let said = s.exec(&["sh", "-c", "ls /proc/$$/fd; true"]).ok().text();
    assert!(
        said.lines().all(|line| line.parse::<u32>().is_ok_and(|number| number <= 2 || number >= 10)),
        "{said}"
    );
}

fn overwrite_runtime(s: &Subject) {
    // CVE-2019-5736: exec of /proc/self/exe makes the runtime re-execute itself inside, where its binary can be opened
    // through /proc/PID/exe and written to.
    let runtime = s.runtime_binary();
    let before = fs::read(&runtime).unwrap();
    let (_, _) =
        s.create(&s.script(
            "while :; do for p in /proc/[0-9]*; do (echo overwritten > $p/exe) 2>/dev/null; done; done",
        ));
    s.start();
    for _ in 0..10 {
        s.exec(&["/proc/self/exe"]).run();
        s.exec(&["true"]).run();
    }
    s.cmd(["delete", "--force"]).arg(s.id()).ok();
    assert_eq!(fs::metadata(&runtime).unwrap().len(), before.len() as u64);
    assert!(fs::read(&runtime).unwrap() == before, "the runtime's binary was changed");
}

fn runtime_as_program(s: &Subject) {
    let runtime = s.runtime_binary();
    let before = fs::metadata(&runtime).unwrap();
    let bundle = s.bundle(&["/init"]);
    symlink("/proc/self/exe", bundle.rootfs().join("init")).unwrap();
    s.run(&bundle);
    use std::os::unix::fs::MetadataExt;
    let after = fs::metadata(&runtime).unwrap();
    assert_eq!((before.len(), before.mtime_nsec()), (after.len(), after.mtime_nsec()));
}

/// A folder on the host that nothing may be made in, with links in the rootfs that lead to it.
fn trap(s: &Subject) -> std::path::PathBuf {
    let outside = s.sandbox.path().join("outside");
    fs::create_dir_all(&outside).unwrap();
    outside
}

fn empty(path: &std::path::Path) -> bool {
    fs::read_dir(path).unwrap().next().is_none()
}

fn link_target(s: &Subject) {
    let outside = trap(s);
    let mut bundle = s.script("true");
    symlink(&outside, bundle.rootfs().join("link")).unwrap();
    symlink("../".repeat(20) + &outside.display().to_string()[1..], bundle.rootfs().join("up")).unwrap();
    for destination in ["/link/made", "/up/made"] {
        bundle.mount(json!({ "destination": destination, "type": "tmpfs", "source": "tmpfs" }));
    }
    s.run(&bundle);
    assert!(empty(&outside), "made on the host");
}

fn link_parent(s: &Subject) {
    let outside = trap(s);
    let mut bundle = s.script("true");
    fs::remove_dir(bundle.rootfs().join("var")).unwrap();
    symlink(&outside, bundle.rootfs().join("var")).unwrap();
    fs::write(s.sandbox.path().join("file"), "text").unwrap();
    let source = s.sandbox.path().join("file");
    bundle.mount(
        json!({ "destination": "/var/run/file", "type": "bind", "source": source, "options": ["bind"] }),
    );
    s.run(&bundle);
    assert!(empty(&outside), "made on the host");
}

fn link_device(s: &Subject) {
    let outside = trap(s);
    let mut bundle = s.script("true");
    symlink(&outside, bundle.rootfs().join("hw")).unwrap();
    bundle.change(|config| {
        config["linux"]["devices"] = json!([{ "path": "/hw/null", "type": "c", "major": 1, "minor": 3 }]);
    });
    s.run(&bundle);
    assert!(empty(&outside), "made on the host");
}

fn link_masked(s: &Subject) {
    let outside = trap(s);
    fs::write(outside.join("file"), "text").unwrap();
    let mut bundle = s.script("true");
    symlink(&outside, bundle.rootfs().join("secret")).unwrap();
    bundle.change(|config| {
        config["linux"]["maskedPaths"] = json!(["/secret", "/secret/file"]);
        config["linux"]["readonlyPaths"] = json!(["/secret"]);
    });
    s.run(&bundle);
    fs::write(outside.join("file"), "still writable").unwrap();
    assert_eq!(fs::read_to_string(outside.join("file")).unwrap(), "still writable");
}

fn link_cwd(s: &Subject) {
    let outside = trap(s);
    let mut bundle = s.script("pwd");
    symlink(&outside, bundle.rootfs().join("work")).unwrap();
    bundle.change(|config| config["process"]["cwd"] = json!("/work/made"));
    s.run(&bundle);
    assert!(empty(&outside), "made on the host");
}

/// Replaces `name` of the rootfs with a link to a folder on the host.
fn replaced(s: &Subject, name: &str) {
    let outside = trap(s);
    fs::set_permissions(&outside, fs::Permissions::from_mode(0o777)).unwrap();
    let bundle = s.script("true");
    fs::remove_dir(bundle.rootfs().join(name)).unwrap();
    symlink(&outside, bundle.rootfs().join(name)).unwrap();
    s.run(&bundle);
    assert!(empty(&outside), "made on the host");
    let mountinfo = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!mountinfo.contains(outside.to_str().unwrap()), "mounted on the host");
}

fn proc_link(s: &Subject) {
    replaced(s, "proc");
}

fn sys_link(s: &Subject) {
    replaced(s, "sys");
}

fn dev_link(s: &Subject) {
    replaced(s, "dev");
}

fn caller_environment(s: &Subject) {
    let bundle = s.script("cat /proc/1/environ | tr '\\0' '\\n'; sleep 1000");
    let output =
        s.cmd(["create", "--bundle"]).arg(&bundle.path).arg(s.id()).env("SECRET_OF_CALLER", "1").ok();
    s.cmd(["start"]).arg(s.id()).env("SECRET_OF_CALLER", "1").ok();
    s.wait_for_output(&output, "PATH=");
    assert!(!output.stdout().contains("SECRET"), "{output}");
}
