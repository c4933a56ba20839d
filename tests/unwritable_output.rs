//! Commands whose output nobody takes: a full disk is an error that is told, a reader that has gone is none, and neither is a panic.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use rkvm_testing::{Output, Sandbox, binary};

/// Runs `line` (sh), in which `rkvm` and `oci` are the binaries.
fn sh(sandbox: &Sandbox, line: &str) -> Output {
    let functions = format!(
        "rkvm() {{ {} \"$@\"; }}; oci() {{ {} --root {} \"$@\"; }}",
        binary("rkvm").display(),
        binary("rkvm-oci").display(),
        sandbox.oci_root().display()
    );
    // bash, for PIPESTATUS.
    sandbox
        .command("bash")
        .env("RKVM_ROOT", sandbox.root())
        .args(["-c", &format!("{functions}; {line}")])
        .run()
}

/// Commands that only show something.
const SHOWS: [&str; 24] = [
    "oci list",
    "oci list -q",
    "oci list --format json",
    "oci --version",
    "oci features",
    "oci state ID",
    "oci ps ID",
    "oci ps --format json ID",
    "oci events --stats ID",
    "rkvm ps",
    "rkvm ps -aq",
    "rkvm images",
    "rkvm images -q",
    "rkvm image inspect busybox",
    "rkvm inspect busybox",
    "rkvm info",
    "rkvm version",
    "rkvm features",
    "rkvm volume ls",
    "rkvm system df",
    "rkvm image ls",
    "rkvm completion bash",
    "rkvm create busybox",
    "rkvm load -i ARCHIVE",
];

/// A sandbox with an image and a running container of `rkvm-oci`.
fn sandbox() -> (Sandbox, impl Fn(&str) -> String) {
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    let bundle = sandbox.bundle("c", &["sleep", "1000"]);
    rkvm_testing::reap::become_subreaper();
    let id = sandbox.id("c");
    sandbox.oci(["create", "--bundle"]).arg(&bundle.path).arg(&id).ok();
    sandbox.oci(["start", &id]).ok();
    sandbox.rkvm(["create", "--name", "kept", "busybox"]).ok();
    let archive = rkvm_testing::busybox_archive().display().to_string();
    (sandbox, move |line: &str| line.replace("ID", &id).replace("ARCHIVE", &archive))
}

fn clean(sandbox: &Sandbox) {
    sandbox.oci(["delete", "--force", &sandbox.id("c")]).ok();
    for id in sandbox.rkvm(["ps", "-aq"]).ok().text().lines() {
        sandbox.rkvm(["rm", "-f", id]).ok();
    }
}

#[test]
fn a_full_disk_is_told() {
    let (sandbox, fill) = sandbox();
    for line in SHOWS {
        let output = sh(&sandbox, &format!("{} > /dev/full", fill(line)));
        let stderr = output.stderr();
        assert!(stderr.contains("standard output") && stderr.contains("No space left"), "{line}: {output}");
        assert!(!stderr.contains("panicked"), "{line}: {output}");
        let expected = if line == "rkvm create busybox" { 125 } else { 1 };
        assert_eq!(output.code, expected, "{line}: {output}");
    }
    // What was asked for is done, all of it, before the code says that not everything was.
    for name in ["one", "two"] {
        sandbox.rkvm(["create", "--name", name, "busybox"]).ok();
    }
    assert_eq!(sh(&sandbox, "rkvm rm one two > /dev/full").code, 1);
    sandbox.rkvm(["inspect", "one"]).fails("one");
    sandbox.rkvm(["inspect", "two"]).fails("two");
    clean(&sandbox);
}

#[test]
fn output_of_a_container_that_cannot_be_written_is_told_and_no_success() {
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    sandbox.rkvm(["run", "-d", "--network", "none", "--name", "there", "busybox", "sleep", "1000"]).ok();
    for command in ["run --network none --rm busybox", "exec there"] {
        let full = |program: &str, end: &str| sh(&sandbox, &format!("rkvm {command} {program} {end}"));
        let output = full("echo words", "> /dev/full");
        assert_eq!(output.code, 125, "{command}: {output}");
        let told = output.stderr().matches("cannot write to standard output: No space left").count();
        assert_eq!(told, 1, "{command}: {output}");
        // The program goes on to its end, and its own failure comes first.
        assert_eq!(full("sh -c 'echo words; exit 7'", "> /dev/full").code, 7);
        assert_eq!(full("sh -c 'echo words >&2'", "2> /dev/full").code, 125);
        // Nothing was written, so nothing is lost; nor when the reader has what it wanted.
        assert_eq!(full("true", "> /dev/full").code, 0);
        assert_eq!(full("seq 100000", "| head -1; exit ${PIPESTATUS[1]}").text(), "1");
    }
    sandbox.rkvm(["rm", "-f", "there"]).ok();
}

#[test]
fn a_reader_that_has_gone_is_no_error() {
    let (sandbox, fill) = sandbox();
    for line in SHOWS {
        // The reader has ended before anything is written.
        let output =
            sh(&sandbox, &format!("{{ sleep 0.1; {}; }} | true; exit ${{PIPESTATUS[0]}}", fill(line)));
        assert_eq!((output.code, output.stderr().as_str()), (0, ""), "{line}: {output}");
    }
    clean(&sandbox);
}

#[test]
fn errors_that_nobody_takes_keep_their_exit_codes() {
    let (sandbox, _) = sandbox();
    for (line, code) in [
        ("oci state nothing", 1),
        ("oci --nonsense", 1),
        ("rkvm inspect nothing", 1),
        ("rkvm --nonsense", 125),
        ("rkvm run --network none --rm busybox nothing", 127),
        ("rkvm run --network none --rm --no-such-flag busybox", 125),
        ("rkvm rm nothing", 1),
        ("rkvm wait nothing", 1),
        ("rkvm run --network none --rm --timings busybox true", 0),
        ("rkvm run --network none --rm --init busybox nothing", 127),
    ] {
        for end in ["2> /dev/full", "2>&-", "> /dev/full 2>&1"] {
            let output = sh(&sandbox, &format!("{line} {end}"));
            assert_eq!(output.code, code, "{line} {end}: {output}");
        }
        let output = sh(&sandbox, &format!("{{ sleep 0.1; {line}; }} 2>&1 | true; exit ${{PIPESTATUS[0]}}"));
        assert_eq!(output.code, code, "{line}, a closed pipe: {output}");
    }
    clean(&sandbox);
}
