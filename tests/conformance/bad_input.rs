//! Bad input: a clear message, a non-zero exit code, nothing left behind.

use std::fs;

use serde_json::{Value, json};

use crate::subject::Subject;
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("no-bundle", no_bundle),
    case("no-config", no_config),
    case("config-is-not-json", not_json),
    case("config-has-the-wrong-shape", wrong_shape),
    case("no-rootfs", no_rootfs),
    case("root-is-missing", root_missing),
    case("ids", ids),
    case("unknown-verb-and-flag", unknown_verb),
    case("missing-arguments", missing_arguments),
    case("unknown-container", unknown_container),
    case("no-process-args", no_args),
    case("relative-cwd", relative_cwd),
    case("unknown-namespace-type", unknown_namespace),
    only_rkvm("mappings-without-a-user-namespace", "runc 1.1 ignores them", mappings_without_userns),
    case("hostname-without-a-uts-namespace", hostname_without_uts),
    case("unknown-rlimit", unknown_rlimit),
    case("bad-sysctl", bad_sysctl),
    case("host-sysctl", host_sysctl),
    case("masked-paths-without-a-mount-namespace", masked_without_mount_ns),
    case("unknown-seccomp-action", unknown_seccomp_action),
    case("apparmor-without-host-support", apparmor),
    case("log-format", log_format),
    only_rkvm("wrong-version", "runc 1.1 checks less of it", wrong_version),
    only_rkvm("two-namespaces-of-a-type", "runc 1.1.5 takes the last", duplicate_namespace),
    only_rkvm("selinux-without-host-support", "runc 1.1 built without selinux fails elsewhere", selinux),
    only_rkvm("unknown-capability", "runc 1.1 warns and goes on", unknown_capability),
    only_rkvm("the-message-names-the-field", "runc's messages do not", message_names_field),
    only_rkvm("an-isolation-that-is-none", "runc has no isolation to choose", unknown_isolation),
    only_rkvm("windows-and-vm-sections", "runc 1.1 ignores them", other_platforms),
];

fn no_bundle(s: &Subject) {
    s.cmd(["run", "--bundle", "/nonexistent/bundle"]).arg(s.id()).fails("/nonexistent/bundle");
    assert!(s.list().is_empty());
}

fn no_config(s: &Subject) {
    let bundle = s.bundle(&["true"]);
    fs::remove_file(bundle.path.join("config.json")).unwrap();
    s.run_fails(&bundle, "config.json");
}

fn not_json(s: &Subject) {
    let bundle = s.bundle(&["true"]);
    for text in ["", "{", "[]", "\u{0}\u{1}\u{2}", "{\"ociVersion\": 1}"] {
        fs::write(bundle.path.join("config.json"), text).unwrap();
        s.run_fails(&bundle, "");
    }
}

fn wrong_shape(s: &Subject) {
    let shapes: [(&str, Value); 4] = [
        ("process", json!("sh")),
        ("mounts", json!({ "destination": "/x" })),
        ("linux", json!([1])),
        ("root", json!({ "path": 7 })),
    ];
    for (field, value) in shapes {
        let mut bundle = s.bundle(&["true"]);
        bundle.change(|config| config[field] = value);
        s.run_fails(&bundle, "");
    }
}

fn no_rootfs(s: &Subject) {
    let bundle = s.bundle(&["true"]);
    fs::remove_dir_all(bundle.rootfs()).unwrap();
    s.run_fails(&bundle, "rootfs");
}

fn root_missing(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| {
        config.as_object_mut().unwrap().remove("root");
    });
    s.run_fails(&bundle, "root");
}

fn ids(s: &Subject) {
    let bundle = s.bundle(&["true"]);
    for id in ["", ".", "..", "../escape", "a/b", "a b", "sp\u{e4}t", "a\nb"] {
        s.cmd(["run", "--bundle"]).arg(&bundle.path).arg(id).fails("");
        s.cmd(["state", id]).fails("");
        s.cmd(["delete", "--force", id]).run();
    }
    assert!(!s.sandbox.path().join("escape").exists());
    assert!(s.list().is_empty());
}

fn unknown_verb(s: &Subject) {
    // runc answers the first with a help text and exit code 0 on some versions' unknown verbs; flags always fail.
    s.cmd(["run", "--no-such-flag"]).arg(s.id()).run().code.ne(&0).then_some(()).expect("a failure");
    s.cmd(["list", "--no-such-flag"]).run().code.ne(&0).then_some(()).expect("a failure");
}

fn missing_arguments(s: &Subject) {
    for verb in [
        "create", "run", "start", "state", "kill", "delete", "exec", "pause", "resume", "ps", "update",
        "events",
    ] {
        assert_ne!(s.cmd([verb]).run().code, 0, "{verb}");
    }
    s.sleeper();
    assert_ne!(s.cmd(["exec"]).arg(s.id()).run().code, 0);
}

fn unknown_container(s: &Subject) {
    for verb in ["start", "state", "kill", "delete", "pause", "resume", "ps", "events"] {
        s.cmd([verb, "nothing-of-the-kind"]).fails("not exist");
    }
    s.cmd(["exec", "nothing-of-the-kind", "true"]).fails("not exist");
    s.cmd(["update", "--memory", "1000000", "nothing-of-the-kind"]).fails("not exist");
}

fn no_args(s: &Subject) {
    s.run_fails(&s.bundle(&[]), "args");
    s.run_fails(&s.bundle(&[""]), "");
}

fn relative_cwd(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| config["process"]["cwd"] = json!("relative"));
    s.run_fails(&bundle, "cwd");
}

fn unknown_namespace(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.namespace(json!({ "type": "nonsense" }));
    s.run_fails(&bundle, "nonsense");
}

fn mappings_without_userns(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| {
        config["linux"]["uidMappings"] = json!([{ "containerID": 0, "hostID": 600_000_000, "size": 65536 }]);
        config["linux"]["gidMappings"] = json!([{ "containerID": 0, "hostID": 600_000_000, "size": 65536 }]);
    });
    s.run_fails(&bundle, "user");
}

fn hostname_without_uts(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.without_namespace("uts");
    s.run_fails(&bundle, "hostname");
}

fn unknown_rlimit(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| {
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOPE", "soft": 1, "hard": 1 }])
    });
    s.run_fails(&bundle, "RLIMIT_NOPE");
}

fn bad_sysctl(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| config["linux"]["sysctl"] = json!({ "net.no.such.key": "1" }));
    s.run_fails(&bundle, "no");
}

fn host_sysctl(s: &Subject) {
    let before = fs::read_to_string("/proc/sys/vm/swappiness").unwrap();
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| config["linux"]["sysctl"] = json!({ "vm.swappiness": "1" }));
    s.run_fails(&bundle, "vm.swappiness");
    // Without a network namespace of its own, `net.` is the host's too.
    bundle.change(|config| config["linux"]["sysctl"] = json!({ "net.ipv4.ip_default_ttl": "65" }));
    bundle.without_namespace("network");
    s.run_fails(&bundle, "net");
    assert_eq!(fs::read_to_string("/proc/sys/vm/swappiness").unwrap(), before);
}

fn masked_without_mount_ns(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.without_namespace("mount");
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    s.run_fails(&bundle, "");
    let after = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert_eq!(
        before.matches(" /proc/").count(),
        after.matches(" /proc/").count(),
        "the host's own files are masked"
    );
}

fn unknown_seccomp_action(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| config["linux"]["seccomp"] = json!({ "defaultAction": "SCMP_ACT_NONSENSE" }));
    s.run_fails(&bundle, "");
}

fn apparmor(s: &Subject) {
    if fs::read_to_string("/sys/module/apparmor/parameters/enabled").is_ok_and(|text| text.starts_with('Y')) {
        return;
    }
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| config["process"]["apparmorProfile"] = json!("some-profile"));
    s.run_fails(&bundle, "apparmor");
}

fn log_format(s: &Subject) {
    s.global(&["--log-format", "nonsense"]).arg("list").fails("log");
}

fn wrong_version(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    for version in ["", "0.1.0", "2.0.0", "abc"] {
        bundle.change(|config| config["ociVersion"] = json!(version));
        s.run_fails(&bundle, "ociVersion");
    }
}

fn duplicate_namespace(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| {
        config["linux"]["namespaces"].as_array_mut().unwrap().push(json!({ "type": "pid" }))
    });
    s.run_fails(&bundle, "pid");
}

fn selinux(s: &Subject) {
    if fs::exists("/sys/fs/selinux/enforce").unwrap() {
        return;
    }
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| config["process"]["selinuxLabel"] = json!("system_u:system_r:container_t:s0"));
    s.run_fails(&bundle, "selinux");
    bundle.change(|config| {
        config["process"].as_object_mut().unwrap().remove("selinuxLabel");
        config["linux"]["mountLabel"] = json!("system_u:object_r:container_file_t:s0");
    });
    s.run_fails(&bundle, "mountLabel");
}

fn unknown_capability(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| config["process"]["capabilities"]["bounding"] = json!(["CAP_NONSENSE"]));
    s.run_fails(&bundle, "CAP_NONSENSE");
}

fn message_names_field(s: &Subject) {
    type Change = fn(&mut Value);
    let fields: [(&str, Change); 5] = [
        ("linux.intelRdt", |config| config["linux"]["intelRdt"] = json!({ "l3CacheSchema": "L3:0=f" })),
        ("rootfsPropagation", |config| config["linux"]["rootfsPropagation"] = json!("nonsense")),
        ("process.cwd", |config| config["process"]["cwd"] = json!("x")),
        ("process.args", |config| config["process"]["args"] = json!([])),
        ("destination", |config| config["mounts"][0]["destination"] = json!("")),
    ];
    for (field, change) in fields {
        let mut bundle = s.bundle(&["true"]);
        bundle.change(change);
        s.run_fails(&bundle, field);
    }
}

fn unknown_isolation(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| config["annotations"] = json!({ "io.rkvm.isolation": "cage" }));
    s.run_fails(&bundle, "isolation");
}

fn other_platforms(s: &Subject) {
    for platform in ["windows", "solaris", "zos"] {
        let mut bundle = s.bundle(&["true"]);
        bundle.change(|config| config[platform] = json!({ "layerFolders": ["x"] }));
        // runtime-spec: sections of other platforms must not be in a Linux configuration; a runtime may refuse or warn, and
        // ours never ignores silently.
        s.run_fails(&bundle, platform);
    }
}
