//! Each namespace, seen from inside and outside, new and joined by path.

use std::fs;
use std::process::Command;

use serde_json::json;

use crate::subject::{Subject, namespace, proc_status};
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("new-ones-differ-from-the-hosts", new_ones),
    case("left-out-ones-are-the-hosts", left_out),
    case("pid-inside-and-outside", pid),
    case("pid-namespace-hides-the-host", pid_hides),
    case("uts-hostname", uts),
    case("network-has-only-loopback", network),
    case("network-loopback-is-up", loopback_up),
    case("ipc-objects-are-its-own", ipc),
    case("mounts-are-its-own", mounts),
    case("cgroup-namespace", cgroup),
    case("user-mapping", user),
    case("user-mapping-of-a-single-id", user_single),
    case("user-mapping-in-parts", user_parts),
    case("root-in-a-user-namespace-is-nobody-outside", user_powerless),
    case("user-namespace-owns-the-others", user_owns),
    case("join-each-by-path", join),
    case("join-pid-by-path", join_pid),
    case("join-user-by-path", join_user_with_mappings),
    only_rkvm(
        "join-user-by-path-without-mappings",
        "runc 1.1 asks for mappings that it does not use",
        join_user,
    ),
    case("a-path-that-is-missing", path_missing),
    case("a-path-of-another-type", path_of_wrong_type),
    only_rkvm("time-offsets", "runc 1.1 has no time namespace", time),
    only_rkvm("uts-domainname", "runc 1.1 has no domainname", domainname),
];

const HOST_BASE: u32 = 600_000_000;

fn inside(s: &Subject, kinds: &[&str], bundle: &mut rkvm_testing::Bundle) -> Vec<String> {
    let script =
        kinds.iter().map(|kind| format!("readlink /proc/self/ns/{kind}")).collect::<Vec<_>>().join("; ");
    s.says(bundle.script(&script)).lines().map(str::to_owned).collect()
}

fn new_ones(s: &Subject) {
    let kinds = ["pid", "net", "ipc", "uts", "mnt", "user", "cgroup"];
    let mut bundle = s.bundle(&["true"]);
    bundle.map_users(HOST_BASE).namespace(json!({ "type": "cgroup" }));
    let seen = inside(s, &kinds, &mut bundle);
    for (kind, seen) in kinds.iter().zip(seen) {
        assert_ne!(seen, namespace("self", kind), "{kind}");
    }
}

fn left_out(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    for kind in ["pid", "network", "ipc", "uts"] {
        bundle.without_namespace(kind);
    }
    bundle.change(|config| {
        config.as_object_mut().unwrap().remove("hostname");
    });
    let kinds = ["pid", "net", "ipc", "uts", "user", "cgroup"];
    for (kind, seen) in kinds.iter().zip(inside(s, &kinds, &mut bundle)) {
        assert_eq!(seen, namespace("self", kind), "{kind}");
    }
}

fn pid(s: &Subject) {
    let bundle = s.script("echo $$; readlink /proc/self; sleep 1000");
    let (pid, output) = s.create(&bundle);
    s.start();
    s.wait_for_output(&output, "\n");
    assert!(output.stdout().starts_with("1\n"), "{output}");
    assert_eq!(proc_status(pid, "NSpid"), format!("{pid}\t1"));
    assert_ne!(namespace(&pid.to_string(), "pid"), namespace("self", "pid"));
}

fn pid_hides(s: &Subject) {
    let seen = s.says_script("ls /proc | grep -E '^[0-9]+$' | wc -l; kill -0 2 2>&1; true");
    // sh, ls, grep and wc at most.
    assert!(seen.lines().next().unwrap().parse::<u32>().unwrap() <= 4, "{seen}");
}

fn uts(s: &Subject) {
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(s.says_script("hostname; cat /proc/sys/kernel/hostname"), "conformance\nconformance");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), host);
}

fn network(s: &Subject) {
    let links = s.says_script("ls /sys/class/net");
    assert_eq!(links, "lo");
    let routes = s.says_script("cat /proc/net/route | wc -l");
    assert_eq!(routes, "1", "a route beside the header");
}

fn loopback_up(s: &Subject) {
    let said = s.says_script("ip addr show lo");
    assert!(said.contains("127.0.0.1/8") && said.contains("UP"), "{said}");
}

fn ipc(s: &Subject) {
    // A shared memory segment of the host is not seen inside.
    let output = Command::new("ipcmk").args(["-M", "4096"]).output().expect("ipcmk (util-linux)");
    let text = String::from_utf8(output.stdout).unwrap();
    let id = text.trim().rsplit(' ').next().unwrap().to_owned();
    let seen = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        s.says_script("cat /proc/sysvipc/shm | wc -l")
    }));
    assert!(Command::new("ipcrm").args(["-m", &id]).status().unwrap().success());
    assert_eq!(seen.unwrap(), "1", "a segment beside the header");
}

fn mounts(s: &Subject) {
    let before = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let bundle = s.script("sleep 1000");
    let pid = s.up(&bundle);
    let outside = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!outside.contains(s.sandbox.tag()), "a mount of the container is on the host");
    let inside = fs::read_to_string(format!("/proc/{pid}/mountinfo")).unwrap();
    let points: Vec<_> = inside.lines().filter_map(|line| line.split(' ').nth(4)).collect();
    assert!(points.contains(&"/dev/shm"), "{points:?}");
    // Nothing of the host's tree is left in it.
    for line in before.lines() {
        let point = line.split(' ').nth(4).unwrap();
        let kept = ["/", "/proc", "/dev", "/dev/pts", "/dev/shm", "/sys", "/tmp", "/run"];
        assert!(kept.contains(&point) || !points.contains(&point), "{point} of the host is inside");
    }
}

fn cgroup(s: &Subject) {
    let mut bundle = s.script("cat /proc/self/cgroup");
    assert!(s.says(&bundle).contains(&s.sandbox.cgroup("c")));
    bundle.namespace(json!({ "type": "cgroup" }));
    let said = s.says(&bundle);
    let own = said.lines().filter(|line| line.contains("pids") || line.contains("memory"));
    for line in own {
        assert!(line.ends_with(":/"), "{said}");
    }
}

fn user(s: &Subject) {
    let mut bundle =
        s.script("id -u; cat /proc/self/uid_map /proc/self/gid_map; touch /tmp/made; sleep 1000");
    bundle.map_users(HOST_BASE);
    let (pid, output) = s.create(&bundle);
    s.start();
    let made = bundle.rootfs().join("tmp/made");
    rkvm_testing::wait::until("a file from the container", || made.exists().then_some(()));
    let words: Vec<_> = output.stdout().split_whitespace().map(str::to_owned).collect();
    assert_eq!(words, ["0", "0", "600000000", "65536", "0", "600000000", "65536"]);
    assert_eq!(proc_status(pid, "Uid"), ["600000000"; 4].join("\t"));
    assert_eq!(proc_status(pid, "Gid"), ["600000000"; 4].join("\t"));
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(made).unwrap().uid(), HOST_BASE);
}

fn user_single(s: &Subject) {
    let mut bundle = s.script("id -u; cat /proc/self/uid_map");
    bundle.map_users(HOST_BASE).change(|config| {
        let mapping = json!([{ "containerID": 0, "hostID": HOST_BASE, "size": 1 }]);
        config["linux"]["uidMappings"] = mapping.clone();
        config["linux"]["gidMappings"] = mapping;
        // devpts' default gid 5 is not there.
        config["mounts"].as_array_mut().unwrap().retain(|mount| mount["destination"] != "/dev/pts");
    });
    let said = s.says(&bundle);
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "0", "600000000", "1"]);
}

fn user_parts(s: &Subject) {
    let mut bundle = s.script("cat /proc/self/uid_map");
    bundle.map_users(HOST_BASE).change(|config| {
        config["linux"]["uidMappings"] = json!([
            { "containerID": 0, "hostID": HOST_BASE, "size": 1000 },
            { "containerID": 1000, "hostID": HOST_BASE + 500_000, "size": 1 },
        ]);
    });
    let said = s.says(&bundle);
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words, ["0", "600000000", "1000", "1000", "600500000", "1"]);
}

fn user_powerless(s: &Subject) {
    let secret = s.sandbox.path().join("secret");
    fs::create_dir(&secret).unwrap();
    fs::write(secret.join("file"), "secret").unwrap();
    use std::os::unix::fs::PermissionsExt;
    fs::set_permissions(secret.join("file"), fs::Permissions::from_mode(0o600)).unwrap();
    let mut bundle = s.script("cat /mnt/file; echo code $?");
    bundle.map_users(HOST_BASE).mount(json!({
        "destination": "/mnt", "type": "bind", "source": secret, "options": ["bind"]
    }));
    let output = s.run(&bundle).expect_code(0);
    assert!(!output.stdout().contains("secret"), "{output}");
    assert!(output.stderr().contains("denied"), "{output}");
}

fn user_owns(s: &Subject) {
    // Root inside may configure its own network and name: these namespaces belong to its user namespace.
    let mut bundle = s.script("ip link set lo down && ip link set lo up && hostname changed && hostname");
    bundle.map_users(HOST_BASE).change(|config| {
        let caps = json!(["CAP_NET_ADMIN", "CAP_SYS_ADMIN"]);
        config["process"]["capabilities"] = json!({ "bounding": caps, "effective": caps, "permitted": caps });
    });
    assert_eq!(s.says(&bundle), "changed");
}

fn join(s: &Subject) {
    let donor = s.sandbox.bundle("donor", &["sleep", "1000"]);
    let id = s.sandbox.id("donor");
    s.cmd(["run", "-d", "--bundle"]).arg(&donor.path).arg(&id).ok();
    let pid = s.cmd(["state"]).arg(&id).ok().json()["pid"].to_string();
    for (kind, file) in [("network", "net"), ("ipc", "ipc"), ("uts", "uts")] {
        let mut bundle = s.script(&format!("readlink /proc/self/ns/{file}"));
        bundle.namespace(json!({ "type": kind, "path": format!("/proc/{pid}/ns/{file}") }));
        if kind == "uts" {
            bundle.change(|config| {
                config.as_object_mut().unwrap().remove("hostname");
            });
        }
        assert_eq!(s.says(&bundle), namespace(&pid, file), "{kind}");
    }
}

fn join_pid(s: &Subject) {
    let donor = s.sandbox.bundle("donor", &["sleep", "1000"]);
    let id = s.sandbox.id("donor");
    s.cmd(["run", "-d", "--bundle"]).arg(&donor.path).arg(&id).ok();
    let pid = s.cmd(["state"]).arg(&id).ok().json()["pid"].to_string();
    let mut bundle = s.script("readlink /proc/self/ns/pid; cat /proc/1/cmdline | tr '\\0' ' '");
    bundle.namespace(json!({ "type": "pid", "path": format!("/proc/{pid}/ns/pid") }));
    let said = s.says(&bundle);
    assert!(said.starts_with(&namespace(&pid, "pid")), "{said}");
    assert!(said.contains("sleep 1000"), "{said}");
}

fn join_user(s: &Subject) {
    join_user_by_path(s, false);
}

fn join_user_with_mappings(s: &Subject) {
    join_user_by_path(s, true);
}

fn join_user_by_path(s: &Subject, mappings: bool) {
    let mut donor = s.sandbox.bundle("donor", &["sleep", "1000"]);
    donor.map_users(HOST_BASE);
    let id = s.sandbox.id("donor");
    s.cmd(["run", "-d", "--bundle"]).arg(&donor.path).arg(&id).ok();
    let pid = s.cmd(["state"]).arg(&id).ok().json()["pid"].to_string();
    let mut bundle = s.script("readlink /proc/self/ns/user; readlink /proc/self/ns/net; id -u");
    bundle.map_users(HOST_BASE);
    bundle.namespace(json!({ "type": "user", "path": format!("/proc/{pid}/ns/user") }));
    bundle.namespace(json!({ "type": "network", "path": format!("/proc/{pid}/ns/net") }));
    if !mappings {
        bundle.change(|config| {
            config["linux"].as_object_mut().unwrap().remove("uidMappings");
            config["linux"].as_object_mut().unwrap().remove("gidMappings");
        });
    }
    let said = s.says(&bundle);
    assert_eq!(said, format!("{}\n{}\n0", namespace(&pid, "user"), namespace(&pid, "net")));
}

fn path_missing(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.namespace(json!({ "type": "network", "path": "/nonexistent/netns" }));
    s.run_fails(&bundle, "/nonexistent/netns");
}

fn path_of_wrong_type(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.namespace(json!({ "type": "network", "path": "/proc/1/ns/uts" }));
    s.run_fails(&bundle, "");
    bundle.namespace(json!({ "type": "network", "path": "/etc/passwd" }));
    s.run_fails(&bundle, "");
}

fn time(s: &Subject) {
    let mut bundle = s.script("cat /proc/uptime");
    bundle.namespace(json!({ "type": "time" })).change(|config| {
        config["linux"]["timeOffsets"] =
            json!({ "boottime": { "secs": 1_000_000, "nanosecs": 0 }, "monotonic": { "secs": 500, "nanosecs": 7 } });
    });
    let seconds = |text: &str| text.split('.').next().unwrap().parse::<u64>().unwrap();
    let host = seconds(&fs::read_to_string("/proc/uptime").unwrap());
    let inside = seconds(&s.says(&bundle));
    assert!((host + 1_000_000..host + 1_000_600).contains(&inside), "{inside}");
    // Offsets without a namespace of one's own cannot be.
    let mut bundle = s.sandbox.bundle("without", &["true"]);
    bundle.change(|config| {
        config["linux"]["timeOffsets"] = json!({ "boottime": { "secs": 1, "nanosecs": 0 } })
    });
    s.run_fails(&bundle, "time");
}

fn domainname(s: &Subject) {
    let mut bundle = s.script("cat /proc/sys/kernel/domainname");
    bundle.change(|config| config["domainname"] = json!("example.org"));
    assert_eq!(s.says(&bundle), "example.org");
}
