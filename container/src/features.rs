//! What the container backend understands (runtime-spec, "Features Structure").

use std::collections::HashMap;

use oci_spec::runtime::Features;
use serde_json::json;

use rkvm_linux::{mounts, seccomp};

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
            "cgroup": {"v1": true, "v2": true, "systemd": false, "systemdUser": false, "rdma": true},
            "seccomp": {
                "enabled": true,
                "actions": seccomp::actions(),
                "operators": seccomp::operators(),
                "archs": seccomp::architectures(),
            },
            "apparmor": {"enabled": true},
            "selinux": {"enabled": true},
            "intelRdt": {"enabled": false},
            "mountExtensions": {"idmap": {"enabled": true}},
            "netDevices": {"enabled": false},
        },
        "annotations": annotations(),
        "potentiallyUnsafeConfigAnnotations": [rkvm_oci::Isolation::ANNOTATION],
    });
    serde_json::from_value(value).unwrap_or_default()
}

fn annotations() -> HashMap<&'static str, String> {
    HashMap::from([
        ("io.rkvm.version", env!("CARGO_PKG_VERSION").to_owned()),
        ("io.github.seccomp.libseccomp.version", seccomp::library_version()),
    ])
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_structure_is_what_the_specification_names() {
        let features = super::features();
        assert_eq!(features.oci_version_min(), "1.0.0");
        let linux = features.linux().as_ref().unwrap();
        assert!(linux.capabilities().as_ref().unwrap().contains(&"CAP_SYS_ADMIN".to_owned()));
        assert!(!linux.seccomp().as_ref().unwrap().actions().as_ref().unwrap().is_empty());
        assert!(features.mount_options().as_ref().unwrap().contains(&"ridmap".to_owned()));
    }
}
