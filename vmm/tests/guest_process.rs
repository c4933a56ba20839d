//! The machine's own process: streams, errors, limits, and what the container inside makes of config.json.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod guest_support;

use guest_support::{Guest, setup, shell};
use rkvm_guest_protocol::SeccompProgram;
use rkvm_oci::failure::Failure;
use rkvm_oci::{ExecFailure, ExitStatus, Signal};
use rkvm_vmm::End;
use serde_json::json;

#[test]
fn input_comes_back_whole_and_its_end_is_seen() {
    let Some(guest) = Guest::boot() else { return };
    // More than the window, the buffers and the device's credit together.
    let input: Vec<u8> = (0..300_000u32).flat_map(|number| format!("{number:07}\n").into_bytes()).collect();
    let run = guest.run_with(setup(shell("cat; echo end >&2")), &input);
    assert_eq!(run.status, Ok(ExitStatus::Exited(0)));
    assert_eq!(run.stderr, "end\n");
    assert!(run.stdout.as_bytes() == input, "{} of {} bytes", run.stdout.len(), input.len());
}

#[test]
fn input_that_nobody_reads_holds_nothing_up() {
    let Some(guest) = Guest::boot() else { return };
    let run = guest
        .run_with(setup(shell("exec <&-; head -c 3000000 /dev/zero | tr '\\0' x; exit 3")), &[b'i'; 1 << 20]);
    assert_eq!(run.status, Ok(ExitStatus::Exited(3)));
    assert_eq!(run.stdout.len(), 3_000_000);
}

#[test]
fn programs_that_cannot_run_are_told_apart() {
    for (program, code) in
        [("missing", 127), ("/etc/not-a-program", 126), ("/etc", 126), ("/bin/nothing", 127)]
    {
        let Some(guest) = Guest::boot() else { return };
        let mut spec = shell("");
        spec["process"]["args"] = json!([program]);
        let run = guest.run(spec);
        let Err(Failure::Exec { program: named, failure }) = run.status else { panic!("{:?}", run.status) };
        assert_eq!((named.as_str(), failure.exit_code()), (program, code));
        assert_eq!(matches!(failure, ExecFailure::NotFound), code == 127);
        assert_eq!(run.end, End::PowerOff);
    }
}

#[test]
fn what_cannot_be_set_up_is_named_and_ends_the_machine() {
    let Some(guest) = Guest::boot() else { return };
    let mut spec = shell("true");
    spec["mounts"][3]["type"] = json!("nonesuch");
    let run = guest.run(spec);
    let Err(Failure::Failed { target, .. }) = run.status else { panic!("{:?}", run.status) };
    assert_eq!((target.as_str(), run.end), ("/sys", End::PowerOff));
}

#[test]
fn a_signal_that_ends_the_process_is_told() {
    let Some(guest) = Guest::boot() else { return };
    // A first process of a namespace is only ended by a signal of its own making if it has no default to be protected from.
    let running = guest.start(shell("sleep 1000"));
    let (last, end) = running.end();
    assert_eq!(last, rkvm_guest_protocol::ToHost::Ended(ExitStatus::Signaled(Signal::KILL)));
    assert_eq!(end, End::PowerOff);
}

#[test]
fn the_container_inside_is_what_config_json_says() {
    let Some(guest) = Guest::boot() else { return };
    let mut spec = shell(
        "hostname; cat /proc/sys/kernel/domainname /proc/sys/net/ipv4/ip_default_ttl; id -u; id -G; umask; pwd; \
         echo $$; ulimit -n; grep -E '^(CapEff|CapBnd|NoNewPrivs|Seccomp):' /proc/self/status | tr -d '\\t'; \
         cat /proc/self/oom_score_adj; ls /sys/firmware | wc -l; (echo x > /proc/sys/kernel/hostname) 2>&1 | tail -c 22; \
         touch /x 2>&1 | tail -c 23; ls /dev | tr '\\n' ' '; readlink /dev/fd /dev/ptmx; \
         ip -o link show lo | grep -c UP; mkdir /tmp/d 2>&1; mount -t tmpfs none /tmp 2>&1 | tail -c 24",
    );
    spec["domainname"] = json!("domain");
    spec["root"]["readonly"] = json!(true);
    spec["process"]["user"] = json!({"uid": 1000, "gid": 1000, "additionalGids": [7, 8], "umask": 63});
    spec["process"]["cwd"] = json!("/home/user");
    spec["process"]["noNewPrivileges"] = json!(true);
    spec["process"]["oomScoreAdj"] = json!(100);
    spec["process"]["capabilities"] = json!({"bounding": ["CAP_CHOWN"], "permitted": [], "effective": []});
    spec["process"]["rlimits"] = json!([{"type": "RLIMIT_NOFILE", "soft": 100, "hard": 200}]);
    spec["linux"]["sysctl"] = json!({"net.ipv4.ip_default_ttl": "42"});
    spec["linux"]["maskedPaths"] = json!(["/sys/firmware"]);
    spec["linux"]["readonlyPaths"] = json!(["/proc/sys"]);
    // mkdir(2) fails with ENOTUNIQ: code, jt, jf, k of `ld nr; jeq mkdir; ret errno; ret allow`.
    spec["linux"]["seccomp"] = json!({"defaultAction": "SCMP_ACT_ALLOW"});
    let mut setup = setup(spec);
    let instructions =
        vec![(0x20, 0, 0, 0), (0x15, 0, 1, 83), (0x06, 0, 0, 0x0005_004c), (0x06, 0, 0, 0x7fff_0000)];
    setup.seccomp = Some(SeccompProgram { instructions });
    let run = guest.run_with(setup, b"");
    assert_eq!(run.status, Ok(ExitStatus::Exited(0)), "{}{}", run.stdout, run.stderr);
    let lines: Vec<&str> = run.stdout.lines().collect();
    let expected = [
        "guest",
        "domain",
        "42",
        "1000",
        "1000 7 8",
        "0077",
        "/home/user",
        "1",
        "100",
        "CapEff:0000000000000000",
        "CapBnd:0000000000000001",
        "NoNewPrivs:1",
        "Seccomp:2",
        "100",
        "0",
    ];
    assert_eq!(lines[..expected.len()], expected, "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.contains("Read-only file system"), "{}", run.stdout);
    for name in [
        "console", "fd", "full", "null", "ptmx", "pts", "random", "stderr", "stdin", "stdout", "tty",
        "urandom", "zero",
    ] {
        let found = run.stdout.contains(&format!("{name} ")) || name == "console";
        assert!(found, "/dev/{name} is missing: {}", run.stdout);
    }
    assert!(run.stdout.contains("Name not unique"), "{}", run.stdout);
}

#[test]
fn limits_of_the_cgroup_hold_inside() {
    let Some(guest) = Guest::boot() else { return };
    let mut spec = shell(
        "cat /sys/fs/cgroup/pids.max /sys/fs/cgroup/memory.max /sys/fs/cgroup/cpu.max; echo > /dev/full; \
        dd if=/dev/zero of=/dev/null bs=60M count=1 && echo 60000000; echo alive",
    );
    spec["mounts"].as_array_mut().unwrap().push(json!({"destination": "/sys/fs/cgroup", "type": "cgroup",
        "source": "cgroup", "options": ["ro", "nosuid", "noexec", "nodev"]}));
    spec["linux"]["resources"] = json!({"pids": {"limit": 50}, "memory": {"limit": 33_554_432},
        "cpu": {"quota": 50000, "period": 100_000}});
    let run = guest.run(spec);
    assert!(run.stdout.starts_with("50\n33554432\n50000 100000\n"), "{}{}", run.stdout, run.stderr);
    assert!(run.stdout.ends_with("alive\n") && !run.stdout.contains("60000000"), "{}", run.stdout);
}
