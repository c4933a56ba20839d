//! Device nodes and device rules (runtime-spec, "Devices", "Default Devices", "Allowed Device list").

use serde_json::{Value, json};

use crate::subject::Subject;
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("default-devices", defaults),
    case("default-links", links),
    case("default-devices-work", defaults_work),
    case("default-devices-in-a-user-namespace", defaults_userns),
    case("given-devices", given),
    case("given-fifo", fifo),
    case("opening-a-forbidden-device", open_forbidden),
    case("rules-allow-and-deny", rules),
    case("rule-for-all-of-a-major", rule_major),
    case("a-later-rule-wins", rule_order),
    case("bad-device-type", bad_type),
    only_rkvm("a-device-given-twice", "runc 1.1 fails in mknod without naming it", twice),
];

fn with_mknod(config: &mut Value) {
    for set in ["bounding", "effective", "permitted"] {
        config["process"]["capabilities"][set].as_array_mut().unwrap().push(json!("CAP_MKNOD"));
    }
}

fn defaults(s: &Subject) {
    let said = s.says_script(
        "cd /dev; for d in null zero full random urandom tty; do stat -c '%n %F %t:%T %a' $d; done",
    );
    let want = ["null 1:3", "zero 1:5", "full 1:7", "random 1:8", "urandom 1:9", "tty 5:0"].map(|line| {
        let (name, number) = line.split_once(' ').unwrap();
        format!("{name} character special file {number} 666")
    });
    assert_eq!(said.lines().collect::<Vec<_>>(), want);
}

fn links(s: &Subject) {
    let said = s.says_script("cd /dev; for d in fd stdin stdout stderr ptmx; do readlink $d; done");
    assert_eq!(
        said.lines().collect::<Vec<_>>(),
        ["/proc/self/fd", "/proc/self/fd/0", "/proc/self/fd/1", "/proc/self/fd/2", "pts/ptmx"]
    );
}

fn defaults_work(s: &Subject) {
    let said = s.says_script(
        "echo x > /dev/null && head -c 3 /dev/zero | wc -c; head -c 5 /dev/urandom | wc -c; echo x > /dev/full; echo $?",
    );
    assert_eq!(said, "3\n5\n1");
}

fn defaults_userns(s: &Subject) {
    let mut bundle =
        s.script("echo x > /dev/null && head -c 3 /dev/zero | wc -c; stat -c %t:%T /dev/urandom");
    bundle.map_users(600_000_000);
    assert_eq!(s.says(&bundle), "3\n1:9");
}

fn given(s: &Subject) {
    let mut bundle = s.script("stat -c '%F %t:%T %a %u %g' /dev/mine /dev/deep/er/block");
    bundle.change(|config| {
        config["linux"]["devices"] = json!([
            { "path": "/dev/mine", "type": "c", "major": 10, "minor": 229, "fileMode": 0o640, "uid": 7, "gid": 8 },
            { "path": "/dev/deep/er/block", "type": "b", "major": 7, "minor": 200, "fileMode": 0o600 },
        ]);
    });
    let want = ["character special file a:e5 640 7 8", "block special file 7:c8 600 0 0"];
    assert_eq!(s.says(&bundle).lines().collect::<Vec<_>>(), want);
}

fn fifo(s: &Subject) {
    let mut bundle = s.script("stat -c '%F %a' /dev/pipe");
    bundle.change(|config| {
        config["linux"]["devices"] = json!([{ "path": "/dev/pipe", "type": "p", "fileMode": 0o622 }]);
    });
    assert_eq!(s.says(&bundle), "fifo 622");
}

fn open_forbidden(s: &Subject) {
    let mut bundle = s.script("( : < /tmp/fuse ); echo $?");
    bundle.change(with_mknod).script("mknod /tmp/fuse c 10 229; ( : < /tmp/fuse ); echo $?");
    let output = s.run(&bundle).expect_code(0);
    assert!(output.text() == "1" && output.stderr().contains("not permitted"), "{output}");
}

/// Device numbers 10:229 (fuse) and 10:237 (loop-control), which every user may open: opened for reading, for writing.
const PROBE: &str = "for n in 229 237; do mknod /dev/d$n c 10 $n; ( : < /dev/d$n ) 2>/dev/null; echo r$n $?; \
                     ( : >> /dev/d$n ) 2>/dev/null; echo w$n $?; done";

fn rules(s: &Subject) {
    let mut bundle = s.script(PROBE);
    bundle.change(with_mknod).change(|config| {
        config["linux"]["resources"]["devices"] = json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 229, "access": "rm" },
            { "allow": true, "type": "c", "major": 10, "minor": 237, "access": "m" },
        ]);
    });
    // Making any node is allowed beside the rules: what counts is opening it.
    assert_eq!(s.says(&bundle).lines().collect::<Vec<_>>(), ["r229 0", "w229 1", "r237 1", "w237 1"]);
}

fn rule_major(s: &Subject) {
    let mut bundle = s.script(PROBE);
    bundle.change(with_mknod).change(|config| {
        config["linux"]["resources"]["devices"] =
            json!([{ "allow": false, "access": "rwm" }, { "allow": true, "type": "c", "major": 10, "access": "rm" }]);
    });
    assert_eq!(s.says(&bundle).lines().collect::<Vec<_>>(), ["r229 0", "w229 1", "r237 0", "w237 1"]);
}

fn rule_order(s: &Subject) {
    let mut bundle = s.script(PROBE);
    bundle.change(with_mknod).change(|config| {
        config["linux"]["resources"]["devices"] = json!([
            { "allow": false, "access": "rwm" },
            { "allow": true, "type": "c", "major": 10, "minor": 237, "access": "rwm" },
            { "allow": false, "type": "c", "major": 10, "minor": 237, "access": "w" },
        ]);
    });
    assert_eq!(s.says(&bundle).lines().collect::<Vec<_>>(), ["r229 1", "w229 1", "r237 0", "w237 1"]);
}

fn bad_type(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| {
        config["linux"]["devices"] = json!([{ "path": "/dev/x", "type": "z", "major": 1, "minor": 1 }])
    });
    s.run_fails(&bundle, "");
}

fn twice(s: &Subject) {
    let mut bundle = s.script("stat -c %t:%T /dev/x");
    let device = |minor: u32| json!({ "path": "/dev/x", "type": "c", "major": 1, "minor": minor });
    bundle.change(|config| config["linux"]["devices"] = json!([device(3), device(3)]));
    assert_eq!(s.says(&bundle), "1:3");
    bundle.change(|config| config["linux"]["devices"] = json!([device(3), device(5)]));
    s.run_fails(&bundle, "/dev/x");
}
