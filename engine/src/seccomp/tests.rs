use std::collections::BTreeSet;

use super::*;

const NONE: &[String] = &[];

fn target(capabilities: &[String]) -> Target<'_> {
    Target { capabilities, arch: "amd64", kernel: KernelVersion { major: 6, minor: 1 } }
}

/// Names with their action, of rules without conditions on arguments.
fn plain(seccomp: &LinuxSeccomp, action: LinuxSeccompAction) -> BTreeSet<String> {
    let rules = seccomp.syscalls().iter().flatten();
    rules
        .filter(|rule| rule.action() == action && rule.args().is_none())
        .flat_map(|rule| rule.names().clone())
        .collect()
}

#[test]
fn the_default_allows_work_and_refuses_ways_out() {
    let profile = default::profile(&target(NONE));
    let allowed = plain(&profile, LinuxSeccompAction::ScmpActAllow);
    for call in
        ["read", "execve", "openat2", "futex", "sendmsg", "arch_prctl", "ptrace", "fchmodat2", "io_submit"]
    {
        assert!(allowed.contains(call), "{call}");
    }
    for call in [
        "mount",
        "unshare",
        "setns",
        "bpf",
        "clone",
        "clone3",
        "io_uring_setup",
        "io_uring_enter",
        "io_uring_register",
        "userfaultfd",
        "keyctl",
        "add_key",
        "request_key",
        "kexec_load",
        "init_module",
        "open_by_handle_at",
        "perf_event_open",
        "pivot_root",
        "swapon",
        "reboot",
        "settimeofday",
        "socket",
        "personality",
        "move_pages",
        "migrate_pages",
        "nfsservctl",
        "uselib",
        "vm86",
        "s390_runtime_instr",
    ] {
        assert!(!allowed.contains(call), "{call}");
    }
    assert!(plain(&profile, LinuxSeccompAction::ScmpActErrno).contains("clone3"));
    assert_eq!(profile.default_errno_ret(), Some(1));
    assert!(profile.architectures().as_ref().unwrap().contains(&Arch::ScmpArchX86));
}

#[test]
fn a_capability_brings_its_calls() {
    let admin = ["CAP_SYS_ADMIN".to_owned(), "CAP_SYS_CHROOT".to_owned()];
    let profile = default::profile(&target(&admin));
    let allowed = plain(&profile, LinuxSeccompAction::ScmpActAllow);
    for call in ["mount", "unshare", "clone", "clone3", "bpf", "chroot"] {
        assert!(allowed.contains(call), "{call}");
    }
    assert!(!allowed.contains("reboot"));
    assert!(plain(&profile, LinuxSeccompAction::ScmpActErrno).is_empty());
}

#[test]
fn vsock_and_crypto_sockets_are_the_families_left_out() {
    let profile = default::profile(&target(NONE));
    let rules: Vec<_> =
        profile.syscalls().iter().flatten().filter(|rule| rule.names()[0] == "socket").collect();
    let allowed = |family: u64| {
        rules.iter().any(|rule| {
            let argument = rule.args().as_ref().unwrap()[0];
            match argument.op() {
                oci_spec::runtime::LinuxSeccompOperator::ScmpCmpLt => family < argument.value(),
                oci_spec::runtime::LinuxSeccompOperator::ScmpCmpEq => family == argument.value(),
                oci_spec::runtime::LinuxSeccompOperator::ScmpCmpGt => family > argument.value(),
                other => panic!("{other:?}"),
            }
        })
    };
    let refused: Vec<u64> = (0..64).filter(|family| !allowed(*family)).collect();
    assert_eq!(refused, [38, 40]);
}

#[test]
fn conditions_decide_over_rules() {
    let json = r#"{
        "defaultAction": "SCMP_ACT_ERRNO",
        "archMap": [{"architecture": "SCMP_ARCH_X86_64", "subArchitectures": ["SCMP_ARCH_X86"]},
                    {"architecture": "SCMP_ARCH_RISCV64", "subArchitectures": null}],
        "syscalls": [
            {"names": ["a"], "action": "SCMP_ACT_ALLOW", "args": [], "comment": "", "includes": {}, "excludes": {}},
            {"name": "b", "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF"]}},
            {"names": ["c"], "action": "SCMP_ACT_ALLOW", "excludes": {"caps": ["CAP_BPF", "CAP_KILL"]}},
            {"names": ["d"], "action": "SCMP_ACT_ALLOW", "includes": {"arches": ["s390x"]}},
            {"names": ["e"], "action": "SCMP_ACT_ALLOW", "excludes": {"arches": ["s390x"]}},
            {"names": ["f"], "action": "SCMP_ACT_ALLOW", "includes": {"minKernel": "6.2"}},
            {"names": ["g"], "action": "SCMP_ACT_ALLOW", "excludes": {"minKernel": "6.2"}},
            {"names": ["h"], "action": "SCMP_ACT_ALLOW", "includes": {"caps": ["CAP_BPF", "CAP_KILL"]}}
        ]}"#;
    let names = |capabilities: &[String]| {
        let profile = resolve(json, &target(capabilities)).unwrap();
        assert_eq!(profile.architectures().as_ref().unwrap().len(), 2);
        plain(&profile, LinuxSeccompAction::ScmpActAllow).into_iter().collect::<String>()
    };
    assert_eq!(names(NONE), "aceg");
    assert_eq!(names(&["CAP_BPF".to_owned()]), "abeg");
    assert_eq!(names(&["CAP_BPF".to_owned(), "CAP_KILL".to_owned()]), "abegh");
}

#[test]
fn a_profile_that_contradicts_itself_is_refused() {
    for (json, part) in [
        ("{", "not valid"),
        (r#"{"defaultAction": "SCMP_ACT_MAYBE"}"#, "not valid"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "architectures": ["SCMP_ARCH_X86"],
                "archMap": [{"architecture": "SCMP_ARCH_X86"}]}"#,
            "archMap",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"name": "a", "names": ["b"], "action": "SCMP_ACT_LOG"}]}"#,
            "rule 0",
        ),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["a"], "action": "SCMP_ACT_LOG", "includes": {"minKernel": "six"}}]}"#,
            "\"six\"",
        ),
    ] {
        let error = resolve(json, &target(NONE)).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn a_kernel_release_begins_with_its_version() {
    assert_eq!("6.18.5-cloud".parse(), Ok(KernelVersion { major: 6, minor: 18 }));
    assert_eq!("4.8".parse(), Ok(KernelVersion { major: 4, minor: 8 }));
    assert_eq!("6".parse::<KernelVersion>(), Err(NotAVersion));
    assert!(KernelVersion::running() > KernelVersion { major: 4, minor: 0 });
}
