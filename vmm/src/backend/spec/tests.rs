use std::path::Path;

use serde_json::{Value, json};

use super::*;

fn config() -> Value {
    json!({
        "ociVersion": "1.0.2",
        "process": { "user": { "uid": 0, "gid": 0 }, "args": ["true"], "cwd": "/" },
        "root": { "path": "rootfs" },
        "hooks": {
            "createRuntime": [{ "path": "/bin/a" }], "startContainer": [{ "path": "/bin/b" }], "poststop": [{ "path": "/bin/c" }]
        },
        "mounts": [
            { "destination": "/proc", "type": "proc", "source": "proc" },
            { "destination": "/data", "type": "bind", "source": "/tmp", "options": ["rbind", "ro", "idmap"] },
        ],
        "linux": {
            "cgroupsPath": "/x",
            "uidMappings": [{ "containerID": 0, "hostID": 1000, "size": 1 }],
            "namespaces": [
                { "type": "pid" }, { "type": "network", "path": "/run/netns/x" }, { "type": "ipc" }, { "type": "uts" },
                { "type": "mount" }, { "type": "user" }
            ],
            "resources": {
                "memory": { "limit": 104_857_601 }, "pids": { "limit": 9 }, "cpu": { "quota": 50_000, "period": 100_000 }
            }
        }
    })
}

fn taken_apart(config: Value) -> Result<Converted> {
    convert(&serde_json::from_value(config).unwrap(), Path::new("/b"), false)
}

#[test]
fn each_side_gets_what_is_its_own() {
    let converted = taken_apart(config()).unwrap();
    let guest = serde_json::to_value(&converted.guest).unwrap();
    assert_eq!(guest["hooks"], json!({ "startContainer": [{ "path": "/bin/b" }] }));
    let kinds: Vec<&str> = guest["linux"]["namespaces"]
        .as_array()
        .unwrap()
        .iter()
        .map(|one| one["type"].as_str().unwrap())
        .collect();
    assert_eq!(kinds, ["pid", "ipc", "uts", "mount"]);
    assert_eq!(guest["linux"].get("cgroupsPath"), None);
    assert_eq!(guest["linux"].get("uidMappings"), None);
    assert_eq!(guest["mounts"][1]["source"], "/run/host/1");
    assert_eq!(guest["mounts"][1]["options"], json!(["rbind", "ro"]));
    let [shared] = &converted.shared[..] else { panic!("{:?}", converted.shared) };
    assert!(shared.name == "1" && shared.mount.wants_container_ids() && shared.mount.is_read_only());
    // What the guest's kernel counts is limited there, what the host pays for here.
    assert_eq!(guest["linux"]["resources"]["pids"]["limit"], 9);
    assert_eq!(guest["linux"]["resources"].get("cpu"), None);
    let host = serde_json::to_value(&converted.host_resources).unwrap();
    assert_eq!((&host["cpu"]["quota"], host.get("pids")), (&Value::Null, None));
    let late = serde_json::to_value(&converted.late_resources).unwrap();
    assert_eq!(late["cpu"]["quota"], 50_000);
    assert!(host["memory"]["limit"].as_i64().unwrap() > 104_857_601);
}

#[test]
fn sizes() {
    let of = |resources: Value| size(&serde_json::from_value(resources).unwrap()).unwrap();
    assert_eq!(of(json!({})), Size { vcpus: 1, memory_mib: DEFAULT_MEMORY_MIB });
    let half =
        of(json!({ "cpu": { "quota": 50_000, "period": 100_000 }, "memory": { "limit": 104_857_601 } }));
    assert_eq!(half, Size { vcpus: 1, memory_mib: 101 + GUEST_OVERHEAD_MIB as u32 });
    assert_eq!(of(json!({ "memory": { "limit": -1 } })).memory_mib, DEFAULT_MEMORY_MIB);
    let host = std::thread::available_parallelism().unwrap().get();
    assert_eq!(usize::from(of(json!({ "cpu": { "quota": i64::MAX, "period": 1 } })).vcpus), host.min(64));
}

#[test]
fn devices_that_every_kernel_has() {
    use LinuxDeviceType::{B, C, P};
    for (kind, major, minor, expected) in [
        (C, 1, 3, true),
        (C, 10, 229, true),
        (P, 0, 0, true),
        (B, 8, 0, false),
        (C, 226, 0, false),
        (C, 10, 232, false),
    ] {
        assert_eq!(is_virtual(kind, major, minor), expected, "{kind:?} {major}:{minor}");
    }
}

#[test]
fn a_machine_that_runs_is_limited_up_to_its_size() {
    let size = Size { vcpus: 2, memory_mib: 148 };
    let update = |resources: Value| split_update(&serde_json::from_value(resources).unwrap(), size);
    for possible in [
        json!({ "cpu": { "quota": 200_000, "period": 100_000 } }),
        json!({ "cpu": { "quota": -1 } }),
        json!({ "memory": { "limit": 100 << 20 } }),
        json!({ "memory": { "limit": -1 } }),
    ] {
        assert!(update(possible.clone()).is_ok(), "{possible}");
    }
    for (impossible, named) in [
        (json!({ "cpu": { "quota": 200_001, "period": 100_000 } }), "2 processors"),
        (json!({ "memory": { "limit": (100 << 20) + 1 } }), "148 MiB"),
    ] {
        let error = update(impossible).unwrap_err().to_string();
        assert!(error.contains(named) && error.contains("--"), "{error}");
    }
}

#[test]
fn what_has_no_limit_inside_is_limited_by_the_machine() {
    let size = Size { vcpus: 1, memory_mib: 256 };
    let of = |memory_limit_bytes| {
        let mut outside = Stats::default();
        join_stats(&mut outside, Stats { memory_limit_bytes, ..Stats::default() }, size);
        outside.memory_limit_bytes
    };
    assert_eq!((of(None), of(Some(7))), (Some(256 << 20), Some(7)));
}
