#![allow(clippy::unwrap_used)]

use std::os::unix::fs::PermissionsExt;

use libc::{SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO, SECCOMP_RET_LOG, SECCOMP_RET_USER_NOTIF};

use super::*;

const X86_64: u32 = 0xc000_003e;
const I386: u32 = 0x4000_0003;
const X32_BIT: u32 = 1 << 30;

fn profile(json: &str) -> LinuxSeccomp {
    serde_json::from_str(json).unwrap()
}

fn compiled(json: &str) -> Vec<libc::sock_filter> {
    Filter::compile(&profile(json), None).unwrap().program
}

fn refused(json: &str) -> String {
    Filter::compile(&profile(json), None).unwrap_err().to_string()
}

/// Runs a filter as the kernel does, for one call.
fn run(program: &[libc::sock_filter], arch: u32, nr: u32, args: [u64; 6]) -> u32 {
    let mut data = vec![nr, arch, 0, 0];
    data.extend(args.iter().flat_map(|arg| [*arg as u32, (*arg >> 32) as u32]));
    let (mut a, mut at) = (0_u32, 0_usize);
    loop {
        let step = program[at];
        at += 1;
        let jump = |taken: bool| usize::from(if taken { step.jt } else { step.jf });
        match step.code {
            0x20 => a = data[step.k as usize / 4],
            0x54 => a &= step.k,
            0x05 => at += step.k as usize,
            0x15 => at += jump(a == step.k),
            0x25 => at += jump(a > step.k),
            0x35 => at += jump(a >= step.k),
            0x45 => at += jump(a & step.k != 0),
            0x06 => return step.k,
            code => panic!("unknown instruction {code:#x}"),
        }
    }
}

fn call(program: &[libc::sock_filter], nr: libc::c_long) -> u32 {
    run(program, X86_64, nr as u32, [0; 6])
}

fn errno(number: i32) -> u32 {
    SECCOMP_RET_ERRNO | number as u32
}

const ALLOW_LIST: &str = r#"{
    "defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": 13,
    "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
    "syscalls": [
        {"names": ["read", "write", "no_such_call", "fchmodat2", "file_setattr"], "action": "SCMP_ACT_ALLOW"},
        {"names": ["mount"], "action": "SCMP_ACT_ERRNO", "errnoRet": 38},
        {"names": ["close"], "action": "SCMP_ACT_LOG"}
    ]}"#;

#[test]
fn listed_calls_get_their_action_on_every_architecture() {
    let program = compiled(ALLOW_LIST);
    assert_eq!(call(&program, libc::SYS_read), SECCOMP_RET_ALLOW);
    assert_eq!(call(&program, libc::SYS_close), SECCOMP_RET_LOG);
    assert_eq!(call(&program, libc::SYS_mount), errno(libc::ENOSYS));
    assert_eq!(call(&program, libc::SYS_open), errno(libc::EACCES));
    // read is 3 on i386, and 0 with bit 30 set on x32.
    assert_eq!(run(&program, I386, 3, [0; 6]), SECCOMP_RET_ALLOW);
    assert_eq!(run(&program, I386, 5, [0; 6]), errno(libc::EACCES));
    assert_eq!(run(&program, X86_64, X32_BIT, [0; 6]), SECCOMP_RET_ALLOW);
    assert_eq!(run(&program, X86_64, X32_BIT | 2, [0; 6]), errno(libc::EACCES));
    // An architecture that is not listed is killed (libseccomp's default).
    assert_eq!(run(&program, 0xc000_00b7, 63, [0; 6]), libc::SECCOMP_RET_KILL_THREAD);
}

#[test]
fn calls_newer_than_the_profile_do_not_exist_and_recent_ones_are_known() {
    let program = compiled(ALLOW_LIST);
    for (arch, base) in [(X86_64, 0), (X86_64, X32_BIT), (I386, 0)] {
        let answer = |nr: u32| run(&program, arch, base | nr, [0; 6]);
        assert_eq!(answer(452), SECCOMP_RET_ALLOW, "fchmodat2 on {arch:#x} {base:#x}");
        assert_eq!(answer(469), SECCOMP_RET_ALLOW, "file_setattr on {arch:#x} {base:#x}");
        assert_eq!(answer(468), errno(libc::EACCES), "below the highest listed, so refused on purpose");
        assert_eq!(answer(470), errno(libc::ENOSYS), "newer than the profile");
    }
    // A tracer that skips a call sets -1; it is no new call.
    assert_ne!(run(&program, X86_64, u32::MAX, [0; 6]), errno(libc::ENOSYS));
    let permissive = r#"{"defaultAction": "SCMP_ACT_ALLOW",
        "syscalls": [{"names": ["mount"], "action": "SCMP_ACT_ERRNO"}]}"#;
    assert_eq!(call(&compiled(permissive), 900), SECCOMP_RET_ALLOW);
}

#[test]
fn arguments_are_compared_with_every_operator() {
    for (op, value, extra, yes, no) in [
        ("SCMP_CMP_NE", 5_u64, "", 6_u64, 5_u64),
        ("SCMP_CMP_LT", 5, "", 4, 5),
        ("SCMP_CMP_LE", 5, "", 5, 6),
        ("SCMP_CMP_EQ", 1 << 40, "", 1 << 40, 1),
        ("SCMP_CMP_GE", 5, "", 5, 4),
        ("SCMP_CMP_GT", 5, "", 1 << 40, 5),
        ("SCMP_CMP_MASKED_EQ", 0xf0, r#", "valueTwo": 32"#, 0x2f, 0x3f),
    ] {
        let program = compiled(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["personality"],
                "action": "SCMP_ACT_ALLOW", "args": [{{"index": 2, "value": {value}, "op": "{op}"{extra}}}]}}]}}"#
        ));
        let answer = |arg| run(&program, X86_64, libc::SYS_personality as u32, [7, 7, arg, 7, 7, 7]);
        assert_eq!(answer(yes), SECCOMP_RET_ALLOW, "{op} {yes}");
        assert_eq!(answer(no), errno(libc::EPERM), "{op} {no}");
    }
}

#[test]
fn conditions_on_one_argument_are_alternatives_and_on_several_all_hold() {
    let rule = |first: u32, second: u32| {
        compiled(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "syscalls": [{{"names": ["socket"], "action": "SCMP_ACT_ALLOW",
                "args": [{{"index": {first}, "value": 1, "op": "SCMP_CMP_EQ"}},
                         {{"index": {second}, "value": 2, "op": "SCMP_CMP_EQ"}}]}}]}}"#
        ))
    };
    let socket = |program: &[libc::sock_filter], a, b| {
        run(program, X86_64, libc::SYS_socket as u32, [a, b, 0, 0, 0, 0])
    };
    let either = rule(0, 0);
    assert_eq!(socket(&either, 1, 0), SECCOMP_RET_ALLOW);
    assert_eq!(socket(&either, 2, 0), SECCOMP_RET_ALLOW);
    assert_eq!(socket(&either, 3, 0), errno(libc::EPERM));
    let both = rule(0, 1);
    assert_eq!(socket(&both, 1, 2), SECCOMP_RET_ALLOW);
    assert_eq!(socket(&both, 1, 3), errno(libc::EPERM));
}

#[test]
fn every_action_compiles_to_its_return_value() {
    for (action, value) in [
        ("SCMP_ACT_KILL", libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_KILL_THREAD", libc::SECCOMP_RET_KILL_THREAD),
        ("SCMP_ACT_KILL_PROCESS", libc::SECCOMP_RET_KILL_PROCESS),
        ("SCMP_ACT_TRAP", libc::SECCOMP_RET_TRAP),
        ("SCMP_ACT_TRACE", libc::SECCOMP_RET_TRACE | 1),
        ("SCMP_ACT_LOG", SECCOMP_RET_LOG),
        ("SCMP_ACT_NOTIFY", SECCOMP_RET_USER_NOTIF),
        ("SCMP_ACT_ALLOW", SECCOMP_RET_ALLOW),
    ] {
        let program = compiled(&format!(
            r#"{{"defaultAction": "SCMP_ACT_ERRNO", "listenerPath": "/run/agent",
                "syscalls": [{{"names": ["mkdir", "listns"], "action": "{action}"}}]}}"#
        ));
        assert_eq!(call(&program, libc::SYS_mkdir), value, "{action}");
        assert_eq!(call(&program, 470), value, "{action} of a call that libseccomp may not know");
    }
}

#[test]
fn what_a_profile_gets_wrong_is_named() {
    let rule = |rule: &str| format!(r#"{{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{rule}]}}"#);
    for (json, field) in [
        (rule(r#"{"names": ["a"], "action": "SCMP_ACT_ERRNO", "errnoRet": 5000}"#), "syscalls[0].errnoRet"),
        (rule(r#"{"names": ["a"], "action": "SCMP_ACT_LOG", "errnoRet": 1}"#), "syscalls[0].errnoRet"),
        (
            rule(
                r#"{"names": ["open"], "action": "SCMP_ACT_LOG",
                     "args": [{"index": 6, "value": 1, "op": "SCMP_CMP_EQ"}]}"#,
            ),
            "syscalls[0].args[0].index",
        ),
        (rule(r#"{"names": ["open"], "action": "SCMP_ACT_NOTIFY"}"#), "listenerPath"),
        (r#"{"defaultAction": "SCMP_ACT_NOTIFY", "listenerPath": "/a"}"#.into(), "defaultAction"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerMetadata": "x"}"#.into(), "listenerMetadata"),
        (r#"{"defaultAction": "SCMP_ACT_ALLOW", "defaultErrnoRet": 1}"#.into(), "defaultErrnoRet"),
        (
            r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a",
                "syscalls": [{"names": ["write"], "action": "SCMP_ACT_NOTIFY"}]}"#
                .into(),
            "linux.seccomp.syscalls",
        ),
    ] {
        let error = refused(&json);
        assert!(error.contains(field), "{json}: {error}");
    }
}

#[test]
fn flags_follow_the_profile() {
    let flags = |json: &str| Filter::compile(&profile(json), None).unwrap().flags;
    assert_eq!(flags(r#"{"defaultAction": "SCMP_ACT_ALLOW"}"#), libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW);
    assert_eq!(flags(r#"{"defaultAction": "SCMP_ACT_ALLOW", "flags": []}"#), 0);
    let all = r#"{"defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/a",
        "flags": ["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_TSYNC", "SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV"],
        "syscalls": [{"names": ["mkdir"], "action": "SCMP_ACT_NOTIFY"}]}"#;
    assert_eq!(
        flags(all),
        libc::SECCOMP_FILTER_FLAG_LOG
            | libc::SECCOMP_FILTER_FLAG_TSYNC
            | libc::SECCOMP_FILTER_FLAG_TSYNC_ESRCH
            | libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV
            | libc::SECCOMP_FILTER_FLAG_NEW_LISTENER
    );
}

#[test]
fn the_kernel_takes_the_filter_and_obeys_it() {
    let filter = Filter::compile(
        &profile(
            r#"{"defaultAction": "SCMP_ACT_ALLOW",
                "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 71}]}"#,
        ),
        None,
    )
    .unwrap();
    // The filter stays with the thread that loads it, and ends with it.
    let error = std::thread::spawn(move || {
        nix::sys::prctl::set_no_new_privs().unwrap();
        assert!(filter.load().unwrap().is_none());
        std::fs::create_dir("/tmp/refused").unwrap_err()
    })
    .join()
    .unwrap();
    assert_eq!(error.raw_os_error(), Some(71));
    assert!(!std::path::Path::new("/tmp/refused").exists());
}

#[test]
fn a_listener_reaches_the_agent_with_the_state() {
    use std::io::IoSliceMut;
    use std::os::fd::{AsFd, AsRawFd};

    use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};

    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("agent");
    let agent = std::os::unix::net::UnixListener::bind(&path).unwrap();
    let listener = Listener { path, metadata: Some("who".into()) };
    let file = std::fs::File::open("/dev/null").unwrap();
    listener.send(file.as_fd(), 42, oci_spec::runtime::State::default()).unwrap();
    let (socket, _) = agent.accept().unwrap();
    let mut text = [0; 4096];
    let mut space = nix::cmsg_space!([std::os::fd::RawFd; 1]);
    let mut parts = [IoSliceMut::new(&mut text)];
    let received =
        recvmsg::<()>(socket.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC);
    let received = received.unwrap();
    let fds: Vec<_> = received
        .cmsgs()
        .unwrap()
        .filter_map(|message| match message {
            ControlMessageOwned::ScmRights(fds) => Some(fds),
            _ => None,
        })
        .flatten()
        .collect();
    let length = received.bytes;
    assert_eq!(fds.len(), 1);
    nix::unistd::close(fds[0]).unwrap();
    let state: serde_json::Value = serde_json::from_slice(&text[..length]).unwrap();
    assert_eq!(state["pid"], 42);
    assert_eq!(state["metadata"], "who");
    assert_eq!(state["fds"][0], "seccompFd");
}

#[test]
fn only_a_cache_that_nobody_else_can_write_is_used() {
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("cache");
    let allow_list = profile(ALLOW_LIST);
    let fresh = Filter::compile(&allow_list, Some(&dir)).unwrap();
    let entry = dir.join(cache::key(&allow_list));
    let stored = std::fs::read(&entry).unwrap();
    let mode = |path: &Path, mode| {
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
    };
    let used = || cache::load(&dir, &cache::key(&allow_list)).is_some();
    assert!(used());
    let again = Filter::compile(&allow_list, Some(&dir)).unwrap();
    assert_eq!(format!("{:?}", again.program), format!("{:?}", fresh.program));
    mode(&entry, 0o622);
    assert!(!used(), "a file that others can write");
    mode(&entry, 0o600);
    mode(&dir, 0o777);
    assert!(!used(), "a folder that others can write");
    mode(&dir, 0o700);
    std::fs::write(&entry, &stored[..stored.len() - 8]).unwrap();
    assert!(!used(), "a truncated program");
    std::fs::remove_file(&entry).unwrap();
    std::os::unix::fs::symlink("/etc/passwd", &entry).unwrap();
    assert!(!used(), "a symbolic link");
    assert_eq!(
        call(&Filter::compile(&allow_list, Some(&dir)).unwrap().program, libc::SYS_read),
        SECCOMP_RET_ALLOW
    );
}

#[test]
fn the_cache_does_not_grow_without_bound() {
    let folder = tempfile::tempdir().unwrap();
    for errno in 1..150 {
        let json = format!(r#"{{"defaultAction": "SCMP_ACT_ERRNO", "defaultErrnoRet": {errno}}}"#);
        Filter::compile(&profile(&json), Some(folder.path())).unwrap();
    }
    assert!(std::fs::read_dir(folder.path()).unwrap().count() <= 64);
}
