//! `rkvm advise` through the real binary: it says what a workload did, and nothing that it did not.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use rkvm_testing::Sandbox;

/// The container's column of a row.
#[track_caller]
fn row<'a>(text: &'a str, name: &str) -> &'a str {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    line.unwrap_or_else(|| panic!("no row {name} in:\n{text}"))
        .trim_start()
        .split("  ")
        .next()
        .unwrap_or_default()
}

fn advise(sandbox: &Sandbox, args: &[&str]) -> String {
    sandbox.load_busybox();
    let text = sandbox.rkvm(["advise", "--run-flag=--network=none"]).args(args).ok().stdout();
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
    text
}

#[test]
fn what_a_workload_does_is_seen() {
    let sandbox = Sandbox::new();
    let program = "head -c 1 /dev/zero >/dev/null; mount -t tmpfs none /mnt; unshare -U true; nc -l -p 8001 & \
        sleep 0.3; cat /proc/self/uid_map";
    let text = advise(&sandbox, &["--ready=exec", "--for=600ms", "busybox", "--", "sh", "-c", program]);
    assert_eq!(row(&text, "outcome"), "became ready");
    assert_eq!(row(&text, "tried to open devices"), "/dev/null, /dev/zero");
    assert_eq!(row(&text, "refused calls"), "mount, unshare");
    assert_eq!(row(&text, "tried to mount"), "tmpfs on /mnt");
    assert_eq!(row(&text, "asked for namespaces"), "user");
    assert!(row(&text, "asked for sockets").contains("AF_INET"), "{text}");
    assert!(row(&text, "tried to bind").contains(":8001"), "{text}");
    assert!(row(&text, "programs executed").contains("/sh"), "{text}");
    assert!(text.contains("the filter refused the only call of mount"), "{text}");
    assert!(text.contains("Calls of write(2)"), "{text}");
}

#[test]
fn what_a_workload_does_not_do_is_not_said_of_it() {
    let sandbox = Sandbox::new();
    let text = advise(&sandbox, &["--ready=exit", "busybox", "--", "true"]);
    assert_eq!(row(&text, "outcome"), "ended with exit code 0");
    let asked = [
        "tried to open devices",
        "tried to mount",
        "asked for namespaces",
        "asked for sockets",
        "tried to bind",
    ];
    for name in asked.into_iter().chain(["refused calls"]) {
        assert_eq!(row(&text, name), "none", "{name}\n{text}");
    }
    assert!(text.contains("The filter refused none of them"), "{text}");
}

#[test]
fn a_program_that_was_not_there_was_not_executed() {
    let sandbox = Sandbox::new();
    let program = "PATH=/no/such/folder:$PATH; /bin/env true; nothing-of-this-name; /no/program; mount -t tmpfs none /mnt; true";
    let text = advise(&sandbox, &["--ready=exit", "busybox", "--", "sh", "-c", program]);
    let programs = text.split_once("programs executed").unwrap().1.split("\n\n").next().unwrap();
    assert!(programs.contains("/sh") && programs.contains("/bin/env"), "{text}");
    assert!(!programs.contains("/no/") && !programs.contains("nothing"), "{text}");
    // What was refused must not be said to have been done.
    for claim in ["mounts  ", "devices opened", "listens on", "It worked", "the same program"] {
        assert!(!text.contains(claim), "{claim}: {text}");
    }
}

#[test]
fn flags_change_what_is_refused() {
    let sandbox = Sandbox::new();
    let args = [
        "--run-flag=--cap-add=SYS_ADMIN",
        "--ready=exit",
        "busybox",
        "--",
        "mount",
        "-t",
        "tmpfs",
        "none",
        "/mnt",
    ];
    let text = advise(&sandbox, &args);
    assert_eq!(row(&text, "refused calls"), "none");
    assert_eq!(row(&text, "tried to mount"), "tmpfs on /mnt");
}

#[test]
fn a_workload_that_fails_everywhere_is_no_advice() {
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    let output = sandbox.rkvm(["advise", "--ready=exit", "busybox", "--", "false"]).run();
    assert_eq!(output.code, 1);
    assert!(output.stdout().contains("It does not work in a container"), "{}", output.stdout());
    let outcome = row(&output.stdout(), "outcome").to_owned();
    assert!(outcome.starts_with("FAILED: ") && !outcome.contains("container: "), "{outcome}");
    sandbox.rkvm(["advise", "--ready=nonsense", "busybox"]).fails("http:PORT[/path]");
    sandbox.rkvm(["advise", "registry.invalid/nothing:1"]).fails("registry.invalid/nothing:1");
}
