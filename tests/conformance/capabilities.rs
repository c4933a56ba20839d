//! Capability sets (runtime-spec, "process.capabilities"; capabilities(7)).

use serde_json::{Value, json};

use crate::subject::Subject;
use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("sets-as-given", sets),
    case("none", none),
    case("section-left-out", left_out),
    case("ambient", ambient),
    case("bounding-holds-back-set-uid-programs", bounding),
    case("a-user-without-ambient-has-none-effective", user_without_ambient),
    case("enforced", enforced),
    case("all-in-a-user-namespace", all_in_userns),
];

const SETS: &str = "grep -E '^Cap' /proc/self/status | awk '{ print $2 }'";

/// Inheritable, permitted, effective, bounding, ambient as numbers.
fn seen(s: &Subject, capabilities: Value, uid: u32) -> Vec<u64> {
    let mut bundle = s.script(SETS);
    bundle.change(|config| {
        config["process"]["capabilities"] = capabilities;
        config["process"]["user"]["uid"] = json!(uid);
        config["process"]["noNewPrivileges"] = json!(false);
    });
    s.says(&bundle).lines().map(|line| u64::from_str_radix(line, 16).unwrap()).collect()
}

// Bits, from linux/capability.h.
const CHOWN: u64 = 1 << 0;
const KILL: u64 = 1 << 5;
const NET_ADMIN: u64 = 1 << 12;

fn sets(s: &Subject) {
    let capabilities = json!({
        "bounding": ["CAP_CHOWN", "CAP_KILL", "CAP_NET_ADMIN"],
        "permitted": ["CAP_CHOWN", "CAP_KILL"],
        "effective": ["CAP_CHOWN", "CAP_KILL"],
        "inheritable": ["CAP_KILL"],
    });
    // Root's exec raises permitted to inheritable or bounding (capabilities(7)): what a program of root sees.
    let all = CHOWN | KILL | NET_ADMIN;
    assert_eq!(seen(s, capabilities, 0), [KILL, all, all, all, 0]);
}

fn none(s: &Subject) {
    let empty: [&str; 0] = [];
    let capabilities =
        json!({ "bounding": empty, "permitted": empty, "effective": empty, "inheritable": empty });
    assert_eq!(seen(s, capabilities, 0), [0; 5]);
}

fn left_out(s: &Subject) {
    let mut bundle = s.script(SETS);
    bundle.change(|config| {
        config["process"].as_object_mut().unwrap().remove("capabilities");
    });
    let said = s.says(&bundle);
    // Nothing given is none held, not all of the caller's (runc keeps what its own process has only in a set left out as a
    // whole, which Docker never does; the inheritable and ambient sets are empty either way).
    let values: Vec<_> = said.lines().map(|line| u64::from_str_radix(line, 16).unwrap()).collect();
    assert_eq!((values[0], values[4]), (0, 0), "{said}");
}

fn ambient(s: &Subject) {
    let set = json!(["CAP_CHOWN"]);
    let capabilities =
        json!({ "bounding": set, "permitted": set, "effective": set, "inheritable": set, "ambient": set });
    assert_eq!(seen(s, capabilities, 1000), [CHOWN; 5]);
}

fn bounding(s: &Subject) {
    let capabilities = json!({ "bounding": ["CAP_KILL"], "permitted": [], "effective": [] });
    let sets = seen(s, capabilities, 1000);
    assert_eq!(sets, [0, 0, 0, KILL, 0]);
}

fn user_without_ambient(s: &Subject) {
    let set = json!(["CAP_CHOWN"]);
    let capabilities = json!({ "bounding": set, "permitted": set, "effective": set });
    assert_eq!(seen(s, capabilities, 1000), [0, 0, 0, CHOWN, 0]);
}

fn enforced(s: &Subject) {
    let mut bundle = s.script("touch /tmp/f; chown 5 /tmp/f; echo $?; ip link set lo down; echo $?");
    bundle.change(|config| {
        let set = json!(["CAP_CHOWN"]);
        config["process"]["capabilities"] = json!({ "bounding": set, "permitted": set, "effective": set });
    });
    let said = s.says(&bundle);
    assert!(said.starts_with("0\n") && !said.ends_with("\n0"), "{said}");
}

fn all_in_userns(s: &Subject) {
    let mut bundle = s.script(SETS);
    let set = json!(["CAP_CHOWN", "CAP_KILL"]);
    bundle.map_users(600_000_000).change(|config| {
        config["process"]["capabilities"] = json!({ "bounding": set, "permitted": set, "effective": set });
    });
    let values: Vec<_> = s.says(&bundle).lines().map(|line| u64::from_str_radix(line, 16).unwrap()).collect();
    assert_eq!(values, [0, CHOWN | KILL, CHOWN | KILL, CHOWN | KILL, 0]);
}
