//! Further processes beside the machine's own, questions, and hosts that misbehave.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod guest_support;

use std::io::{Read, Write};
use std::os::unix::net::UnixStream;

use guest_support::{Guest, LIMIT, shell};
use rkvm_guest_protocol::host::{Connection, ask};
use rkvm_guest_protocol::{Answer, Question, SERVICE_PORT, ToGuest, ToHost, WindowSize};
use rkvm_oci::failure::Failure;
use rkvm_oci::{ExitStatus, KillScope, Signal};
use rkvm_vmm::End;
use serde_json::json;

/// Output of a process with a terminal, until `text` is in it.
fn until(connection: &mut Connection, text: &str) -> String {
    let mut seen = String::new();
    while !seen.contains(text) {
        match connection.wait(LIMIT).unwrap() {
            ToHost::Stdout(bytes) => seen += &String::from_utf8_lossy(&bytes),
            ToHost::StdinTaken(_) => {}
            other => panic!("{other:?} after {seen:?}"),
        }
    }
    seen
}

#[test]
fn several_at_once_each_with_its_own_streams_and_code() {
    let Some(guest) = Guest::boot() else { return };
    let running = guest.start(shell("sleep 1000"));
    std::thread::scope(|scope| {
        for number in 0..8u8 {
            let running = &running;
            scope.spawn(move || {
                let script = format!("cat; echo {number} >&2; exit {number}");
                let input = format!("{number}").repeat(100_000);
                let (status, stdout, stderr) = running.exec_shell(&script, input.as_bytes());
                assert_eq!(status, Ok(ExitStatus::Exited(number)));
                assert!(stdout == input, "{number}: {} bytes", stdout.len());
                assert_eq!(stderr, format!("{number}\n"));
            });
        }
    });
    // In the namespaces of the first, whose processes it sees.
    let (status, stdout, _) =
        running.exec_shell("cat /proc/1/cmdline | tr '\\0' ' '; hostname; kill -9 $$", b"");
    assert_eq!(status, Ok(ExitStatus::Signaled(Signal::KILL)));
    assert!(stdout.contains("sleep 1000") && stdout.ends_with("guest\n"), "{stdout}");
    let mut missing = shell("")["process"].clone();
    missing["args"] = json!(["nonesuch"]);
    let mut connection = running.exec(missing);
    let answer = connection.wait(LIMIT).unwrap();
    assert!(
        matches!(&answer, ToHost::Failed(failure) if matches!(**failure, Failure::Exec { .. })),
        "{answer:?}"
    );
    let (last, end) = running.end();
    assert_eq!((last, end), (ToHost::Ended(ExitStatus::Signaled(Signal::KILL)), End::PowerOff));
}

#[test]
fn a_terminal_has_a_size_and_takes_new_ones_and_control_characters() {
    let Some(guest) = Guest::boot() else { return };
    let running = guest.start(shell("sleep 1000"));
    let mut process = shell("")["process"].clone();
    process["terminal"] = json!(true);
    process["consoleSize"] = json!({"height": 33, "width": 101});
    process["args"] = json!(["/bin/sh"]);
    let mut connection = running.exec(process);
    assert!(matches!(connection.wait(LIMIT).unwrap(), ToHost::Started { .. }));
    let say =
        |connection: &mut Connection, text: &str| connection.send(&ToGuest::Stdin(text.as_bytes().to_vec()));
    say(&mut connection, "stty size; tty\n");
    assert!(until(&mut connection, "/dev/pts/").contains("33 101"));
    connection.send(&ToGuest::Resize(WindowSize { rows: 7, columns: 9 }));
    say(
        &mut connection,
        "stty size; sh -c \"trap 'exit 1' INT; echo re''ady; while :; do :; done\"; echo af''ter\n",
    );
    let seen = until(&mut connection, "ready");
    assert!(seen.contains("7 9"), "{seen}");
    say(&mut connection, "\u{3}");
    say(&mut connection, "exit 5\n");
    loop {
        match connection.wait(LIMIT).unwrap() {
            ToHost::Ended(status) => break assert_eq!(status, ExitStatus::Exited(5)),
            ToHost::Stdout(_) | ToHost::StdinTaken(_) => {}
            other => panic!("{other:?}"),
        }
    }
    running.end();
}

#[test]
fn a_process_that_does_not_read_can_be_signalled_and_one_whose_host_is_gone_ends() {
    let Some(guest) = Guest::boot() else { return };
    let running = guest.start(shell("sleep 1000"));
    let mut deaf = running.exec(shell("exec sleep 1001")["process"].clone());
    for _ in 0..4 {
        deaf.send(&ToGuest::Stdin(vec![b'x'; 64 << 10]));
    }
    deaf.send(&ToGuest::Signal(Signal::TERM, KillScope::Init));
    loop {
        match deaf.wait(LIMIT).unwrap() {
            ToHost::Ended(status) => break assert_eq!(status, ExitStatus::Signaled(Signal::TERM)),
            ToHost::Started { .. } | ToHost::StdinTaken(_) | ToHost::StdinClosed => {}
            other => panic!("{other:?}"),
        }
    }
    let mut left = running.exec(shell("exec sleep 1002")["process"].clone());
    assert!(matches!(left.wait(LIMIT).unwrap(), ToHost::Started { .. }));
    drop(left);
    let begun = std::time::Instant::now();
    while running.exec_shell("ps | grep -c '[s]leep 1002'", b"").1.trim() != "0" {
        assert!(begun.elapsed() < LIMIT, "a process outlives its host's stream");
    }
    running.end();
}

#[test]
fn questions_are_answered() {
    let Some(guest) = Guest::boot() else { return };
    let running = guest.start(shell("sleep 1000"));
    let Answer::Stats(stats) = ask(&running.socket(), Question::Stats, LIMIT).unwrap() else { panic!() };
    assert!(stats.pids_current.is_some_and(|count| count >= 1), "{stats:?}");
    assert!(stats.memory_usage_bytes.is_some_and(|bytes| bytes > 0), "{stats:?}");
    let Answer::Processes(list) = ask(&running.socket(), Question::Processes, LIMIT).unwrap() else {
        panic!()
    };
    assert!(list.iter().any(|process| process.pid == 1 && process.parent == 0), "{list:?}");
    assert!(list.iter().any(|process| process.command.contains("sleep 1000")), "{list:?}");
    let limits = serde_json::from_value(json!({"pids": {"limit": 77}})).unwrap();
    assert_eq!(ask(&running.socket(), Question::Update(Box::new(limits)), LIMIT).unwrap(), Answer::Done);
    let Answer::Stats(stats) = ask(&running.socket(), Question::Stats, LIMIT).unwrap() else { panic!() };
    assert_eq!(stats.pids_limit, Some(77));
    running.end();
}

#[test]
fn init_survives_hosts_that_talk_nonsense() {
    let Some(guest) = Guest::boot() else { return };
    let running = guest.start(shell("sleep 1000"));
    let mut state = 0x9e37_79b9_7f4a_7c15_u64;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state
    };
    for round in 0..40 {
        let mut stream = UnixStream::connect(running.socket()).unwrap();
        stream.set_read_timeout(Some(LIMIT)).unwrap();
        stream.write_all(format!("CONNECT {SERVICE_PORT}\n").as_bytes()).unwrap();
        let mut bytes: Vec<u8> = (0..next() % 200).map(|_| next() as u8).collect();
        if bytes.len() >= 8 && round % 2 == 0 {
            bytes[0] %= 10;
            bytes[1..4].fill(0);
            bytes[5..8].fill(0);
        }
        let mut greeting = [0; 8];
        stream.read_exact(&mut greeting[..3]).unwrap();
        let _ = stream.write_all(&bytes);
        if round % 3 == 0 {
            let _ = stream.shutdown(std::net::Shutdown::Write);
        }
    }
    // A port that nobody listens on.
    let mut stream = UnixStream::connect(running.socket()).unwrap();
    stream.write_all(b"CONNECT 4242\n").unwrap();
    assert_eq!(stream.read(&mut [0; 8]).unwrap(), 0);
    assert_eq!(running.exec_shell("exit 9", b"").0, Ok(ExitStatus::Exited(9)));
    running.end();
}
