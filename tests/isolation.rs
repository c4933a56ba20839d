//! Isolation of the engine's containers: every namespace seen from inside and outside, users, capabilities, mounts.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::MetadataExt;

use rkvm_testing::{Sandbox, wait};

const KINDS: [&str; 7] = ["pid", "net", "mnt", "uts", "ipc", "user", "cgroup"];

fn sandbox() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    sandbox
}

/// Starts `sleep` as container `name` with `flags`; its init's process id on the host.
fn sleeper(sandbox: &Sandbox, name: &str, flags: &[&str]) -> String {
    sandbox.rkvm(["run", "-d", "--name", name]).args(flags).args(["busybox", "sleep", "1000"]).ok();
    sandbox.rkvm(["inspect", "--format", "{{.State.Pid}}", name]).ok().text()
}

fn namespaces(pid: &str) -> Vec<String> {
    KINDS.map(|kind| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap().display().to_string()).to_vec()
}

fn run(sandbox: &Sandbox, flags: &[&str], script: &str) -> String {
    sandbox.rkvm(["run", "--rm"]).args(flags).args(["busybox", "sh", "-c", script]).ok().text()
}

fn remove_all(sandbox: &Sandbox) {
    let ids = sandbox.rkvm(["ps", "-aq"]).ok().stdout();
    sandbox.rkvm(["rm", "-f"]).args(ids.lines()).ok();
}

#[test]
fn every_namespace_is_its_own() {
    let sandbox = sandbox();
    let (one, two) = (sleeper(&sandbox, "one", &[]), sleeper(&sandbox, "two", &[]));
    let (host, one, two) = (namespaces("self"), namespaces(&one), namespaces(&two));
    for (index, kind) in KINDS.iter().enumerate() {
        assert_ne!(host[index], one[index], "{kind} is the host's");
        assert_ne!(one[index], two[index], "{kind} is another container's");
        // From inside it is the same one that is seen from outside.
        let inside = sandbox.rkvm(["exec", "one", "readlink", &format!("/proc/1/ns/{kind}")]).ok().text();
        assert_eq!(inside, one[index], "{kind}");
        let by_exec = sandbox.rkvm(["exec", "one", "readlink", &format!("/proc/self/ns/{kind}")]).ok().text();
        assert_eq!(by_exec, one[index], "{kind} of exec");
    }
    remove_all(&sandbox);
}

#[test]
fn root_inside_is_an_unprivileged_user_outside() {
    let sandbox = sandbox();
    let mut bases = vec![];
    for name in ["one", "two"] {
        let pid = sleeper(&sandbox, name, &[]);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let uids = status.lines().find_map(|line| line.strip_prefix("Uid:")).unwrap();
        let uid: u32 = uids.split_whitespace().next().unwrap().parse().unwrap();
        assert!((524_288..=1_879_048_191).contains(&uid), "{uid} is not in the container range");
        assert_eq!(uid % 65_536, 0);
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
        assert_eq!(map.split_whitespace().collect::<Vec<_>>(), ["0", &uid.to_string(), "65536"]);
        bases.push(uid);
    }
    assert_ne!(bases[0], bases[1], "two containers share their users");
    assert_eq!(sandbox.rkvm(["exec", "one", "id", "-u"]).ok().text(), "0");
    remove_all(&sandbox);
}

#[test]
fn other_processes_cannot_be_seen_or_signaled() {
    let sandbox = sandbox();
    let host = std::process::id();
    let said =
        run(&sandbox, &[], &format!("ps -o pid,comm; kill -0 {host} 2>/dev/null && echo reached; echo $$"));
    assert!(said.lines().count() <= 5 && !said.contains("reached"), "{said}");
    assert!(said.ends_with('1'), "{said}");
}

#[test]
fn with_an_init_the_program_is_not_the_first_process_and_orphans_are_reaped() {
    let sandbox = sandbox();
    let script = "echo $$; (sleep 0.1 &) ; sleep 1; grep -l 'State:.Z' /proc/[0-9]*/status | wc -l";
    let said = run(&sandbox, &["--init"], script);
    let lines: Vec<_> = said.lines().collect();
    assert_ne!(lines[0], "1");
    assert_eq!(lines[1], "0", "a zombie is left");
}

#[test]
fn networks() {
    let sandbox = sandbox();
    let links = "ls /sys/class/net | tr '\\n' ' '";
    assert_eq!(run(&sandbox, &["--network", "none"], links), "lo");
    assert_eq!(run(&sandbox, &[], links), "eth0 lo");
    let host: Vec<_> =
        fs::read_dir("/sys/class/net").unwrap().map(|entry| entry.unwrap().file_name()).collect();
    let seen = run(&sandbox, &["--network", "host"], links);
    for name in host.iter().filter_map(|name| name.to_str()).filter(|name| matches!(*name, "lo" | "eth0")) {
        assert!(seen.split(' ').any(|one| one == name), "{name} of the host: {seen}");
    }
    let pid = sleeper(&sandbox, "one", &[]);
    let own = fs::read_link(format!("/proc/{pid}/ns/net")).unwrap().display().to_string();
    assert_eq!(run(&sandbox, &["--network", "container:one"], "readlink /proc/self/ns/net"), own);
    remove_all(&sandbox);
}

#[test]
fn names() {
    let sandbox = sandbox();
    let host = fs::read_to_string("/proc/sys/kernel/hostname").unwrap();
    assert_eq!(
        run(&sandbox, &["--hostname", "given"], "hostname; grep -c given /etc/hosts; cat /etc/hostname"),
        "given\n1\ngiven"
    );
    let id = sandbox.rkvm(["run", "-d", "--name", "one", "busybox", "sleep", "1000"]).ok().text();
    assert_eq!(sandbox.rkvm(["exec", "one", "hostname"]).ok().text(), id[..12]);
    assert_eq!(fs::read_to_string("/proc/sys/kernel/hostname").unwrap(), host);
    remove_all(&sandbox);
}

#[test]
fn capabilities_are_dockers_default() {
    let sandbox = sandbox();
    let bounding = |flags: &[&str]| {
        run(&sandbox, flags, "grep CapBnd /proc/self/status").split_whitespace().last().unwrap().to_owned()
    };
    assert_eq!(bounding(&[]), "00000000a80425fb");
    assert_eq!(bounding(&["--cap-drop", "ALL"]), "0000000000000000");
    assert_eq!(bounding(&["--cap-drop", "ALL", "--cap-add", "NET_BIND_SERVICE"]), "0000000000000400");
    assert_eq!(bounding(&["--cap-add", "SYS_PTRACE"]), "00000000a80c25fb");
}

#[test]
fn system_calls_are_filtered_by_default() {
    let sandbox = sandbox();
    let seccomp = "grep Seccomp: /proc/self/status";
    assert!(run(&sandbox, &[], seccomp).ends_with('2'));
    assert!(run(&sandbox, &["--security-opt", "seccomp=unconfined"], seccomp).ends_with('0'));
    // Making a user namespace is one of the calls that Docker's profile withholds.
    let denied = run(&sandbox, &[], "unshare -U true 2>&1; echo $?");
    assert!(denied.ends_with('1') && denied.contains("not permitted"), "{denied}");
}

#[test]
fn privileges_are_not_gained_when_that_is_asked_for() {
    let sandbox = sandbox();
    let flag = "grep NoNewPrivs /proc/self/status";
    assert!(run(&sandbox, &["--security-opt", "no-new-privileges"], flag).ends_with('1'));
    assert!(run(&sandbox, &[], flag).ends_with('0'));
}

#[test]
fn the_kernels_files_are_out_of_reach() {
    let sandbox = sandbox();
    let script = "for f in /proc/sysrq-trigger /proc/sys/kernel/core_pattern /sys/kernel/mm/ksm/run; do \
                  [ ! -e $f ] || (echo x > $f) 2>/dev/null && [ -e $f ] && echo wrote $f; done; \
                  cat /proc/kcore /proc/timer_list /proc/keys 2>/dev/null | wc -c; ls /proc/scsi /sys/firmware 2>/dev/null | grep -v : | wc -w";
    assert_eq!(run(&sandbox, &[], script), "0\n0");
}

#[test]
fn a_bind_mount_has_the_users_that_the_container_has() {
    let sandbox = sandbox();
    let folder = sandbox.path().join("shared");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("root-owned"), "x").unwrap();
    let volume = format!("{}:/data", folder.display());
    let script = "touch /data/by-root; su user -c 'touch /tmp/x'; mkdir /data/d; chown 1000:1000 /data/d; stat -c %u /data/root-owned";
    assert_eq!(run(&sandbox, &["-v", &volume], script), "0");
    assert_eq!(fs::metadata(folder.join("by-root")).unwrap().uid(), 0);
    assert_eq!(fs::metadata(folder.join("d")).unwrap().uid(), 1000);
}

#[test]
fn the_hosts_users_on_request() {
    let sandbox = sandbox();
    let pid = sleeper(&sandbox, "one", &["--userns", "host"]);
    let of = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(of(&pid), of("self"));
    remove_all(&sandbox);
}

#[test]
fn read_only_and_temporary_folders() {
    let sandbox = sandbox();
    let script = "touch /x 2>/dev/null; echo $?; touch /scratch/x; echo $?; touch /dev/shm/x; echo $?";
    assert_eq!(run(&sandbox, &["--read-only", "--tmpfs", "/scratch"], script), "1\n0\n0");
}

#[test]
fn privileged_means_all_capabilities_and_devices() {
    let sandbox = sandbox();
    let script =
        "grep CapEff /proc/self/status | cut -f2; grep Seccomp: /proc/self/status | cut -f2; ls /dev | wc -l";
    let said = run(&sandbox, &["--privileged"], script);
    let lines: Vec<_> = said.lines().collect();
    let host = fs::read_to_string("/proc/self/status").unwrap();
    let own = host.lines().find_map(|line| line.strip_prefix("CapBnd:")).unwrap().trim();
    assert_eq!(lines[0], own);
    assert_eq!(lines[1], "0");
    assert!(lines[2].parse::<usize>().unwrap() > 20, "{said}");
}

#[test]
fn no_mount_of_a_container_is_on_the_host() {
    let sandbox = sandbox();
    let pid = sleeper(&sandbox, "one", &["-v", "named:/data", "--tmpfs", "/scratch"]);
    let host = fs::read_to_string("/proc/self/mountinfo").unwrap();
    assert!(!host.contains(sandbox.tag()), "{host}");
    wait::until("the container's own mounts", || {
        fs::read_to_string(format!("/proc/{pid}/mountinfo"))
            .ok()
            .filter(|text| text.contains(" /scratch "))
            .map(|_| ())
    });
    remove_all(&sandbox);
    sandbox.rkvm(["volume", "rm", "named"]).ok();
}
