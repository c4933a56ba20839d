//! System call filters (runtime-spec, "Seccomp").

use serde_json::{Value, json};

use crate::subject::Subject;
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("errno-by-default-is-eperm", errno_default),
    case("errno-given", errno_given),
    case("kill-process", kill_process),
    case("kill-thread", kill_thread),
    case("trap", trap),
    case("allow-list", allow_list),
    case("default-errno-given", default_errno),
    case("arguments-equal", argument_equal),
    case("arguments-masked", argument_masked),
    case("arguments-compared", argument_compared),
    case("log-and-trace", log),
    case("unknown-system-call-is-passed-over", unknown_call),
    case("architectures", architectures),
    case("without-no-new-privileges", without_nnp),
    case("filter-is-active", active),
    case("exec-is-filtered-too", exec_filtered),
    case("bad-architecture", bad_architecture),
    case("bad-operator", bad_operator),
    only_rkvm("flags", "Debian's runc 1.1.5 refuses some", flags),
];

fn with(s: &Subject, script: &str, filter: Value) -> rkvm_testing::Bundle {
    let mut bundle = s.script(script);
    bundle.change(|config| config["linux"]["seccomp"] = filter);
    bundle
}

/// Everything is allowed but `names`, which get `action`.
fn deny(names: &[&str], action: &str) -> Value {
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64", "SCMP_ARCH_X86", "SCMP_ARCH_X32"],
        "syscalls": [{ "names": names, "action": action }]
    })
}

const MKDIR: &[&str] = &["mkdir", "mkdirat"];

fn errno_default(s: &Subject) {
    let output = s.run(&with(s, "mkdir /tmp/d; echo $?", deny(MKDIR, "SCMP_ACT_ERRNO")));
    assert!(output.text() == "1" && output.stderr().contains("Operation not permitted"), "{output}");
}

fn errno_given(s: &Subject) {
    let mut filter = deny(MKDIR, "SCMP_ACT_ERRNO");
    // ENOSPC
    filter["syscalls"][0]["errnoRet"] = json!(28);
    let output = s.run(&with(s, "mkdir /tmp/d; echo $?", filter));
    assert!(output.stderr().contains("No space left"), "{output}");
}

fn kill_process(s: &Subject) {
    // 128 + SIGSYS
    assert_eq!(s.says(&with(s, "mkdir /tmp/d; echo $?", deny(MKDIR, "SCMP_ACT_KILL_PROCESS"))), "159");
}

fn kill_thread(s: &Subject) {
    assert_eq!(s.says(&with(s, "mkdir /tmp/d; echo $?", deny(MKDIR, "SCMP_ACT_KILL"))), "159");
}

fn trap(s: &Subject) {
    assert_eq!(s.says(&with(s, "mkdir /tmp/d; echo $?", deny(MKDIR, "SCMP_ACT_TRAP"))), "159");
}

/// Enough for busybox to print; `mkdir` is left out.
const ENOUGH: &[&str] = &[
    "access",
    "arch_prctl",
    "brk",
    "capget",
    "capset",
    "chdir",
    "clock_gettime",
    "clone",
    "close",
    "close_range",
    "dup",
    "dup2",
    "dup3",
    "epoll_ctl",
    "epoll_create1",
    "epoll_pwait",
    "execve",
    "execveat",
    "exit",
    "exit_group",
    "faccessat2",
    "fchdir",
    "fchown",
    "fcntl",
    "fork",
    "fstat",
    "fstatfs",
    "futex",
    "getcwd",
    "getdents64",
    "getegid",
    "geteuid",
    "getgid",
    "getpgrp",
    "getpid",
    "getppid",
    "getrandom",
    "gettid",
    "getuid",
    "ioctl",
    "lseek",
    "madvise",
    "mmap",
    "mprotect",
    "munmap",
    "nanosleep",
    "newfstatat",
    "open",
    "openat",
    "openat2",
    "pipe",
    "pipe2",
    "poll",
    "prctl",
    "prlimit64",
    "read",
    "readlink",
    "readlinkat",
    "recvfrom",
    "recvmsg",
    "rseq",
    "rt_sigaction",
    "rt_sigprocmask",
    "rt_sigreturn",
    "sched_getaffinity",
    "sched_yield",
    "sendmsg",
    "sendto",
    "set_robust_list",
    "set_tid_address",
    "setgid",
    "setgroups",
    "setresgid",
    "setresuid",
    "setsid",
    "setuid",
    "sigaltstack",
    "stat",
    "statx",
    "tgkill",
    "umask",
    "unlink",
    "unlinkat",
    "vfork",
    "wait4",
    "write",
    "writev",
];

fn allow_list(s: &Subject) {
    let filter = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": ENOUGH, "action": "SCMP_ACT_ALLOW" }]
    });
    let output = s.run(&with(s, "echo started; mkdir /tmp/d; echo $?", filter));
    assert_eq!(output.text(), "started\n1", "{output}");
}

fn default_errno(s: &Subject) {
    let filter = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "defaultErrnoRet": 38,
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [{ "names": ENOUGH, "action": "SCMP_ACT_ALLOW" }]
    });
    let output = s.run(&with(s, "mkdir /tmp/d; echo $?", filter));
    assert!(output.stderr().contains("not implemented"), "{output}");
}

/// chmod's mode is argument 1 of `chmod` and argument 2 of `fchmodat`.
fn chmod_filter(op: &str, value: u64, value_two: u64) -> Value {
    let argument = |index: u32| json!([{ "index": index, "value": value, "valueTwo": value_two, "op": op }]);
    json!({
        "defaultAction": "SCMP_ACT_ALLOW",
        "architectures": ["SCMP_ARCH_X86_64"],
        "syscalls": [
            { "names": ["chmod"], "action": "SCMP_ACT_ERRNO", "args": argument(1) },
            { "names": ["fchmodat"], "action": "SCMP_ACT_ERRNO", "args": argument(2) },
        ]
    })
}

/// Which of these modes `chmod` can set under the filter.
fn allowed_modes(s: &Subject, filter: Value) -> Vec<String> {
    let script =
        "touch /tmp/f; for m in 600 644 700 4755; do chmod $m /tmp/f 2>/dev/null && echo $m; done; true";
    s.says(&with(s, script, filter)).lines().map(str::to_owned).collect()
}

fn argument_equal(s: &Subject) {
    assert_eq!(allowed_modes(s, chmod_filter("SCMP_CMP_EQ", 0o644, 0)), ["600", "700", "4755"]);
    assert_eq!(allowed_modes(s, chmod_filter("SCMP_CMP_NE", 0o644, 0)), ["644"]);
}

fn argument_masked(s: &Subject) {
    // The set-user-id bit.
    assert_eq!(allowed_modes(s, chmod_filter("SCMP_CMP_MASKED_EQ", 0o4000, 0o4000)), ["600", "644", "700"]);
}

fn argument_compared(s: &Subject) {
    assert_eq!(allowed_modes(s, chmod_filter("SCMP_CMP_GT", 0o644, 0)), ["600", "644"]);
    assert_eq!(allowed_modes(s, chmod_filter("SCMP_CMP_GE", 0o644, 0)), ["600"]);
    assert_eq!(allowed_modes(s, chmod_filter("SCMP_CMP_LT", 0o644, 0)), ["644", "700", "4755"]);
    assert_eq!(allowed_modes(s, chmod_filter("SCMP_CMP_LE", 0o644, 0)), ["700", "4755"]);
}

fn log(s: &Subject) {
    assert_eq!(s.says(&with(s, "mkdir /tmp/d; echo $?", deny(MKDIR, "SCMP_ACT_LOG"))), "0");
    // Without a tracer the call fails with ENOSYS (seccomp(2)).
    let output = s.run(&with(s, "mkdir /tmp/e; echo $?", deny(MKDIR, "SCMP_ACT_TRACE")));
    assert!(output.stderr().contains("not implemented"), "{output}");
}

fn unknown_call(s: &Subject) {
    assert_eq!(s.says(&with(s, "echo ok", deny(&["no_such_call", "mkdir"], "SCMP_ACT_ERRNO"))), "ok");
}

fn architectures(s: &Subject) {
    let mut filter = deny(MKDIR, "SCMP_ACT_ERRNO");
    filter["architectures"] = json!([]);
    let output = s.run(&with(s, "mkdir /tmp/d; echo $?", filter));
    assert_eq!(output.text(), "1", "{output}");
}

fn without_nnp(s: &Subject) {
    let mut bundle = with(
        s,
        "mkdir /tmp/d 2>/dev/null; echo $?; grep -E 'NoNewPrivs' /proc/self/status",
        deny(MKDIR, "SCMP_ACT_ERRNO"),
    );
    bundle.change(|config| config["process"]["noNewPrivileges"] = json!(false));
    assert_eq!(s.says(&bundle), "1\nNoNewPrivs:\t0");
}

fn active(s: &Subject) {
    assert!(
        s.says(&with(s, "grep Seccomp: /proc/self/status", deny(MKDIR, "SCMP_ACT_ERRNO"))).ends_with('2')
    );
    assert!(s.says_script("grep Seccomp: /proc/self/status").ends_with('0'));
}

fn exec_filtered(s: &Subject) {
    s.up(&with(s, "sleep 1000", deny(MKDIR, "SCMP_ACT_ERRNO")));
    s.exec(&["mkdir", "/tmp/d"]).fails("not permitted");
}

fn bad_architecture(s: &Subject) {
    let mut filter = deny(MKDIR, "SCMP_ACT_ERRNO");
    filter["architectures"] = json!(["SCMP_ARCH_NONSENSE"]);
    s.run_fails(&with(s, "true", filter), "");
}

fn bad_operator(s: &Subject) {
    s.run_fails(&with(s, "true", chmod_filter("SCMP_CMP_NONSENSE", 0, 0)), "");
}

fn flags(s: &Subject) {
    let mut filter = deny(MKDIR, "SCMP_ACT_ERRNO");
    filter["flags"] = json!(["SECCOMP_FILTER_FLAG_LOG", "SECCOMP_FILTER_FLAG_SPEC_ALLOW"]);
    assert_eq!(s.says(&with(s, "mkdir /tmp/d 2>/dev/null; echo $?", filter.clone())), "1");
    filter["flags"] = json!(["SECCOMP_FILTER_FLAG_NONSENSE"]);
    s.run_fails(&with(s, "true", filter), "FLAG_NONSENSE");
}
