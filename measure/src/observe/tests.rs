use oci_spec::runtime::LinuxSeccomp;
use serde_json::json;

use super::*;

fn policy(profile: serde_json::Value) -> Policy {
    Policy::new(Some(serde_json::from_value::<LinuxSeccomp>(profile).unwrap()))
}

#[test]
fn a_policy_decides_as_the_filter_would() {
    let policy = policy(json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "syscalls": [
            { "names": ["read", "openat"], "action": "SCMP_ACT_ALLOW" },
            { "names": ["clone"], "action": "SCMP_ACT_ALLOW",
              "args": [{ "index": 0, "value": 0x7e02_0000, "valueTwo": 0, "op": "SCMP_CMP_MASKED_EQ" }] },
            { "names": ["socket"], "action": "SCMP_ACT_ALLOW", "args": [{ "index": 0, "value": 40, "op": "SCMP_CMP_NE" }] },
            { "names": ["clone3"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1 },
        ],
    }));
    let none = [0; 6];
    assert_eq!(policy.refusal("read", &none), None);
    assert_eq!(policy.refusal("bpf", &none), Some(38));
    assert_eq!(policy.refusal("clone3", &none), Some(1));
    assert_eq!(policy.refusal("clone", &[0x0120_0011, 0, 0, 0, 0, 0]), None);
    assert_eq!(policy.refusal("clone", &[0x1000_0011, 0, 0, 0, 0, 0]), Some(38));
    assert_eq!(policy.refusal("socket", &[2, 0, 0, 0, 0, 0]), None);
    assert_eq!(policy.refusal("socket", &[40, 0, 0, 0, 0, 0]), Some(38));
    assert_eq!(Policy::new(None).refusal("bpf", &none), None);
}

#[test]
fn every_call_but_write_goes_to_the_agent() {
    let profile = profile(std::path::Path::new("/run/agent"));
    let names = profile["syscalls"][0]["names"].as_array().unwrap();
    for name in ["read", "openat", "execve", "exit_group", "bpf", "io_uring_setup"] {
        assert!(names.contains(&json!(name)), "{name}");
    }
    assert!(!names.contains(&json!("write")));
    assert_eq!(profile["listenerPath"], "/run/agent");
}

#[test]
fn addresses_and_strings_are_read() {
    let me = std::process::id();
    let text = std::ffi::CString::new("/dev/null").unwrap();
    assert_eq!(memory::string(me, text.as_ptr() as u64).as_deref(), Some("/dev/null"));
    assert_eq!(memory::string(me, 0), None);
    assert_eq!(memory::address(&[2, 0, 0, 80, 127, 0, 0, 1]).as_deref(), Some("127.0.0.1:80"));
    assert_eq!(memory::address(b"\x01\0/run/x\0").as_deref(), Some("unix:/run/x"));
    assert_eq!(memory::address(b"\x01\0\0name").as_deref(), Some("unix:@name"));
    assert_eq!(memory::address(&[2, 0, 0]), None);
}

#[test]
fn the_program_that_a_process_executes_is_known_by_its_path() {
    use std::io::{Read, Write};
    use std::process::{Command, Stdio};

    let mut child = Command::new("/bin/cat").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    // It is the program once that has answered; when spawn() returns the kernel may still be at work on execve(2).
    child.stdin.as_mut().unwrap().write_all(b"x").unwrap();
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    let (mine, other) = (memory::program(std::process::id()), memory::program(child.id()));
    let path = memory::program_path(child.id(), &other);
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(path.as_deref(), Some("/bin/cat"));
    assert_ne!(mine, other);
    assert_eq!(memory::program_path(0, &[]), None);
}
