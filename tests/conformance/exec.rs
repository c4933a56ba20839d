//! `exec`: another process in a running container.

use std::fs;

use rkvm_testing::{reap, wait};
use serde_json::json;

use crate::subject::{Subject, namespace, proc_status};
use crate::{Case, case, only_rkvm};

pub const CASES: &[Case] = &[
    case("output-and-exit-code", output),
    case("standard-input", stdin),
    case("same-namespaces-and-cgroup", namespaces),
    case("environment", environment),
    case("working-directory", cwd),
    case("user", user),
    case("additional-groups", groups),
    case("capabilities", capabilities),
    case("no-new-privileges", no_new_privs),
    case("limits-and-scores-of-the-container", inherited),
    case("process-json", process_json),
    case("process-json-that-is-bad", process_json_bad),
    case("detached", detached),
    case("ended-by-a-signal", signaled),
    case("program-is-missing", missing),
    case("in-a-created-one", in_created),
    case("in-a-stopped-one", in_stopped),
    case("in-a-paused-one", in_paused),
    case("in-a-paused-one-all-the-same", ignore_paused),
    case("in-a-user-namespace", userns),
    case("rootfs-of-the-container", rootfs),
    case("no-descriptor-is-leaked", no_fds),
    case("many-at-once", many),
    case("ends-with-the-container", ends_with_container),
    case("flags-after-the-command-are-its-own", own_flags),
    case("preserved-descriptors", preserve_fds),
    case("seen-by-ps", seen_by_ps),
    only_rkvm("a-user-by-name", "runc takes numbers only", user_by_name),
];

fn output(s: &Subject) {
    s.sleeper();
    let output = s.exec(&["sh", "-c", "echo out; echo err >&2; exit 42"]).run().expect_code(42);
    assert_eq!((output.stdout().as_str(), output.stderr().as_str()), ("out\n", "err\n"));
}

fn stdin(s: &Subject) {
    s.sleeper();
    let text = "line\n".repeat(50_000);
    assert_eq!(s.exec(&["cat"]).stdin(text.as_str()).ok().stdout(), text);
}

fn namespaces(s: &Subject) {
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.namespace(json!({ "type": "cgroup" }));
    let pid = s.up(&bundle).to_string();
    for kind in ["pid", "net", "ipc", "uts", "mnt", "cgroup", "user"] {
        let said = s.exec(&["readlink", &format!("/proc/self/ns/{kind}")]).ok().text();
        assert_eq!(said, namespace(&pid, kind), "{kind}");
    }
    let said = s.exec(&["cat", "/proc/self/cgroup"]).ok().text();
    assert!(!said.contains("memory:/process"), "{said}");
    s.exec_detached(&["sleep", "500"]);
    let pids = s.cmd(["ps", "--format", "json"]).arg(s.id()).ok().json();
    assert_eq!(pids.as_array().unwrap().len(), 2, "not in the container's cgroup");
}

fn environment(s: &Subject) {
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.change(|config| config["process"]["env"].as_array_mut().unwrap().push(json!("FROM=config")));
    s.up(&bundle);
    let said = s
        .cmd(["exec", "--env", "A=1", "--env", "B=x=y"])
        .arg(s.id())
        .args(["sh", "-c", "echo $A $B $FROM"])
        .ok();
    assert_eq!(said.text(), "1 x=y config");
    let said = s.cmd(["exec", "-e", "FROM=flag"]).arg(s.id()).args(["sh", "-c", "echo $FROM"]).ok();
    assert_eq!(said.text(), "flag");
}

fn cwd(s: &Subject) {
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.change(|config| config["process"]["cwd"] = json!("/home"));
    s.up(&bundle);
    assert_eq!(s.exec(&["pwd"]).ok().text(), "/home");
    assert_eq!(s.cmd(["exec", "--cwd", "/etc"]).arg(s.id()).arg("pwd").ok().text(), "/etc");
    s.cmd(["exec", "--cwd", "relative"]).arg(s.id()).arg("pwd").fails("");
}

fn user(s: &Subject) {
    s.sleeper();
    let ids = ["sh", "-c", "echo $(id -u):$(id -g)"];
    assert_eq!(s.exec(&ids).ok().text(), "0:0");
    assert_eq!(s.cmd(["exec", "--user", "1000:2000"]).arg(s.id()).args(ids).ok().text(), "1000:2000");
    assert_eq!(s.cmd(["exec", "-u", "77"]).arg(s.id()).args(ids).ok().text(), "77:0");
    s.cmd(["exec", "-u", "x:y:z"]).arg(s.id()).args(ids).fails("");
}

fn groups(s: &Subject) {
    s.sleeper();
    let said =
        s.cmd(["exec", "-g", "5", "-g", "6"]).arg(s.id()).args(["grep", "Groups", "/proc/self/status"]).ok();
    assert_eq!(said.text().split_whitespace().collect::<Vec<_>>(), ["Groups:", "5", "6"]);
}

fn capabilities(s: &Subject) {
    s.sleeper();
    let effective = |flags: &[&str]| {
        let said = s.cmd(["exec"]).args(flags).arg(s.id()).args(["grep", "CapEff", "/proc/self/status"]).ok();
        u64::from_str_radix(said.text().split_whitespace().last().unwrap(), 16).unwrap()
    };
    // AUDIT_WRITE 29, KILL 5, NET_BIND_SERVICE 10 of the bundle; SYS_PTRACE is 19.
    let own = 1 << 29 | 1 << 5 | 1 << 10;
    assert_eq!(effective(&[]), own);
    assert_eq!(effective(&["--cap", "CAP_SYS_PTRACE"]), own | 1 << 19);
}

fn no_new_privs(s: &Subject) {
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.change(|config| config["process"]["noNewPrivileges"] = json!(false));
    s.up(&bundle);
    let grep = ["grep", "NoNewPrivs", "/proc/self/status"];
    assert!(s.exec(&grep).ok().text().ends_with('0'));
    assert!(s.cmd(["exec", "--no-new-privs"]).arg(s.id()).args(grep).ok().text().ends_with('1'));
}

fn inherited(s: &Subject) {
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.change(|config| {
        config["process"]["rlimits"] = json!([{ "type": "RLIMIT_NOFILE", "soft": 99, "hard": 199 }]);
        config["process"]["oomScoreAdj"] = json!(555);
    });
    s.up(&bundle);
    assert_eq!(s.exec(&["sh", "-c", "ulimit -n; cat /proc/self/oom_score_adj"]).ok().text(), "99\n555");
}

fn process_json(s: &Subject) {
    s.sleeper();
    let file = s.sandbox.path().join("process.json");
    let process = json!({
        "args": ["sh", "-c", "echo $MARK $(id -u) $(pwd)"],
        "env": ["PATH=/bin", "MARK=json"],
        "cwd": "/tmp",
        "user": { "uid": 12, "gid": 13 }
    });
    fs::write(&file, process.to_string()).unwrap();
    assert_eq!(s.cmd(["exec", "--process"]).arg(&file).arg(s.id()).ok().text(), "json 12 /tmp");
}

fn process_json_bad(s: &Subject) {
    s.sleeper();
    let file = s.sandbox.path().join("process.json");
    s.cmd(["exec", "--process"]).arg(&file).arg(s.id()).fails("process.json");
    for text in ["{", "{}", r#"{"args": [], "cwd": "/"}"#, r#"{"args": ["true"], "cwd": "relative"}"#] {
        fs::write(&file, text).unwrap();
        s.cmd(["exec", "--process"]).arg(&file).arg(s.id()).fails("");
    }
}

fn detached(s: &Subject) {
    s.sleeper();
    let pid_file = s.sandbox.path().join("exec-pid");
    s.cmd(["exec", "--detach", "--pid-file"])
        .arg(&pid_file)
        .arg(s.id())
        .args(["sh", "-c", "until test -e /tmp/go; do sleep 0.02; done; exit 9"])
        .ok();
    let pid: i32 = fs::read_to_string(pid_file).unwrap().parse().unwrap();
    assert_eq!(proc_status(pid, "NSpid").split_whitespace().count(), 2);
    s.exec(&["touch", "/tmp/go"]).ok();
    assert_eq!(reap::wait_for(pid), 9);
}

fn signaled(s: &Subject) {
    s.sleeper();
    s.exec(&["sh", "-c", "kill -9 $$"]).run().expect_code(137);
    s.exec(&["sh", "-c", "kill -15 $$"]).run().expect_code(143);
}

fn missing(s: &Subject) {
    s.sleeper();
    s.exec(&["/no/such/program"]).fails("/no/such/program");
    s.exec(&["/etc/passwd"]).fails("/etc/passwd");
    s.exec(&["nosuchprogram"]).fails("nosuchprogram");
    assert_eq!(s.status(), "running");
    assert_eq!(s.cmd(["ps", "--format", "json"]).arg(s.id()).ok().json().as_array().unwrap().len(), 1);
}

fn in_created(s: &Subject) {
    s.create(&s.bundle(&["sleep", "1000"]));
    assert_eq!(s.exec(&["echo", "early"]).ok().text(), "early");
    assert_eq!(s.status(), "created");
}

fn in_stopped(s: &Subject) {
    let pid = s.sleeper();
    s.end(pid);
    s.exec(&["true"]).fails("stopped");
}

fn in_paused(s: &Subject) {
    s.sleeper();
    s.cmd(["pause"]).arg(s.id()).ok();
    s.exec(&["true"]).fails("paused");
}

fn ignore_paused(s: &Subject) {
    s.sleeper();
    s.cmd(["pause"]).arg(s.id()).ok();
    let running = s.cmd(["exec", "--ignore-paused"]).arg(s.id()).args(["echo", "thawed"]).spawn();
    std::thread::sleep(std::time::Duration::from_millis(100));
    assert_eq!(running.stdout(), "");
    s.cmd(["resume"]).arg(s.id()).ok();
    assert_eq!(running.wait().expect_code(0).text(), "thawed");
}

fn userns(s: &Subject) {
    let mut bundle = s.bundle(&["sleep", "1000"]);
    bundle.map_users(600_000_000);
    s.up(&bundle);
    let said = s
        .exec(&["sh", "-c", "id -u; cat /proc/self/uid_map; touch /tmp/by-exec; stat -c %u /tmp/by-exec"])
        .ok();
    assert_eq!(said.text().split_whitespace().collect::<Vec<_>>(), ["0", "0", "600000000", "65536", "0"]);
    use std::os::unix::fs::MetadataExt;
    assert_eq!(fs::metadata(bundle.rootfs().join("tmp/by-exec")).unwrap().uid(), 600_000_000);
}

fn rootfs(s: &Subject) {
    let bundle = s.bundle(&["sleep", "1000"]);
    s.up(&bundle);
    s.exec(&["sh", "-c", "echo text > /from-exec"]).ok();
    assert_eq!(fs::read_to_string(bundle.rootfs().join("from-exec")).unwrap(), "text\n");
}

fn no_fds(s: &Subject) {
    s.sleeper();
    let said = s.exec(&["ls", "/proc/self/fd"]).ok().text();
    assert_eq!(said.lines().collect::<Vec<_>>(), ["0", "1", "2", "3"], "3 is ls's own");
}

fn many(s: &Subject) {
    s.sleeper();
    let running: Vec<_> = (0..10)
        .map(|number| s.exec(&["sh", "-c", &format!("echo {number}; exit {number}")]).spawn())
        .collect();
    for (number, running) in running.into_iter().enumerate() {
        assert_eq!(running.wait().expect_code(number as i32).text(), number.to_string());
    }
}

fn ends_with_container(s: &Subject) {
    let pid = s.sleeper();
    let running = s.exec(&["sleep", "4711"]).spawn();
    wait::until("the process to be inside", || {
        // By its command line: the runtime's own processes, on their way in, are counted too.
        let table = s.cmd(["ps"]).arg(s.id()).ok().stdout();
        (table.lines().filter(|line| line.ends_with("sleep 4711")).count() == 1).then_some(())
    });
    s.end(pid);
    running.wait().expect_code(137);
}

fn own_flags(s: &Subject) {
    s.sleeper();
    assert_eq!(s.exec(&["echo", "-e", "--user", "--help"]).ok().text(), "--user --help");
}

fn preserve_fds(s: &Subject) {
    s.sleeper();
    let path = s.sandbox.path().join("three");
    fs::write(&path, "three\n").unwrap();
    let script = format!("exec \"$@\" exec --preserve-fds 1 {} sh -c 'cat <&3' 3<{}", s.id(), path.display());
    let command = s.sandbox.command("sh").args(["-c", &script, "sh"]);
    assert_eq!(s.append_runtime(command).ok().text(), "three");
}

fn seen_by_ps(s: &Subject) {
    s.sleeper();
    s.exec_detached(&["sleep", "777"]);
    let table = s.cmd(["ps"]).arg(s.id()).ok().stdout();
    assert!(table.contains("sleep 1000") && table.contains("sleep 777"), "{table}");
}

fn user_by_name(s: &Subject) {
    s.sleeper();
    // Names are the engine's business, as in Docker: an OCI runtime only knows numbers and says so.
    s.cmd(["exec", "--user", "root"]).arg(s.id()).arg("true").fails("root");
}
