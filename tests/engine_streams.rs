//! Standard streams, logs and terminals.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::os::fd::OwnedFd;
use std::process::{Command, Stdio};

use nix::pty::openpty;
use nix::sys::signal::{Signal, kill};
use nix::sys::termios::{LocalFlags, tcgetattr};
use nix::unistd::Pid;
use rkvm_testing::{Console, Isolation, Sandbox, binary, in_both_isolations, wait};

in_both_isolations! {
    both_outputs_are_kept_apart_and_a_large_input_comes_back_whole,
    logs_have_both_streams_tail_times_and_follow,
    a_log_is_rotated_and_can_be_off,
    two_clients_see_the_same_and_the_exit_code,
    a_terminal_is_raw_resized_and_restored,
    detach_keys_leave_it_running_and_attach_comes_back,
    a_client_that_is_told_to_end_restores_its_terminal,
    a_terminal_is_not_passed_on_where_there_is_none,
}

fn sandbox(isolation: Isolation) -> Sandbox {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    sandbox
}

/// `rkvm ARGS` on a terminal of its own.
struct OnTerminal {
    child: std::process::Child,
    console: Console,
    slave: OwnedFd,
}

impl OnTerminal {
    fn spawn(sandbox: &Sandbox, args: &[&str]) -> Self {
        let pty = openpty(None, None).unwrap();
        let end = || Stdio::from(pty.slave.try_clone().unwrap());
        let child = Command::new(binary("rkvm"))
            .args(sandbox.isolated(args))
            .env("RKVM_ROOT", sandbox.root())
            .stdin(end())
            .stdout(end())
            .stderr(end())
            .spawn()
            .unwrap();
        Self { child, console: Console::from_master(pty.master), slave: pty.slave }
    }

    fn is_raw(&self) -> bool {
        !tcgetattr(&self.slave).unwrap().local_flags.contains(LocalFlags::ICANON)
    }

    fn end(mut self) -> i32 {
        let status = wait::until("the client", || self.child.try_wait().unwrap());
        assert!(!self.is_raw(), "the terminal must be as it was");
        use std::os::unix::process::ExitStatusExt;
        status.code().unwrap_or_else(|| 128 + status.signal().unwrap())
    }
}

fn both_outputs_are_kept_apart_and_a_large_input_comes_back_whole(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let run = sandbox
        .rkvm(["run", "--rm", "--network", "none", "busybox", "sh", "-c", "echo out; echo err >&2"])
        .ok();
    assert_eq!((run.text().as_str(), run.stderr().trim()), ("out", "err"));
    let bytes: Vec<u8> = (0..2_000_000_u32).map(|n| b'a' + (n % 26) as u8).collect();
    let cat =
        sandbox.rkvm(["run", "-i", "--rm", "--network", "none", "busybox", "cat"]).stdin(bytes.clone()).ok();
    assert!(cat.stdout().as_bytes() == bytes, "{} bytes came back", cat.stdout().len());
    let deaf = sandbox.rkvm(["run", "--rm", "--network", "none", "busybox", "cat"]).stdin("ignored").ok();
    assert_eq!(deaf.text(), "", "without -i there is no input");
}

fn logs_have_both_streams_tail_times_and_follow(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let script = "for i in 1 2 3; do echo line $i; done; echo oops >&2; sleep 1; echo late";
    sandbox.rkvm(["run", "-d", "--network", "none", "--name", "log", "busybox", "sh", "-c", script]).ok();
    let follow = sandbox.rkvm(["logs", "-f", "log"]).ok();
    assert_eq!(follow.text(), "line 1\nline 2\nline 3\nlate");
    assert_eq!(follow.stderr().trim(), "oops");
    assert_eq!(sandbox.rkvm(["logs", "--tail", "1", "log"]).ok().text(), "late");
    assert_eq!(sandbox.rkvm(["logs", "--since", "1h", "-n", "1", "log"]).ok().text(), "late");
    assert_eq!(sandbox.rkvm(["logs", "--until", "1h", "log"]).ok().text(), "");
    let stamped = sandbox.rkvm(["logs", "-t", "-n", "1", "log"]).ok().text();
    assert!(stamped.starts_with("20") && stamped.ends_with("Z late"), "{stamped}");
    sandbox.rkvm(["logs", "--since", "whenever", "log"]).fails("whenever");
    sandbox.rkvm(["logs", "--tail", "some", "log"]).fails("some");
    sandbox.rkvm(["rm", "log"]).ok();
}

fn a_log_is_rotated_and_can_be_off(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let script = "i=0; while [ $i -lt 500 ]; do echo line $i; i=$((i+1)); done";
    let rotate = ["--log-opt", "max-size=4k", "--log-opt", "max-file=3"];
    sandbox
        .rkvm(["run", "--network", "none", "--name", "rot"])
        .args(rotate)
        .args(["busybox", "sh", "-c", script])
        .ok();
    let text = sandbox.rkvm(["logs", "rot"]).ok().text();
    assert!(text.ends_with("line 499") && !text.contains("line 0\n"), "{text}");
    sandbox
        .rkvm(["run", "--network", "none", "--name", "off", "--log-driver", "none", "busybox", "echo", "x"])
        .ok();
    sandbox.rkvm(["logs", "off"]).fails("keeps no log");
    sandbox.rkvm(["rm", "rot", "off"]).ok();
}

fn two_clients_see_the_same_and_the_exit_code(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let script = "until read -t 1 line; do echo waits; done; echo got $line; exit 4";
    sandbox
        .rkvm(["run", "-d", "-i", "--network", "none", "--name", "both", "busybox", "sh", "-c", script])
        .ok();
    let watcher = sandbox.rkvm(["attach", "--no-stdin", "both"]).spawn();
    wait::until("the watcher to be connected", || watcher.stdout().contains("waits").then_some(()));
    let feeder = sandbox.rkvm(["attach", "both"]).stdin("hello\n").run().expect_code(4);
    for output in [feeder, watcher.wait().expect_code(4)] {
        assert_eq!(output.text().lines().last(), Some("got hello"), "{output}");
    }
    sandbox.rkvm(["attach", "both"]).fails("start it first");
    sandbox.rkvm(["rm", "both"]).ok();
}

fn a_terminal_is_raw_resized_and_restored(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let run = ["run", "-it", "--rm", "--network", "none", "busybox", "sh"];
    let mut client = OnTerminal::spawn(&sandbox, &run);
    client.console.expect("# ");
    assert!(client.is_raw());
    client.console.type_in("tty; echo $TERM\n");
    client.console.expect("/dev/pts/0");
    client.console.expect("xterm");
    client.console.resize(33, 101);
    kill(Pid::from_raw(client.child.id() as i32), Signal::SIGWINCH).unwrap();
    client.console.type_in("sleep 1; stty size\n");
    client.console.expect("33 101");
    client.console.type_in("exit 12\n");
    assert_eq!(client.end(), 12);
}

fn detach_keys_leave_it_running_and_attach_comes_back(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let mut client =
        OnTerminal::spawn(&sandbox, &["run", "-it", "--name", "shell", "--network", "none", "busybox", "sh"]);
    client.console.expect("# ");
    client.console.type_in("\x10\x11");
    assert_eq!(client.end(), 0);
    assert_eq!(sandbox.rkvm(["ps", "-q"]).ok().text().lines().count(), 1);
    let mut again = OnTerminal::spawn(&sandbox, &["attach", "--detach-keys", "ctrl-x", "shell"]);
    again.console.type_in("echo he''re\n");
    again.console.expect("here");
    again.console.type_in("\x18");
    assert_eq!(again.end(), 0);
    let mut exec = OnTerminal::spawn(&sandbox, &["exec", "-it", "shell", "sh", "-c", "tty; exit 3"]);
    exec.console.expect("/dev/pts/1");
    assert_eq!(exec.end(), 3);
    sandbox.rkvm(["rm", "-f", "shell"]).ok();
}

fn a_client_that_is_told_to_end_restores_its_terminal(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let mut client =
        OnTerminal::spawn(&sandbox, &["run", "-it", "--name", "term", "--network", "none", "busybox", "sh"]);
    client.console.expect("# ");
    kill(Pid::from_raw(client.child.id() as i32), Signal::SIGTERM).unwrap();
    assert_eq!(client.end(), 143);
    assert_eq!(sandbox.rkvm(["ps", "-q"]).ok().text().lines().count(), 1);
    sandbox.rkvm(["rm", "-f", "term"]).ok();
}

fn a_terminal_is_not_passed_on_where_there_is_none(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    sandbox.rkvm(["run", "-it", "--rm", "busybox", "true"]).fails("not a terminal");
    assert!(sandbox.rkvm(["ps", "-aq"]).ok().text().is_empty());
}
