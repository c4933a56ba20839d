//! What a microVM takes of its host, and how that follows what its guest uses and what its limits say.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::time::Duration;

use rkvm_testing::{Isolation, Output, Sandbox, has_vms, wait};

fn sandbox() -> Option<Sandbox> {
    has_vms().then(|| {
        let sandbox = Sandbox::of(Isolation::Vm);
        sandbox.load_busybox();
        sandbox
    })
}

fn inside(sandbox: &Sandbox, name: &str, script: &str) -> Output {
    sandbox.rkvm(["exec", name, "sh", "-c", script]).limit(Duration::from_secs(120)).run()
}

/// Anonymous memory of the machine's process that the host holds, MiB: the guest's memory, nearly.
fn resident_mib(sandbox: &Sandbox, name: &str) -> u64 {
    let pid = sandbox.rkvm(["inspect", "--format", "{{.State.Pid}}", name]).ok().text();
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap() >> 10
}

#[test]
fn memory_that_a_guest_frees_goes_back_to_the_host() {
    let Some(sandbox) = sandbox() else { return };
    let machine = ["run", "-d", "--network", "none", "--shm-size", "200m", "-m", "300m", "--name", "box"];
    sandbox.rkvm(machine).args(["busybox", "sleep", "1000"]).ok();
    let before = resident_mib(&sandbox, "box");
    let fill = "dd if=/dev/urandom of=/dev/shm/x bs=1M count=150 && sha256sum /dev/shm/x";
    inside(&sandbox, "box", fill).expect_code(0);
    let full = resident_mib(&sandbox, "box");
    assert!(full >= before + 120, "{before} MiB, then {full} MiB");
    inside(&sandbox, "box", "rm /dev/shm/x").expect_code(0);
    wait::until("the host to get the memory back", || {
        (resident_mib(&sandbox, "box") <= before + 50).then_some(())
    });
    // What has been given back is there again when it is wanted, and holds what is written to it.
    let script = "for turn in 1 2 3; do dd if=/dev/urandom of=/dev/shm/x bs=1M count=100 2>/dev/null; sha256sum </dev/shm/x >/tmp/a; \
                  cp /dev/shm/x /dev/shm/y; rm /dev/shm/x; sleep 1; sha256sum </dev/shm/y >/tmp/b; rm /dev/shm/y; cmp /tmp/a /tmp/b || exit 1; done";
    inside(&sandbox, "box", script).expect_code(0);
    sandbox.rkvm(["rm", "-f", "box"]).ok();
}

/// Above 1 GiB a kernel may use larger pages for its own map of memory, and above 3 GiB memory goes on behind the gap for devices.
#[test]
fn a_machine_has_the_memory_that_it_was_given_whatever_its_size() {
    let Some(sandbox) = sandbox() else { return };
    for mib in [32_u64, 1500, 3 << 10, 6 << 10] {
        let memory = format!("{mib}m");
        let script = "grep MemTotal /proc/meminfo && dd if=/dev/urandom of=/tmp/x bs=64k count=64 2>/dev/null && \
                      cp /tmp/x /tmp/y && cmp /tmp/x /tmp/y && echo same";
        let run = ["run", "--rm", "--network", "none", "--tmpfs", "/tmp", "--memory", &memory];
        let told = sandbox.rkvm(run).args(["busybox", "sh", "-c", script]).ok().text();
        let total = told.split_whitespace().nth(1).and_then(|kib| kib.parse::<u64>().ok()).unwrap() >> 10;
        assert!((mib * 95 / 100..mib + 64).contains(&total), "{memory}: {told}");
        assert!(told.ends_with("same"), "{told}");
    }
}

#[test]
fn a_machine_that_runs_is_limited_up_to_its_size_and_not_beyond() {
    let Some(sandbox) = sandbox() else { return };
    sandbox.rkvm(["run", "-d", "--network", "none", "--name", "box", "busybox", "sleep", "1000"]).ok();
    let shown = || sandbox.rkvm(["stats", "--no-stream", "--format", "{{.MemUsage}}", "box"]).ok().text();
    assert!(shown().ends_with("/ 256MiB"), "{}", shown());
    let processors = sandbox.rkvm(["update", "--cpus", "1.5", "box"]).fails("1 processor");
    assert!(processors.stderr().contains("1.5"), "{processors}");
    let memory = sandbox.rkvm(["update", "--memory", "300m", "box"]).fails("256 MiB");
    assert!(memory.stderr().contains("300 MiB"), "{memory}");
    sandbox.rkvm(["update", "--memory", "64m", "box"]).ok();
    assert!(shown().ends_with("/ 64MiB"), "{}", shown());
    // The limit holds inside: whoever takes more is killed, and nobody else.
    assert_eq!(inside(&sandbox, "box", "head -c 100m /dev/zero | tail").code, 137);
    assert_eq!(inside(&sandbox, "box", "echo up").expect_code(0).text(), "up");
    sandbox.rkvm(["rm", "-f", "box"]).ok();
}

#[test]
fn a_share_of_a_processor_is_no_more_than_that() {
    let Some(sandbox) = sandbox() else { return };
    let spin = ["busybox", "sh", "-c", "while :; do :; done"];
    sandbox.rkvm(["run", "-d", "--network", "none", "--cpus", "0.1", "--name", "box"]).args(spin).ok();
    let percent = || {
        let shown = sandbox.rkvm(["stats", "--no-stream", "--format", "{{.CPUPerc}}", "box"]).ok().text();
        shown.trim_end_matches('%').parse::<f64>().unwrap()
    };
    // The host counts the time, so nothing that others do can make it more.
    let tenth = percent();
    assert!((1.0..20.0).contains(&tenth), "{tenth}");
    sandbox.rkvm(["update", "--cpus", "1", "box"]).ok();
    wait::until("more than the quota was", || (percent() > 1.5 * tenth.max(10.0)).then_some(()));
    sandbox.rkvm(["update", "--cpus", "0.05", "box"]).ok();
    wait::until("the new quota to hold", || (percent() < 9.0).then_some(()));
    sandbox.rkvm(["rm", "-f", "box"]).ok();
}
