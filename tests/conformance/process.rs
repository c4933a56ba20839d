//! The process: arguments, environment, working directory, user, limits (runtime-spec, "Process").

use std::fs;
use std::os::unix::fs::{PermissionsExt, symlink};

use serde_json::{Value, json};

use crate::subject::{Subject, proc_status};
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("arguments", arguments),
    case("environment", environment),
    case("environment-is-only-what-is-given", environment_clean),
    case("home-is-set", home),
    case("path-is-searched", path_search),
    case("relative-program", relative_program),
    case("cwd", cwd),
    case("cwd-is-made", cwd_made),
    case("cwd-that-the-user-cannot-enter", cwd_denied),
    case("user-and-group", user),
    case("additional-groups", groups),
    case("umask", umask),
    case("rlimits", rlimits),
    case("rlimit-soft-above-hard", rlimit_bad),
    case("no-new-privileges", no_new_privileges),
    case("oom-score", oom_score),
    case("standard-input", stdin),
    case("standard-error-is-apart", stderr),
    case("output-to-a-full-device", broken_output),
    case("session-and-group-are-its-own", session),
    case("no-descriptor-is-leaked", no_fds),
    case("preserved-descriptors", preserve_fds),
    only_rkvm("preserved-descriptors-that-are-missing", "descriptors of its own stand in", preserve_missing),
    case("listen-fds", listen_fds),
    case("signal-dispositions-are-default", signals_default),
    case("program-is-missing", missing),
    case("program-is-not-executable", not_executable),
    case("program-is-a-folder", folder),
    case("program-is-a-script-without-an-interpreter", no_interpreter),
    case("sysctl", sysctl),
    case("start-of-a-missing-program-leaves-nothing", missing_leaves_nothing),
    only_rkvm("personality", "Debian's runc 1.1.5 has no personality", personality),
    only_rkvm("scheduler", "runc 1.1 has no scheduler", scheduler),
    only_rkvm("io-priority", "runc 1.1 has no ioPriority", io_priority),
    only_rkvm("cpu-affinity-of-exec", "runc 1.1 has no execCPUAffinity", exec_affinity),
    only_rkvm("exit-codes-126-and-127", "runc 1.1 exits with 1", exec_failure_codes),
];

fn arguments(s: &Subject) {
    let bundle = s.bundle(&[
        "sh",
        "-c",
        "for a in \"$0\" \"$@\"; do echo \"[$a]\"; done",
        "zero",
        "",
        "a b",
        "\u{fc}\"'$x",
    ]);
    assert_eq!(s.says(&bundle), "[zero]\n[]\n[a b]\n[\u{fc}\"'$x]");
}

fn environment(s: &Subject) {
    let mut bundle = s.script("echo \"$ONE|$EMPTY|$EQUALS\"");
    bundle.change(|config| {
        config["process"]["env"] = json!(["PATH=/bin", "ONE=1", "EMPTY=", "EQUALS=a=b=c"]);
    });
    assert_eq!(s.says(&bundle), "1||a=b=c");
}

fn environment_clean(s: &Subject) {
    let bundle = s.bundle(&["env"]);
    let output = s.cmd(["run", "--bundle"]).arg(&bundle.path).arg(s.id()).env("FROM_CALLER", "1").ok();
    let mut names: Vec<_> =
        output.stdout().lines().map(|line| line.split('=').next().unwrap().to_owned()).collect();
    names.sort();
    assert_eq!(names, ["HOME", "PATH", "TERM"]);
}

fn home(s: &Subject) {
    let mut bundle = s.script("echo $HOME");
    assert_eq!(s.says(&bundle), "/root");
    bundle.change(|config| config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 }));
    assert_eq!(s.says(&bundle), "/home");
    bundle.change(|config| config["process"]["env"].as_array_mut().unwrap().push(json!("HOME=/given")));
    assert_eq!(s.says(&bundle), "/given");
}

fn path_search(s: &Subject) {
    let mut bundle = s.bundle(&["tool"]);
    fs::write(bundle.rootfs().join("usr/bin/tool"), "#!/bin/sh\necho found\n").unwrap();
    fs::set_permissions(bundle.rootfs().join("usr/bin/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    assert_eq!(s.says(&bundle), "found");
    bundle.change(|config| config["process"]["env"] = json!(["PATH=/bin"]));
    s.run_fails(&bundle, "tool");
}

fn relative_program(s: &Subject) {
    let mut bundle = s.bundle(&["./tool"]);
    fs::write(bundle.rootfs().join("home/tool"), "#!/bin/sh\npwd\n").unwrap();
    fs::set_permissions(bundle.rootfs().join("home/tool"), fs::Permissions::from_mode(0o755)).unwrap();
    bundle.change(|config| config["process"]["cwd"] = json!("/home"));
    assert_eq!(s.says(&bundle), "/home");
}

fn cwd(s: &Subject) {
    let mut bundle = s.script("pwd; readlink /proc/self/cwd");
    bundle.change(|config| config["process"]["cwd"] = json!("/usr/bin"));
    assert_eq!(s.says(&bundle), "/usr/bin\n/usr/bin");
}

fn cwd_made(s: &Subject) {
    let mut bundle = s.script("pwd");
    bundle.change(|config| config["process"]["cwd"] = json!("/made/for/this"));
    assert_eq!(s.says(&bundle), "/made/for/this");
    symlink("/usr", bundle.rootfs().join("link")).unwrap();
    bundle.change(|config| config["process"]["cwd"] = json!("/link/bin"));
    assert!(s.says(&bundle).ends_with("bin"));
}

fn cwd_denied(s: &Subject) {
    let mut bundle = s.script("echo in");
    fs::set_permissions(bundle.rootfs().join("root"), fs::Permissions::from_mode(0o700)).unwrap();
    bundle.change(|config| {
        config["process"]["cwd"] = json!("/root");
        config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 });
        config["process"]["capabilities"] = json!({});
    });
    // runc tries as root first, because the folder may be one that only root can enter: it then is entered.
    let output = s.run(&bundle);
    assert!(output.code != 0 || output.text().contains("in"), "{output}");
}

fn user(s: &Subject) {
    let mut bundle = s.script(
        "id -u; id -g; touch /tmp/mine; stat -c '%u %g' /tmp/mine; touch /etc/not 2>/dev/null; echo $?",
    );
    bundle.change(|config| config["process"]["user"] = json!({ "uid": 1234, "gid": 4321 }));
    assert_eq!(s.says(&bundle), "1234\n4321\n1234 4321\n1");
}

fn groups(s: &Subject) {
    let mut bundle = s.script("grep Groups /proc/self/status");
    assert_eq!(s.says(&bundle).split_whitespace().collect::<Vec<_>>(), ["Groups:"], "the caller's groups");
    bundle.change(|config| {
        config["process"]["user"] = json!({ "uid": 0, "gid": 0, "additionalGids": [5, 77, 65000] })
    });
    assert_eq!(s.says(&bundle).split_whitespace().collect::<Vec<_>>(), ["Groups:", "5", "77", "65000"]);
}

fn umask(s: &Subject) {
    let mut bundle = s.script("umask; touch /tmp/file; stat -c %a /tmp/file");
    bundle.change(|config| config["process"]["user"] = json!({ "uid": 0, "gid": 0, "umask": 0o077 }));
    assert_eq!(s.says(&bundle), "0077\n600");
    let _ = fs::remove_file(bundle.rootfs().join("tmp/file"));
    bundle.change(|config| config["process"]["user"] = json!({ "uid": 0, "gid": 0 }));
    assert_eq!(s.says(&bundle), "0022\n644");
}

fn rlimits(s: &Subject) {
    let mut bundle = s.script("ulimit -Sn; ulimit -Hn; ulimit -Sc; ulimit -Hc; ulimit -Ss");
    bundle.change(|config| {
        config["process"]["rlimits"] = json!([
            { "type": "RLIMIT_NOFILE", "soft": 100, "hard": 200 },
            { "type": "RLIMIT_CORE", "soft": 0, "hard": 0 },
            { "type": "RLIMIT_STACK", "soft": 4_194_304, "hard": 8_388_608 },
        ]);
    });
    assert_eq!(s.says(&bundle), "100\n200\n0\n0\n4096");
}

fn rlimit_bad(s: &Subject) {
    let mut bundle = s.bundle(&["true"]);
    bundle.change(|config| {
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 200, "hard": 100 }]);
    });
    s.run_fails(&bundle, "");
}

fn no_new_privileges(s: &Subject) {
    let mut bundle = s.script("grep NoNewPrivs /proc/self/status");
    assert!(s.says(&bundle).ends_with('1'));
    bundle.change(|config| config["process"]["noNewPrivileges"] = json!(false));
    assert!(s.says(&bundle).ends_with('0'));
}

fn oom_score(s: &Subject) {
    // Raising is everybody's right; lowering below the caller's needs CAP_SYS_RESOURCE, which a host may lack.
    let mut bundle = s.script("cat /proc/self/oom_score_adj");
    bundle.change(|config| config["process"]["oomScoreAdj"] = json!(777));
    assert_eq!(s.says(&bundle), "777");
    bundle.change(|config| {
        config["process"].as_object_mut().unwrap().remove("oomScoreAdj");
    });
    assert_eq!(s.says(&bundle), fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim());
}

fn stdin(s: &Subject) {
    let bundle = s.bundle(&["cat"]);
    let text = "typed in\n".repeat(20_000);
    let output = s.cmd(["run", "--bundle"]).arg(&bundle.path).arg(s.id()).stdin(text.as_str()).ok();
    assert_eq!(output.stdout(), text);
}

fn stderr(s: &Subject) {
    let output = s.run(&s.script("echo out; echo err >&2")).expect_code(0);
    assert_eq!((output.stdout().as_str(), output.stderr().as_str()), ("out\n", "err\n"));
}

fn broken_output(s: &Subject) {
    let bundle = s.script("cat /dev/zero | head -c 1000000");
    let script = format!("\"$@\" run --bundle {} {} | head -c 10 | wc -c", bundle.path.display(), s.id());
    let command = s.sandbox.command("sh").args(["-c", &script, "sh"]);
    assert_eq!(s.append_runtime(command).ok().text(), "10");
}

fn session(s: &Subject) {
    let said = s.says_script("awk '{ print $1, $5, $6 }' /proc/$$/stat");
    assert_eq!(said, "1 1 1", "pid, group and session");
}

fn no_fds(s: &Subject) {
    // ls has the folder itself open as the fourth.
    let said = s.says_script("ls /proc/self/fd; ls /proc/1/fd | wc -l");
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..3], ["0", "1", "2"]);
    assert!(lines.len() <= 5, "{said}");
}

fn preserve_fds(s: &Subject) {
    // No pipe and no folder listing: the shell would hold a descriptor of its own for either.
    let bundle = s
        .script("cat <&3; cat <&4; for n in 0 1 2 3 4 5; do [ ! -e /proc/1/fd/$n ] || printf '%s ' $n; done");
    let file = |name: &str, text: &str| {
        let path = s.sandbox.path().join(name);
        fs::write(&path, text).unwrap();
        path.display().to_string()
    };
    let (three, four, five) = (file("three", "three\n"), file("four", "four\n"), file("five", "five\n"));
    let script = format!(
        "exec \"$@\" run --preserve-fds 2 --bundle {} {} 3<{three} 4<{four} 5<{five}",
        bundle.path.display(),
        s.id()
    );
    let command = s.sandbox.command("sh").args(["-c", &script, "sh"]);
    let said = s.append_runtime(command).ok().text();
    let lines: Vec<_> = said.lines().collect();
    assert_eq!(lines[..2], ["three", "four"]);
    assert_eq!(lines[2].trim(), "0 1 2 3 4", "{said}");
}

fn preserve_missing(s: &Subject) {
    let bundle = s.bundle(&["true"]);
    s.cmd(["run", "--preserve-fds", "2", "--bundle"]).arg(&bundle.path).arg(s.id()).fails("");
    assert!(s.list().is_empty());
}

fn listen_fds(s: &Subject) {
    // Socket activation (sd_listen_fds(3)): LISTEN_FDS descriptors are handed on without being asked for.
    let bundle = s.script("cat <&3; echo $LISTEN_FDS $LISTEN_PID");
    let path = s.sandbox.path().join("three");
    fs::write(&path, "three\n").unwrap();
    let script = format!(
        "export LISTEN_FDS=1 LISTEN_PID=$$; exec \"$@\" run --bundle {} {} 3<{}",
        bundle.path.display(),
        s.id(),
        path.display()
    );
    let command = s.sandbox.command("sh").args(["-c", &script, "sh"]);
    assert_eq!(s.append_runtime(command).ok().text(), "three\n1 1");
}

fn signals_default(s: &Subject) {
    let bundle = s.script("grep -E '^Sig(Blk|Ign)' /proc/1/status");
    let script =
        format!("trap '' TERM USR1 PIPE; exec \"$@\" run --bundle {} {}", bundle.path.display(), s.id());
    let command = s.sandbox.command("sh").args(["-c", &script, "sh"]);
    let said = s.append_runtime(command).ok().text();
    let words: Vec<_> = said.split_whitespace().collect();
    assert_eq!(words[1], "0000000000000000", "blocked: {said}");
}

fn missing(s: &Subject) {
    s.run_fails(&s.bundle(&["/no/such/program"]), "/no/such/program");
    s.run_fails(&s.bundle(&["nosuchprogram"]), "nosuchprogram");
}

fn not_executable(s: &Subject) {
    s.run_fails(&s.bundle(&["/etc/passwd"]), "/etc/passwd");
}

fn folder(s: &Subject) {
    s.run_fails(&s.bundle(&["/etc"]), "/etc");
}

fn no_interpreter(s: &Subject) {
    let bundle = s.bundle(&["/script"]);
    fs::write(bundle.rootfs().join("script"), "#!/no/such/interpreter\n").unwrap();
    fs::set_permissions(bundle.rootfs().join("script"), fs::Permissions::from_mode(0o755)).unwrap();
    s.run_fails(&bundle, "/script");
}

fn sysctl(s: &Subject) {
    let host = fs::read_to_string("/proc/sys/kernel/msgmax").unwrap();
    let mut bundle = s.script("cat /proc/sys/kernel/msgmax /proc/sys/net/ipv4/ip_default_ttl");
    bundle.change(|config| {
        config["linux"]["sysctl"] = json!({ "kernel.msgmax": "12345", "net.ipv4.ip_default_ttl": "65" });
    });
    assert_eq!(s.says(&bundle), "12345\n65");
    assert_eq!(fs::read_to_string("/proc/sys/kernel/msgmax").unwrap(), host);
}

fn missing_leaves_nothing(s: &Subject) {
    // Found out at create or at start, as the runtime likes.
    let bundle = s.bundle(&["/no/such/program"]);
    let create = s.cmd(["create", "--bundle"]).arg(&bundle.path).arg(s.id()).run();
    if create.code == 0 {
        s.cmd(["start"]).arg(s.id()).fails("/no/such/program");
        s.cmd(["delete", "--force"]).arg(s.id()).ok();
    }
    assert!(s.list().is_empty());
    s.sandbox.assert_no_leaks();
}

fn personality(s: &Subject) {
    let mut bundle = s.script("uname -m; cat /proc/self/personality");
    bundle.change(|config| config["linux"]["personality"] = json!({ "domain": "LINUX32" }));
    let said = s.says(&bundle);
    assert!(said.starts_with("i686"), "{said}");
}

fn scheduler(s: &Subject) {
    let bundle = |policy: Value| {
        let mut bundle = s.script("awk '{ print $19, $41 }' /proc/self/stat");
        bundle.change(|config| config["process"]["scheduler"] = policy);
        bundle
    };
    // nice and policy: SCHED_BATCH is 3, SCHED_OTHER 0 (sched(7)).
    assert_eq!(s.says(&bundle(json!({ "policy": "SCHED_BATCH", "nice": 5 }))), "5 3");
    assert_eq!(s.says(&bundle(json!({ "policy": "SCHED_OTHER", "nice": 7 }))), "7 0");
    s.run_fails(&bundle(json!({ "policy": "SCHED_NONSENSE" })), "");
}

fn io_priority(s: &Subject) {
    let mut bundle = s.script("ionice -p $$");
    bundle.change(|config| {
        config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_BE", "priority": 6 })
    });
    assert!(s.says(&bundle).contains("prio 6"));
    bundle.change(|config| {
        config["process"]["ioPriority"] = json!({ "class": "IOPRIO_CLASS_IDLE", "priority": 0 })
    });
    assert!(s.says(&bundle).contains("idle"));
}

fn exec_affinity(s: &Subject) {
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.change(|config| config["process"]["execCPUAffinity"] = json!({ "initial": "0", "final": "0" }));
    let output = s.cmd(["create", "--bundle"]).arg(&bundle.path).arg(s.id()).run();
    if output.code != 0 {
        assert!(output.stderr().contains("execCPUAffinity"), "neither done nor refused by name: {output}");
        return;
    }
    s.start();
    let said = s.exec(&["grep", "Cpus_allowed_list", "/proc/self/status"]).ok().text();
    assert!(said.ends_with("\t0"), "{said}");
}

fn exec_failure_codes(s: &Subject) {
    for (program, code) in [("/no/such/program", 127), ("/etc/passwd", 126), ("/etc", 126)] {
        let output = s.run(&s.bundle(&[program]));
        assert_eq!(output.code, code, "{output}");
    }
    let pid = s.up(&s.bundle(&["sleep", "1000"]));
    assert!(!proc_status(pid, "State").is_empty());
    s.exec(&["/no/such/program"]).run().expect_code(127);
    s.exec(&["/etc/passwd"]).run().expect_code(126);
}
