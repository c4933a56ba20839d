//! What the microVM backend understands (runtime-spec, "Features Structure").

use oci_spec::runtime::Features;
use rkvm_linux::{mounts, seccomp};
use serde_json::json;

/// The features of this build; not what the present host can do.
pub fn features() -> Features {
    let value = json!({
        "ociVersionMin": "1.0.0",
        "ociVersionMax": "1.2.1",
        "hooks": ["prestart", "createRuntime", "createContainer", "startContainer", "poststart", "poststop"],
        "mountOptions": mounts::options::known(),
        "linux": {
            "namespaces": ["cgroup", "ipc", "mount", "network", "pid", "time", "user", "uts"],
            "capabilities": rkvm_oci::capability::NAMES.as_slice(),
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": false},
            "seccomp": {
                "enabled": true,
                "actions": seccomp::actions(),
                "operators": seccomp::operators(),
                "archs": seccomp::architectures(),
            },
            "apparmor": {"enabled": false},
            "selinux": {"enabled": false},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": false},
        },
        "annotations": {"io.rkvm.isolation": "vm"},
    });
    // The keys above are fields of the type.
    serde_json::from_value(value).unwrap_or_default()
}
