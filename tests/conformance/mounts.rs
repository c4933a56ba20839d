//! Mounts and their options (runtime-spec, "Mounts").

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::process::Command;

use serde_json::{Value, json};

use crate::subject::Subject;
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("bind-folder", bind_folder),
    case("bind-file", bind_file),
    case("bind-read-only", bind_ro),
    case("bind-options", bind_options),
    case("bind-without-type", bind_without_type),
    case("bind-is-not-recursive-and-rbind-is", recursive),
    case("rbind-read-only-leaves-submounts-writable", rbind_ro),
    case("bind-source-is-missing", source_missing),
    case("bind-source-is-relative-to-the-bundle", source_relative),
    case("tmpfs", tmpfs),
    case("tmpfs-copy-up", tmpcopyup),
    case("tmpfs-too-small", tmpfs_full),
    case("destination-is-made", destination_made),
    case("destination-is-a-link-inside", destination_link),
    case("destination-is-an-absolute-link", destination_absolute_link),
    case("destination-with-dots", destination_dots),
    case("order-is-kept", order),
    case("one-over-the-other", over),
    case("proc-and-sys-as-given", proc_sys),
    case("mqueue", mqueue),
    case("cgroup-mount-read-only", cgroup_mount),
    case("devpts", devpts),
    case("unknown-type", unknown_type),
    case("overlay", overlay),
    case("options-atime", atime),
    case("propagation-of-a-bind", propagation),
    case("propagation-reaches-the-container", propagation_slave),
    case("a-bind-over-proc-is-refused", over_proc),
    only_rkvm(
        "recursive-read-only",
        "runc 1.1.5 has rro but this case asks for nested mounts' flags too",
        rro,
    ),
    only_rkvm("recursive-attributes", "as above", recursive_attributes),
    only_rkvm("idmapped-bind", "runc 1.1 has no idmapped mounts", idmap),
    only_rkvm("idmapped-bind-recursive", "runc 1.1 has no idmapped mounts", ridmap),
    only_rkvm("unknown-option-is-named", "runc hands unknown options to the file system", unknown_option),
];

fn source(s: &Subject, name: &str) -> PathBuf {
    let folder = s.sandbox.path().join(name);
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("file"), "from the host\n").unwrap();
    folder
}

fn bind(source: &std::path::Path, options: &[&str]) -> Value {
    json!({ "destination": "/mnt", "type": "bind", "source": source, "options": options })
}

/// The options of the last mount at /mnt, as the container sees them.
const OPTIONS: &str = "awk '$5 == \"/mnt\" { o = $6 } END { print o }' /proc/self/mountinfo";

fn bind_folder(s: &Subject) {
    let folder = source(s, "shared");
    let mut bundle = s.script("cat /mnt/file; echo from the container > /mnt/new");
    bundle.mount(bind(&folder, &["bind"]));
    assert_eq!(s.says(&bundle), "from the host");
    assert_eq!(fs::read_to_string(folder.join("new")).unwrap(), "from the container\n");
    assert_eq!(fs::read_dir(bundle.rootfs().join("mnt")).unwrap().count(), 0, "mounted on the host");
}

fn bind_file(s: &Subject) {
    let file = source(s, "shared").join("file");
    let mut bundle = s.script("cat /etc/deep/er/config; stat -c %F /etc/deep/er/config");
    bundle.mount(
        json!({ "destination": "/etc/deep/er/config", "type": "bind", "source": file, "options": ["bind"] }),
    );
    assert_eq!(s.says(&bundle), "from the host\nregular file");
}

fn bind_ro(s: &Subject) {
    let folder = source(s, "shared");
    let mut bundle = s.script("cat /mnt/file; echo x > /mnt/file; echo $?");
    bundle.mount(bind(&folder, &["bind", "ro"]));
    assert_eq!(s.says(&bundle), "from the host\n1");
}

fn bind_options(s: &Subject) {
    let folder = source(s, "shared");
    fs::copy("/bin/busybox", folder.join("busybox")).unwrap();
    let mut bundle = s.script(&format!("{OPTIONS}; /mnt/busybox true; echo $?"));
    bundle.mount(bind(&folder, &["bind", "noexec", "nosuid", "nodev"]));
    let said = s.says(&bundle);
    for option in ["noexec", "nosuid", "nodev"] {
        assert!(said.contains(option), "{said}");
    }
    assert!(said.ends_with("126"), "{said}");
}

fn bind_without_type(s: &Subject) {
    let folder = source(s, "shared");
    let mut bundle = s.script("cat /mnt/file");
    bundle.mount(json!({ "destination": "/mnt", "source": folder, "options": ["rbind", "ro"] }));
    assert_eq!(s.says(&bundle), "from the host");
}

/// A folder with a tmpfs mounted at `sub`, which has `inner` in it.
fn with_submount(s: &Subject) -> PathBuf {
    let folder = source(s, "outer");
    fs::create_dir(folder.join("sub")).unwrap();
    let status =
        Command::new("mount").args(["-t", "tmpfs", "none"]).arg(folder.join("sub")).status().unwrap();
    assert!(status.success());
    fs::write(folder.join("sub/inner"), "inner\n").unwrap();
    folder
}

fn without_submount(folder: PathBuf, test: impl FnOnce()) {
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(test));
    assert!(Command::new("umount").arg("-l").arg(folder.join("sub")).status().unwrap().success());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn recursive(s: &Subject) {
    let folder = with_submount(s);
    without_submount(folder.clone(), || {
        for (option, inner) in [("bind", "0"), ("rbind", "1")] {
            let mut bundle = s.script("ls /mnt/sub | wc -l");
            bundle.mount(bind(&folder, &[option]));
            assert_eq!(s.says(&bundle), inner, "{option}");
        }
    });
}

fn rbind_ro(s: &Subject) {
    let folder = with_submount(s);
    without_submount(folder.clone(), || {
        let mut bundle = s.script("touch /mnt/new; echo $?; touch /mnt/sub/new; echo $?");
        bundle.mount(bind(&folder, &["rbind", "ro"]));
        assert_eq!(s.says(&bundle), "1\n0");
    });
}

fn source_missing(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.mount(bind("/nonexistent/source".as_ref(), &["bind"]));
    s.run_fails(&bundle, "/nonexistent/source");
}

fn source_relative(s: &Subject) {
    let mut bundle = s.script("cat /mnt/file");
    fs::create_dir(bundle.path.join("beside")).unwrap();
    fs::write(bundle.path.join("beside/file"), "relative\n").unwrap();
    bundle.mount(bind("beside".as_ref(), &["bind"]));
    assert_eq!(s.says(&bundle), "relative");
}

fn tmpfs(s: &Subject) {
    let mut bundle = s.script(
        "stat -c '%a %u %g' /new; df -k /new | tail -1 | awk '{ print $2 }'; grep ' /new ' /proc/mounts",
    );
    // A new folder: over an existing one, runc gives the mount that one's mode.
    bundle.mount(json!({
        "destination": "/new", "type": "tmpfs", "source": "tmpfs",
        "options": ["nosuid", "noexec", "size=1024k", "mode=1750", "uid=7", "gid=8"]
    }));
    let said = s.says(&bundle);
    assert!(said.starts_with("1750 7 8\n1024\n"), "{said}");
    assert!(said.contains("noexec"), "{said}");
}

fn tmpcopyup(s: &Subject) {
    let mut bundle = s.script("cat /data/file; stat -c %a /data/file; echo x > /data/file; cat /data/file");
    fs::create_dir(bundle.rootfs().join("data")).unwrap();
    fs::write(bundle.rootfs().join("data/file"), "original\n").unwrap();
    fs::set_permissions(bundle.rootfs().join("data/file"), fs::Permissions::from_mode(0o640)).unwrap();
    bundle.mount(
        json!({ "destination": "/data", "type": "tmpfs", "source": "tmpfs", "options": ["tmpcopyup"] }),
    );
    assert_eq!(s.says(&bundle), "original\n640\nx");
    assert_eq!(fs::read_to_string(bundle.rootfs().join("data/file")).unwrap(), "original\n");
}

fn tmpfs_full(s: &Subject) {
    let mut bundle = s.script("dd if=/dev/zero of=/mnt/file bs=1k count=100 2>/dev/null; echo $?");
    bundle
        .mount(json!({ "destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"] }));
    assert_eq!(s.says(&bundle), "1");
}

fn destination_made(s: &Subject) {
    let folder = source(s, "shared");
    let mut bundle = s.script("cat /new/deep/folder/file");
    bundle.mount(
        json!({ "destination": "/new/deep/folder", "type": "bind", "source": folder, "options": ["bind"] }),
    );
    assert_eq!(s.says(&bundle), "from the host");
    assert!(bundle.rootfs().join("new/deep/folder").is_dir());
}

fn destination_link(s: &Subject) {
    let folder = source(s, "shared");
    let mut bundle = s.script("cat /real/file");
    fs::create_dir(bundle.rootfs().join("real")).unwrap();
    symlink("real", bundle.rootfs().join("link")).unwrap();
    bundle.mount(json!({ "destination": "/link", "type": "bind", "source": folder, "options": ["bind"] }));
    assert_eq!(s.says(&bundle), "from the host");
}

fn destination_absolute_link(s: &Subject) {
    // The link's target is the container's, not the host's.
    let folder = source(s, "shared");
    let outside = s.sandbox.path().join("outside");
    let mut bundle = s.script(&format!("cat {}/file", outside.display()));
    symlink(&outside, bundle.rootfs().join("link")).unwrap();
    bundle.mount(json!({ "destination": "/link", "type": "bind", "source": folder, "options": ["bind"] }));
    assert_eq!(s.says(&bundle), "from the host");
    assert!(!outside.exists(), "made on the host");
}

fn destination_dots(s: &Subject) {
    let folder = source(s, "shared");
    let mut bundle = s.script("cat /mnt/file");
    symlink("../../../../../../mnt", bundle.rootfs().join("up")).unwrap();
    bundle
        .mount(json!({ "destination": "/var/../up", "type": "bind", "source": folder, "options": ["bind"] }));
    assert_eq!(s.says(&bundle), "from the host");
    assert!(!std::path::Path::new("/mnt/file").exists());
}

fn order(s: &Subject) {
    let folder = source(s, "shared");
    let mut bundle = s.script("cat /mnt/inside/file; touch /mnt/written; echo $?");
    bundle.mount(json!({ "destination": "/mnt", "type": "tmpfs", "source": "tmpfs" }));
    bundle.mount(
        json!({ "destination": "/mnt/inside", "type": "bind", "source": folder, "options": ["bind"] }),
    );
    assert_eq!(s.says(&bundle), "from the host\n0");
}

fn over(s: &Subject) {
    let folder = source(s, "shared");
    let mut bundle = s.script("ls /mnt | wc -l");
    bundle.mount(bind(&folder, &["bind"]));
    bundle.mount(json!({ "destination": "/mnt", "type": "tmpfs", "source": "tmpfs" }));
    assert_eq!(s.says(&bundle), "0");
}

fn proc_sys(s: &Subject) {
    let said = s.says_script("grep -E ' /(proc|sys) ' /proc/mounts");
    assert!(said.contains("proc /proc proc") && said.contains("sysfs /sys sysfs ro"), "{said}");
}

fn mqueue(s: &Subject) {
    let mut bundle = s.script("grep ' /dev/mqueue ' /proc/mounts");
    bundle.mount(json!({
        "destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue", "options": ["nosuid", "noexec", "nodev"]
    }));
    assert!(s.says(&bundle).contains("mqueue"));
}

fn cgroup_mount(s: &Subject) {
    let mut bundle =
        s.script("cat /sys/fs/cgroup/pids/pids.max; echo 5 > /sys/fs/cgroup/pids/pids.max; echo $?");
    bundle.namespace(json!({ "type": "cgroup" })).mount(json!({
        "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup",
        "options": ["nosuid", "noexec", "nodev", "relatime", "ro"]
    }));
    bundle.change(|config| config["linux"]["resources"]["pids"] = json!({ "limit": 37 }));
    assert_eq!(s.says(&bundle), "37\n1");
}

fn devpts(s: &Subject) {
    let said = s.says_script("ls /dev/pts; readlink /dev/ptmx; stat -c %a /dev/pts/ptmx");
    assert_eq!(said, "ptmx\npts/ptmx\n666");
}

fn unknown_type(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.mount(json!({ "destination": "/mnt", "type": "nosuchfs", "source": "none" }));
    s.run_fails(&bundle, "/mnt");
}

fn overlay(s: &Subject) {
    let folder = |name: &str| {
        let path = s.sandbox.path().join(name);
        fs::create_dir(&path).unwrap();
        path
    };
    let (lower, upper, work) = (folder("lower"), folder("upper"), folder("work"));
    fs::write(lower.join("file"), "lower\n").unwrap();
    let mut bundle = s.script("cat /mnt/file; echo upper > /mnt/file");
    let layers = [
        format!("lowerdir={}", lower.display()),
        format!("upperdir={}", upper.display()),
        format!("workdir={}", work.display()),
    ];
    bundle.mount(json!({ "destination": "/mnt", "type": "overlay", "source": "overlay", "options": layers }));
    assert_eq!(s.says(&bundle), "lower");
    assert_eq!(fs::read_to_string(upper.join("file")).unwrap(), "upper\n");
}

fn atime(s: &Subject) {
    for (option, seen) in [("noatime", "noatime"), ("nodiratime", "nodiratime"), ("relatime", "relatime")] {
        let mut bundle = s.script(OPTIONS);
        bundle
            .mount(json!({ "destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": [option] }));
        assert!(s.says(&bundle).split(',').any(|one| one == seen), "{option}");
    }
}

/// Optional fields of the last mount at /mnt, as the container sees it.
const OPTIONAL_FIELDS: &str = "awk '$5 == \"/mnt\" { o = \"\"; for (i = 7; $i != \"-\"; i++) { sub(/:.*/, \"\", $i); \
                               o = o $i }; r = o } END { print \"[\" r \"]\" }' /proc/self/mountinfo";

fn propagation(s: &Subject) {
    let folder = source(s, "shared");
    for (option, want) in
        [("rprivate", "[]"), ("private", "[]"), ("rshared", "[shared]"), ("shared", "[shared]")]
    {
        let mut bundle = s.script(OPTIONAL_FIELDS);
        bundle.mount(bind(&folder, &["rbind", option]));
        assert_eq!(s.says(&bundle), want, "{option}");
    }
}

fn propagation_slave(s: &Subject) {
    let folder = s.sandbox.path().join("outer");
    fs::create_dir(&folder).unwrap();
    let mount =
        |args: &[&str]| assert!(Command::new("mount").args(args).status().unwrap().success(), "{args:?}");
    let path = folder.to_str().unwrap();
    mount(&["--bind", path, path]);
    mount(&["--make-shared", path]);
    fs::create_dir(folder.join("sub")).unwrap();
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        let mut bundle =
            s.script("until test -e /mnt/sub/inner; do sleep 0.02; done; cat /mnt/sub/inner; sleep 1000");
        bundle.mount(bind(&folder, &["rbind", "rslave"]));
        bundle.change(|config| config["linux"]["rootfsPropagation"] = json!("rslave"));
        let (_, output) = s.create(&bundle);
        s.start();
        mount(&["-t", "tmpfs", "none", folder.join("sub").to_str().unwrap()]);
        fs::write(folder.join("sub/inner"), "inner\n").unwrap();
        s.wait_for_output(&output, "inner");
    }));
    Command::new("umount").arg("-l").arg(folder.join("sub")).status().unwrap();
    assert!(Command::new("umount").arg("-l").arg(&folder).status().unwrap().success());
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

fn over_proc(s: &Subject) {
    let folder = source(s, "shared");
    for destination in ["/proc", "/proc/self", "/proc/1/attr"] {
        let mut bundle = s.bundle(&["true"]);
        bundle.mount(
            json!({ "destination": destination, "type": "bind", "source": folder, "options": ["bind"] }),
        );
        s.run_fails(&bundle, "proc");
    }
}

fn rro(s: &Subject) {
    let folder = with_submount(s);
    without_submount(folder.clone(), || {
        let mut bundle = s.script("touch /mnt/new; echo $?; touch /mnt/sub/new; echo $?");
        bundle.mount(bind(&folder, &["rbind", "rro"]));
        assert_eq!(s.says(&bundle), "1\n1");
    });
}

fn recursive_attributes(s: &Subject) {
    let folder = with_submount(s);
    without_submount(folder.clone(), || {
        let mut bundle = s.script("awk '$5 == \"/mnt/sub\" { print $6 }' /proc/self/mountinfo");
        bundle.mount(bind(&folder, &["rbind", "rnoexec", "rnosuid", "rnodev", "rnoatime"]));
        let said = s.says(&bundle);
        for option in ["noexec", "nosuid", "nodev", "noatime"] {
            assert!(said.contains(option), "{option}: {said}");
        }
    });
}

fn idmap(s: &Subject) {
    let folder = source(s, "shared");
    std::os::unix::fs::chown(folder.join("file"), Some(1000), Some(1000)).unwrap();
    let mut bundle = s.script("stat -c '%u %g' /mnt/file; touch /mnt/made");
    // On disk 0..65536 is 5000..70536 in the mount.
    let mapping = json!([{ "containerID": 0, "hostID": 5000, "size": 65536 }]);
    bundle.mount(json!({
        "destination": "/mnt", "type": "bind", "source": folder, "options": ["bind", "idmap"],
        "uidMappings": mapping, "gidMappings": mapping
    }));
    // uid 0 of the container has no id on disk here, so `touch` fails, which is right.
    assert_eq!(s.run(&bundle).text(), "6000 6000");
    assert!(!folder.join("made").exists());
}

fn ridmap(s: &Subject) {
    let folder = with_submount(s);
    without_submount(folder.clone(), || {
        let mut bundle = s.script("stat -c %u /mnt/file; stat -c %u /mnt/sub/inner");
        let mapping = json!([{ "containerID": 0, "hostID": 5000, "size": 65536 }]);
        bundle.mount(json!({
            "destination": "/mnt", "type": "bind", "source": folder, "options": ["rbind", "ridmap"],
            "uidMappings": mapping, "gidMappings": mapping
        }));
        assert_eq!(s.says(&bundle), "5000\n5000");
    });
}

fn unknown_option(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.mount(
        json!({ "destination": "/mnt", "type": "tmpfs", "source": "tmpfs", "options": ["nosuchoption"] }),
    );
    s.run_fails(&bundle, "nosuchoption");
}
