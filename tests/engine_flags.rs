//! Flags: what they do inside, and what bad values get.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use rkvm_testing::{Isolation, Sandbox, in_both_isolations};

in_both_isolations! {
    process_flags_are_seen_inside,
    capabilities_are_dockers_and_change_with_flags,
    a_taken_port_names_its_holder,
    a_cidfile_and_labels_are_written,
}

fn sandbox(isolation: Isolation) -> Sandbox {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    sandbox
}

fn text(sandbox: &Sandbox, flags: &[&str], script: &str) -> String {
    let run = sandbox.rkvm(["run", "--rm", "--network", "none"]).args(flags);
    run.args(["busybox", "sh", "-c", script]).ok().text()
}

fn process_flags_are_seen_inside(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let env_file = sandbox.path().join("env");
    std::fs::write(&env_file, "# c\nFROM_FILE=1\n").unwrap();
    let flags = [
        "-e",
        "A=b c",
        "--env-file",
        env_file.to_str().unwrap(),
        "-w",
        "/made/here",
        "-u",
        "user:extra",
        "--hostname",
        "box.example",
        "--ulimit",
        "nofile=100:200",
        "--group-add",
        "77",
    ];
    let script = "echo $A-$FROM_FILE; pwd; id -u; id -g; id -G; hostname; ulimit -n; ulimit -Hn";
    assert_eq!(
        text(&sandbox, &flags, script).lines().collect::<Vec<_>>(),
        ["b c-1", "/made/here", "1000", "2000", "2000 77", "box.example", "100", "200"]
    );
    let run =
        sandbox.rkvm(["run", "--rm", "--network", "none", "--entrypoint", "echo", "busybox", "-d", "--rm"]);
    assert_eq!(run.ok().text(), "-d --rm", "what follows the image is the command's");
}

fn capabilities_are_dockers_and_change_with_flags(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let sets = "grep -E 'CapEff|CapBnd' /proc/self/status | awk '{print $2}'";
    assert_eq!(text(&sandbox, &[], sets), "00000000a80425fb\n00000000a80425fb");
    assert_eq!(text(&sandbox, &["--cap-drop", "ALL"], sets), "0000000000000000\n0000000000000000");
    assert_eq!(
        text(&sandbox, &["--cap-drop", "all", "--cap-add", "net_admin"], sets),
        "0000000000001000\n0000000000001000"
    );
    assert_eq!(text(&sandbox, &["-u", "user"], sets), "0000000000000000\n00000000a80425fb");
    let filter = "grep Seccomp: /proc/self/status | awk '{print $2}'; grep NoNewPrivs /proc/self/status | awk '{print $2}'";
    assert_eq!(text(&sandbox, &[], filter), "2\n0");
    assert_eq!(
        text(
            &sandbox,
            &["--security-opt", "seccomp=unconfined", "--security-opt", "no-new-privileges"],
            filter
        ),
        "0\n1"
    );
}

#[test]
fn namespaces_are_the_containers_own() {
    let sandbox = sandbox(Isolation::Container);
    let script = "for n in cgroup ipc mnt net pid user uts; do readlink /proc/self/ns/$n; done";
    let inside = text(&sandbox, &[], script);
    for (line, name) in inside.lines().zip(["cgroup", "ipc", "mnt", "net", "pid", "user", "uts"]) {
        let host = std::fs::read_link(format!("/proc/self/ns/{name}")).unwrap();
        assert_ne!(line, host.to_str().unwrap(), "{name}");
    }
    let host = std::fs::read_link("/proc/self/ns/net").unwrap();
    let run = sandbox.rkvm(["run", "--rm", "--network", "host", "busybox", "readlink", "/proc/self/ns/net"]);
    assert_eq!(run.ok().text(), host.to_str().unwrap());
}

#[test]
fn a_namespace_of_another_container_is_joined() {
    let sandbox = sandbox(Isolation::Container);
    sandbox.rkvm(["run", "-d", "--name", "first", "busybox", "httpd", "-f", "-h", "/www"]).ok();
    let join = ["run", "--rm", "--network", "container:first", "--pid", "container:first", "busybox"];
    let output =
        sandbox.rkvm(join).args(["sh", "-c", "wget -qO- http://127.0.0.1/; ps | grep -c '[h]ttpd'"]).ok();
    assert_eq!(output.text(), "it works\n1");
    sandbox.rkvm(["rm", "-f", "first"]).ok();
    sandbox.rkvm(join).run().expect_code(125);
}

#[test]
fn bad_values_are_named_and_nothing_is_left() {
    let sandbox = sandbox(Isolation::Container);
    let cidfile = sandbox.path().join("cid");
    std::fs::write(&cidfile, "").unwrap();
    for flags in [
        &["-p", "80:80:80:80"][..],
        &["-p", "99999:80"],
        &["-v", "relative/x:/y/../z"],
        &["--mount", "type=bind,src=/no/such/folder,dst=/x"],
        &["--tmpfs", "nowhere"],
        &["-e", "=x"],
        &["--env-file", "/no/such/file"],
        &["-w", "relative"],
        &["-u", "nobody-here"],
        &["-m", "lots"],
        &["-m", "1m"],
        &["--memory-swap", "64m"],
        &["--cpus", "1000"],
        &["--cpuset-cpus", "a-b"],
        &["--cap-add", "EVERYTHING"],
        &["--security-opt", "nonsense"],
        &["--network", "no-such-network"],
        &["--network", "container:nobody"],
        &["--add-host", "name"],
        &["--dns", "not-an-address"],
        &["--restart", "sometimes"],
        &["--restart", "always", "--rm"],
        &["--stop-signal", "NOPE"],
        &["--label", "=x"],
        &["--ulimit", "files=1"],
        &["--sysctl", "kernel.panic=1"],
        &["--device", "/dev/no-such-device"],
        &["--shm-size", "0"],
        &["--pull", "perhaps"],
        &["--cidfile", cidfile.to_str().unwrap()],
        &["--isolation", "maximal"],
        &["--hostname", "-bad-"],
        &["--name", "a/b"],
        &["--log-driver", "syslog"],
        &["--log-opt", "max-file=0"],
        &["--oom-score-adj", "9999"],
        &["--no-such-flag"],
    ] {
        let output =
            sandbox.rkvm(["run", "--network", "none"]).args(flags).args(["--rm", "busybox", "true"]).run();
        assert_eq!(output.code, 125, "{output}");
        assert!(!output.stderr().trim().is_empty(), "{output}");
    }
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
    sandbox.assert_no_leaks();
}

fn a_taken_port_names_its_holder(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let port = rkvm_testing::free_port();
    let publish = format!("{port}:80");
    sandbox.rkvm(["run", "-d", "--name", "holder", "-p", &publish, "busybox", "sleep", "1000"]).ok();
    let second = sandbox.rkvm(["run", "--rm", "-p", &publish, "busybox", "true"]).run().expect_code(125);
    assert!(second.stderr().contains("holder"), "{second}");
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text().lines().count(), 1);
    sandbox.rkvm(["rm", "-f", "holder"]).ok();
}

fn a_cidfile_and_labels_are_written(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let cidfile = sandbox.path().join("cid");
    let run = [
        "run",
        "--name",
        "labelled",
        "--network",
        "none",
        "-l",
        "a=b",
        "--cidfile",
        cidfile.to_str().unwrap(),
    ];
    sandbox.rkvm(run).args(["busybox", "true"]).ok();
    let inspect = sandbox.rkvm(["inspect", "labelled"]).ok().json();
    assert_eq!(std::fs::read_to_string(&cidfile).unwrap(), inspect[0]["Id"].as_str().unwrap());
    assert_eq!(inspect[0]["Config"]["Labels"]["a"], "b");
    sandbox.rkvm(["rm", "labelled"]).ok();
}

#[test]
fn a_device_is_given_under_another_name() {
    let sandbox = sandbox(Isolation::Container);
    let script = "echo x > /dev/other && test -c /dev/other && echo written; head -c 1 /dev/other | wc -c";
    assert_eq!(text(&sandbox, &["--device", "/dev/null:/dev/other:rw"], script), "written\n0");
}
