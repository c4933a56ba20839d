//! Terminals (runtime-spec, "process.terminal"; runc's console socket).

use std::os::fd::AsRawFd;

use rkvm_testing::{Console, ConsoleSocket, wait};
use serde_json::json;

use crate::subject::Subject;
use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("console-socket", console_socket),
    case("size", size),
    case("controlling-terminal", controlling),
    case("console-device", console_device),
    case("terminal-of-a-user", owner),
    case("terminal-in-a-user-namespace", userns),
    case("interrupt-character", interrupt),
    case("hang-up", hang_up),
    case("terminal-without-a-socket", without_socket),
    case("socket-without-a-terminal", socket_unasked),
    case("socket-that-nobody-listens-on", socket_dead),
    case("exec-with-a-terminal", exec),
    case("run-in-the-foreground-on-a-terminal", foreground),
];

fn with_terminal(s: &Subject, script: &str) -> rkvm_testing::Bundle {
    let mut bundle = s.script(script);
    bundle.change(|config| config["process"]["terminal"] = json!(true));
    bundle
}

/// Creates and starts with a console socket.
fn start(s: &Subject, bundle: &rkvm_testing::Bundle) -> Console {
    let socket = ConsoleSocket::listen(s.sandbox.path());
    s.cmd(["create", "--console-socket"])
        .arg(socket.path())
        .arg("--bundle")
        .arg(&bundle.path)
        .arg(s.id())
        .ok();
    let console = socket.accept();
    s.start();
    console
}

fn console_socket(s: &Subject) {
    let bundle =
        with_terminal(s, "test -t 0 && test -t 1 && test -t 2 && tty; read line; echo \"got [$line]\"");
    let mut console = start(s, &bundle);
    console.expect("/dev/pts/0");
    console.type_in("hello\n");
    console.expect("got [hello]");
    wait::until("the container to end", || (s.status() == "stopped").then_some(()));
}

fn size(s: &Subject) {
    let mut bundle = with_terminal(s, "stty size; read x; stty size");
    bundle.change(|config| config["process"]["consoleSize"] = json!({ "height": 33, "width": 111 }));
    let mut console = start(s, &bundle);
    console.expect("33 111");
    console.resize(44, 122);
    console.type_in("\n");
    console.expect("44 122");
}

fn controlling(s: &Subject) {
    let mut console = start(
        s,
        &with_terminal(s, "echo opened > /dev/tty; awk '{ print \"tty\", ($7 != 0) }' /proc/1/stat"),
    );
    console.expect("opened");
    console.expect("tty 1");
}

fn console_device(s: &Subject) {
    let mut console = start(
        s,
        &with_terminal(s, "echo to the console > /dev/console; stat -c %F /dev/console; sleep 1000"),
    );
    console.expect("to the console");
    console.expect("character special file");
}

fn owner(s: &Subject) {
    let mut bundle =
        with_terminal(s, "stat -c 'owner %u' $(tty); echo x > $(tty) && echo written; sleep 1000");
    bundle.change(|config| config["process"]["user"] = json!({ "uid": 1000, "gid": 1000 }));
    let mut console = start(s, &bundle);
    console.expect("owner 1000");
    console.expect("written");
}

fn userns(s: &Subject) {
    let mut bundle = with_terminal(s, "tty; stat -c 'owner %u' $(tty); echo done; sleep 1000");
    bundle.map_users(600_000_000);
    let mut console = start(s, &bundle);
    console.expect("/dev/pts/0");
    console.expect("owner 0");
    console.expect("done");
}

fn interrupt(s: &Subject) {
    let mut console = start(
        s,
        &with_terminal(s, "trap 'echo interrupted; exit 4' INT; echo ready; while :; do sleep 0.05; done"),
    );
    console.expect("ready");
    console.type_in("\u{3}");
    console.expect("interrupted");
}

fn hang_up(s: &Subject) {
    let mut console =
        start(s, &with_terminal(s, "trap 'exit 0' HUP; echo ready; while :; do sleep 0.05; done"));
    console.expect("ready");
    drop(console);
    wait::until("the container to end", || (s.status() == "stopped").then_some(()));
}

fn without_socket(s: &Subject) {
    let bundle = with_terminal(s, "true");
    s.cmd(["create", "--bundle"]).arg(&bundle.path).arg(s.id()).fails("console");
    s.cmd(["run", "--detach", "--bundle"]).arg(&bundle.path).arg(s.id()).fails("console");
    assert!(s.list().is_empty());
    s.sandbox.assert_no_leaks();
}

fn socket_unasked(s: &Subject) {
    let bundle = s.bundle(&["true"]);
    let socket = ConsoleSocket::listen(s.sandbox.path());
    s.cmd(["create", "--console-socket"])
        .arg(socket.path())
        .arg("--bundle")
        .arg(&bundle.path)
        .arg(s.id())
        .fails("console");
}

fn socket_dead(s: &Subject) {
    let bundle = with_terminal(s, "true");
    s.cmd(["create", "--console-socket", "/nonexistent/sock", "--bundle"])
        .arg(&bundle.path)
        .arg(s.id())
        .fails("/nonexistent/sock");
    assert!(s.list().is_empty());
    s.sandbox.assert_no_leaks();
}

fn exec(s: &Subject) {
    s.sleeper();
    let socket = ConsoleSocket::listen(s.sandbox.path());
    let pid_file = s.sandbox.path().join("exec-pid");
    s.cmd(["exec", "--tty", "--detach", "--console-socket"])
        .arg(socket.path())
        .arg("--pid-file")
        .arg(&pid_file)
        .arg(s.id())
        .args(["sh", "-c", "tty; read line; echo \"got [$line]\""])
        .ok();
    let mut console = socket.accept();
    console.expect("/dev/pts/");
    console.type_in("typed\n");
    console.expect("got [typed]");
    let pid: i32 = std::fs::read_to_string(pid_file).unwrap().parse().unwrap();
    assert_eq!(rkvm_testing::reap::wait_for(pid), 0);
}

fn foreground(s: &Subject) {
    let bundle = with_terminal(s, "tty; read line; echo \"got [$line]\"; exit 6");
    let pty = nix::pty::openpty(None, None).expect("a terminal");
    let mut console = Console::from_master(pty.master);
    let slave = format!("/proc/{}/fd/{}", std::process::id(), pty.slave.as_raw_fd());
    let script = format!(
        "exec setsid --wait --ctty \"$@\" run --bundle {} {} <>{slave} >&0 2>&0",
        bundle.path.display(),
        s.id()
    );
    let running = s.append_runtime(s.sandbox.command("sh").args(["-c", &script, "sh"])).spawn();
    console.expect("/dev/pts/0");
    console.type_in("typed\n");
    console.expect("got [typed]");
    running.wait().expect_code(6);
}
