//! What is particular to a microVM behind the OCI interface: its size, its jail, its failures, and what it refuses by name.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkvm_testing::{Bundle, Cmd, Sandbox, reap, wait};
use serde_json::{Value, json};

/// Runs `test` where there is a KVM; says so where there is none.
fn with_kvm(test: impl FnOnce(&Sandbox)) {
    if !Path::new("/dev/kvm").exists() {
        eprintln!("not run: this host has no /dev/kvm");
        return;
    }
    // The machines outlive the command that makes them.
    reap::become_subreaper();
    test(&Sandbox::new());
}

fn oci(sandbox: &Sandbox, args: &[&str]) -> Cmd {
    sandbox.oci(["--isolation", "vm"]).args(args)
}

fn run(sandbox: &Sandbox, bundle: &Bundle, flags: &[&str]) -> Cmd {
    oci(sandbox, &["run"]).args(flags).arg("--bundle").arg(&bundle.path).arg(sandbox.id("c"))
}

/// Makes and starts a container; its machine's process.
fn up(sandbox: &Sandbox, bundle: &Bundle) -> i32 {
    let pid_file = sandbox.path().join("pid");
    let create = oci(sandbox, &["create", "--pid-file"]).arg(&pid_file).arg("--bundle").arg(&bundle.path);
    create.arg(sandbox.id("c")).ok();
    oci(sandbox, &["start"]).arg(sandbox.id("c")).ok();
    fs::read_to_string(pid_file).unwrap().parse().unwrap()
}

fn nothing_is_left(sandbox: &Sandbox) {
    assert_eq!(oci(sandbox, &["list", "-q"]).ok().text(), "");
    sandbox.assert_no_leaks();
}

#[test]
fn limits_size_the_machine_and_hold_inside() {
    with_kvm(|sandbox| {
        let script =
            "cat /sys/fs/cgroup/memory.max /sys/fs/cgroup/pids.max; nproc; grep MemTotal /proc/meminfo";
        let mut bundle = sandbox.bundle("c", &["sh", "-c", script]);
        bundle.mount(json!({ "destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup" }));
        bundle.namespace(json!({ "type": "cgroup" })).change(|config| {
            config["linux"]["resources"] = json!({
                "memory": { "limit": 83_886_080 }, "pids": { "limit": 33 }, "cpu": { "quota": 150_000, "period": 100_000 }
            });
        });
        let said = run(sandbox, &bundle, &[]).ok().text();
        let lines: Vec<&str> = said.lines().collect();
        let processors = std::thread::available_parallelism().unwrap().get().min(2).to_string();
        assert_eq!(lines[..3], ["83886080", "33", &processors]);
        // The limit is the workload's: the kernel has its own memory beside it.
        let total: u64 = lines[3].split_whitespace().nth(1).unwrap().parse().unwrap();
        assert!((80 << 10..160 << 10).contains(&total), "{said}");
    });
}

#[test]
fn the_process_is_in_a_jail() {
    with_kvm(|sandbox| {
        let mut bundle = sandbox.bundle("c", &["sleep", "1000"]);
        bundle.map_users(600_000_000);
        let pid = up(sandbox, &bundle);
        let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let value = |key: &str| {
            let line = status.lines().find_map(|line| line.strip_prefix(key)).unwrap();
            line.trim_start_matches(':').trim().to_owned()
        };
        assert_eq!((value("NoNewPrivs"), value("Seccomp")), ("1".to_owned(), "2".to_owned()));
        // CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, SETGID, SETUID, SETFCAP
        assert_eq!(u64::from_str_radix(&value("CapEff"), 16).unwrap(), 0x8000_00df);
        assert_eq!(value("Uid").split_whitespace().next(), Some("600000000"));
        for thread in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
            let thread = thread.unwrap().path();
            let status = fs::read_to_string(thread.join("status")).unwrap();
            // The kernel's own thread (kvm-nx-lpage-recovery) has no filter, and runs no program.
            let kernel = fs::read_to_string(thread.join("comm")).unwrap().starts_with("kvm-");
            assert!(kernel || status.contains("Seccomp:\t2"), "{}: {status}", thread.display());
        }
        let root: Vec<_> = fs::read_dir(format!("/proc/{pid}/root")).unwrap().collect();
        assert_eq!(root.len(), 1, "{root:?}");
        for kind in ["mnt", "net", "ipc", "uts", "user"] {
            let own = |pid: &str| fs::read_link(format!("/proc/{pid}/ns/{kind}")).unwrap();
            assert_ne!(own(&pid.to_string()), own("self"), "{kind}");
        }
        // What is open leads to nothing of the host but devices, the kernel, the initramfs and its own /proc entry.
        let mut paths = BTreeSet::new();
        for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
            let Ok(target) = fs::read_link(fd.unwrap().path()) else { continue };
            let target = target.display().to_string();
            let known = [
                "/dev/kvm",
                "/dev/urandom",
                "/dev/null",
                "/proc/",
                "/memfd:",
                "anon_inode:",
                "socket:",
                "pipe:",
            ];
            let ours = known.iter().any(|prefix| target.starts_with(prefix));
            let artifact = target.contains("vmlinux") || target.contains("initramfs");
            let shared = target.starts_with("/root") || target == "/" || target == format!("/{pid}/fd");
            if !(ours || artifact || shared || target.contains(sandbox.tag())) {
                paths.insert(target);
            }
        }
        assert!(paths.is_empty(), "{paths:?}");
        oci(sandbox, &["delete", "--force"]).arg(sandbox.id("c")).ok();
        reap::wait_for(pid);
        nothing_is_left(sandbox);
    });
}

#[test]
fn what_a_machine_cannot_do_is_refused_by_name() {
    with_kvm(|sandbox| {
        let socket = sandbox.path().join("socket");
        let _listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        type Change = Box<dyn Fn(&mut Value)>;
        let without = |kind: &'static str| -> Change {
            Box::new(move |config: &mut Value| {
                let list = config["linux"]["namespaces"].as_array_mut().unwrap();
                list.retain(|namespace| namespace["type"] != kind);
            })
        };
        let set = |pointer: &'static str, value: Value| -> Change {
            Box::new(move |config: &mut Value| {
                let (parent, name) = pointer.rsplit_once('/').unwrap();
                config.pointer_mut(parent).unwrap()[name] = value.clone();
            })
        };
        let cases: Vec<(Change, &str)> = vec![
            (without("pid"), "linux.namespaces without pid"),
            (without("network"), "linux.namespaces without network"),
            (without("ipc"), "linux.namespaces without ipc"),
            (
                Box::new(|config: &mut Value| {
                    let list = config["linux"]["namespaces"].as_array_mut().unwrap();
                    let network = list.iter_mut().find(|namespace| namespace["type"] == "network").unwrap();
                    network["path"] = json!("/proc/self/ns/net");
                }),
                "or with the host's",
            ),
            (
                set(
                    "/linux/devices",
                    json!([{ "path": "/dev/dri/card0", "type": "c", "major": 226, "minor": 0 }]),
                ),
                "linux.devices[0]",
            ),
            (set("/linux/intelRdt", json!({ "closID": "x" })), "linux.intelRdt"),
            (set("/linux/resources/network", json!({ "classID": 1 })), "linux.resources.network"),
            (
                set("/linux/resources/hugepageLimits", json!([{ "pageSize": "2MB", "limit": 1 }])),
                "hugepageLimits",
            ),
            (
                set(
                    "/mounts",
                    json!([{ "destination": "/s", "type": "bind", "source": socket, "options": ["bind"] }]),
                ),
                "mounts[0].source",
            ),
            (
                set(
                    "/mounts",
                    json!([{ "destination": "/s", "type": "bind", "source": "/tmp", "options": ["rbind", "rnoexec"] }]),
                ),
                "mounts[0].options",
            ),
            (
                set(
                    "/linux/seccomp",
                    json!({
                        "defaultAction": "SCMP_ACT_ALLOW", "listenerPath": "/run/agent",
                        "syscalls": [{ "names": ["mkdir"], "action": "SCMP_ACT_NOTIFY" }]
                    }),
                ),
                "SCMP_ACT_NOTIFY",
            ),
        ];
        for (change, field) in cases {
            let mut bundle = sandbox.bundle("c", &["true"]);
            bundle.change(|config| change(config));
            let output = run(sandbox, &bundle, &[]).fails(field);
            assert!(output.stderr().contains("not supported"), "{output}");
            nothing_is_left(sandbox);
        }
    });
}

#[test]
fn a_kernel_of_ones_own_and_those_that_do_not_boot() {
    with_kvm(|sandbox| {
        let bundle = sandbox.bundle("c", &["cat", "/proc/cmdline"]);
        let said = run(sandbox, &bundle, &["--cmdline", "one.word=7"]).ok().text();
        assert!(said.contains("one.word=7"), "{said}");
        run(sandbox, &bundle, &["--kernel", "/nonexistent/vmlinux"]).fails("/nonexistent/vmlinux");
        let config = bundle.path.join("config.json");
        run(sandbox, &bundle, &["--kernel", config.to_str().unwrap()]).fails("config.json");
        // No init at all: the kernel panics, and its last words are in the message.
        let panicked = run(sandbox, &bundle, &["--cmdline", "rdinit=/nonexistent"]).fails("panic");
        assert!(panicked.stderr().contains("root"), "{panicked}");
        nothing_is_left(sandbox);
        sandbox
            .oci(["run", "--kernel", "/x", "--bundle"])
            .arg(&bundle.path)
            .arg(sandbox.id("c"))
            .fails("--isolation=vm");
        let nowhere = run(sandbox, &bundle, &[]).env("RKVM_GUEST", "/nonexistent/guest");
        nowhere.fails("/nonexistent/guest");
        nothing_is_left(sandbox);
    });
}

#[test]
fn streams_carry_megabytes_both_ways() {
    with_kvm(|sandbox| {
        let bundle = sandbox.bundle("c", &["sh", "-c", "tee /proc/self/fd/2"]);
        let bytes: Vec<u8> =
            (0..5_000_000u32).flat_map(|number| number.to_le_bytes()).take(6_000_000).collect();
        let text: Vec<u8> = bytes.iter().map(|byte| b'a' + byte % 26).collect();
        let output = run(sandbox, &bundle, &[]).stdin(text.clone()).limit(Duration::from_secs(120)).ok();
        assert!(output.stdout().as_bytes() == text && output.stderr().as_bytes() == text, "bytes were lost");
    });
}

#[test]
fn a_killed_machine_is_stopped_and_leaves_nothing() {
    with_kvm(|sandbox| {
        let bundle = sandbox.bundle("c", &["sleep", "1000"]);
        let pid = up(sandbox, &bundle);
        let exec = oci(sandbox, &["exec"]).arg(sandbox.id("c")).args(["sleep", "1000"]).spawn();
        kill(Pid::from_raw(pid), Signal::SIGKILL).unwrap();
        reap::wait_for(pid);
        // A process in it ends with it.
        assert_ne!(exec.wait().code, 0);
        assert_eq!(oci(sandbox, &["state"]).arg(sandbox.id("c")).ok().json()["status"], "stopped");
        oci(sandbox, &["exec"]).arg(sandbox.id("c")).arg("true").fails("stopped");
        oci(sandbox, &["delete"]).arg(sandbox.id("c")).ok();
        nothing_is_left(sandbox);
    });
}

/// Waits for the ended processes that a list of leaks names: this process has got them as orphans.
fn reap_zombies(leaks: &str) {
    for line in leaks.lines().filter(|line| line.contains("(Z)")) {
        let pid = line.split_whitespace().nth(1).and_then(|pid| pid.parse().ok());
        if let Some(pid) = pid {
            reap::wait_for(pid);
        }
    }
}

#[test]
fn a_creator_that_is_killed_leaves_no_machine() {
    with_kvm(|sandbox| {
        let bundle = sandbox.bundle("c", &["sleep", "1000"]);
        for milliseconds in [5, 15, 30, 60, 100, 150, 220, 300, 400] {
            let create = oci(sandbox, &["create", "--bundle"]).arg(&bundle.path).arg(sandbox.id("c")).spawn();
            std::thread::sleep(Duration::from_millis(milliseconds));
            let _ = kill(Pid::from_raw(create.pid()), Signal::SIGKILL);
            create.wait();
            oci(sandbox, &["delete", "--force"]).arg(sandbox.id("c")).run();
            let clean = wait::within(Duration::from_secs(20), || {
                reap_zombies(&sandbox.leaks().to_string());
                sandbox.leaks().is_empty().then_some(())
            });
            assert!(clean.is_some(), "killed after {milliseconds} ms, left behind:\n{}", sandbox.leaks());
        }
    });
}

#[test]
fn a_detached_process_ends_with_its_exit_code() {
    with_kvm(|sandbox| {
        let pid = up(sandbox, &sandbox.bundle("c", &["sleep", "1000"]));
        let pid_file = sandbox.path().join("exec-pid");
        let detached = oci(sandbox, &["exec", "--detach", "--pid-file"]).arg(&pid_file).arg(sandbox.id("c"));
        detached.args(["sh", "-c", "until test -e /tmp/go; do sleep 0.02; done; exit 9"]).ok();
        let process: i32 = fs::read_to_string(pid_file).unwrap().parse().unwrap();
        oci(sandbox, &["exec"]).arg(sandbox.id("c")).args(["touch", "/tmp/go"]).ok();
        assert_eq!(reap::wait_for(process), 9);
        oci(sandbox, &["kill"]).arg(sandbox.id("c")).arg("KILL").ok();
        assert_eq!(reap::wait_for(pid), 137);
        oci(sandbox, &["delete"]).arg(sandbox.id("c")).ok();
    });
}

/// A named network namespace with an Ethernet link in it, whose other end is on the host; both end with it.
struct Net<'a> {
    sandbox: &'a Sandbox,
    name: String,
    host: String,
}

impl<'a> Net<'a> {
    /// `number` tells it from those of other tests.
    fn new(sandbox: &'a Sandbox, number: u8) -> Self {
        let name = format!("{}-net", sandbox.tag());
        let host = format!("vt{:x}{number:x}", std::process::id());
        let net = Self { sandbox, name, host };
        net.ip(&["netns", "add", &net.name]);
        net.ip(&["link", "add", &net.host, "type", "veth", "peer", "name", "eth0", "netns", &net.name]);
        net.ip(&["addr", "add", &format!("10.213.{number}.1/24"), "dev", &net.host]);
        net.ip(&["link", "set", &net.host, "up"]);
        net.ip(&["-n", &net.name, "addr", "add", &format!("10.213.{number}.2/24"), "dev", "eth0"]);
        net.ip(&["-n", &net.name, "link", "set", "eth0", "mtu", "1400", "up"]);
        net.ip(&["-n", &net.name, "route", "add", "10.99.0.0/16", "via", &format!("10.213.{number}.1")]);
        net
    }

    fn ip(&self, args: &[&str]) {
        self.sandbox.command("ip").args(args).ok();
    }
}

impl Drop for Net<'_> {
    fn drop(&mut self) {
        self.sandbox.command("ip").args(["netns", "del", &self.name]).run();
        self.sandbox.command("ip").args(["link", "del", &self.host]).run();
    }
}

/// Answers one connection with what it says.
fn echo(address: &str) -> (u16, std::thread::JoinHandle<()>) {
    let listener = std::net::TcpListener::bind((address, 0)).unwrap();
    let port = listener.local_addr().unwrap().port();
    let thread = std::thread::spawn(move || {
        let (mut stream, _) = listener.accept().unwrap();
        let mut text = vec![];
        std::io::Read::read_to_end(&mut stream, &mut text).unwrap();
        std::io::Write::write_all(&mut stream, &text).unwrap();
    });
    (port, thread)
}

#[test]
fn a_link_of_the_namespace_becomes_the_guests() {
    with_kvm(|sandbox| {
        let net = Net::new(sandbox, 11);
        let (port, server) = echo("10.213.11.1");
        let script = format!(
            "cat /sys/class/net/eth0/mtu; ip -4 -o addr show dev eth0; ip route; head -c 300000 /dev/zero | tr '\\0' x | \
             nc 10.213.11.1 {port} | wc -c"
        );
        let mut bundle = sandbox.bundle("c", &["sh", "-c", &script]);
        bundle.namespace(json!({ "type": "network", "path": format!("/run/netns/{}", net.name) }));
        let said = run(sandbox, &bundle, &[]).ok().text();
        server.join().unwrap();
        assert!(said.starts_with("1400\n") && said.contains("inet 10.213.11.2/24"), "{said}");
        assert!(said.contains("10.99.0.0/16 via 10.213.11.1") && said.ends_with("300000"), "{said}");
        // Again: what the first machine left on the link is replaced.
        run(sandbox, bundle.args(&["true"]), &[]).ok();
        // Two links, and nothing to tell which one is meant.
        net.ip(&["-n", &net.name, "link", "add", "second", "type", "veth", "peer", "name", "third"]);
        net.ip(&["-n", &net.name, "link", "set", "second", "up"]);
        run(sandbox, &bundle, &[]).fails("second");
    });
}

#[test]
fn a_link_with_ipv6_becomes_the_guests() {
    with_kvm(|sandbox| {
        let net = Net::new(sandbox, 13);
        net.ip(&["addr", "add", "fd13::1/64", "dev", &net.host, "nodad"]);
        net.ip(&["addr", "add", "fd99::9/128", "dev", &net.host, "nodad"]);
        net.ip(&["-n", &net.name, "addr", "add", "fd13::2/64", "dev", "eth0", "nodad"]);
        net.ip(&["-n", &net.name, "-6", "route", "add", "default", "via", "fd13::1"]);
        let mac = sandbox.command("ip").args(["-n", &net.name, "-o", "link", "show", "eth0"]).ok().text();
        let mac = mac.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap().to_owned();
        let (port, server) = echo("fd99::9");
        let script = format!(
            "ip -6 -o addr show dev eth0 scope global; ip -6 route; cat /sys/class/net/eth0/address; \
             head -c 100000 /dev/zero | nc fd99::9 {port} | wc -c"
        );
        let mut bundle = sandbox.bundle("c", &["sh", "-c", &script]);
        bundle.namespace(json!({ "type": "network", "path": format!("/run/netns/{}", net.name) }));
        let output = run(sandbox, &bundle, &[]).ok();
        server.join().unwrap();
        let said = output.text();
        for part in ["inet6 fd13::2/64", "default via fd13::1", &mac] {
            assert!(said.contains(part), "{part}: {output}");
        }
        assert!(said.ends_with("100000"), "{output}");
        // And the other way: the host reaches the guest by both addresses.
        let pid = up(sandbox, bundle.args(&["httpd", "-f", "-p", "[::]:80"]));
        for address in ["fd13::2", "10.213.13.2"] {
            wait::until("an answer to a ping", || {
                (sandbox.command("ping").args(["-c", "1", "-W", "1", address]).run().code == 0).then_some(())
            });
        }
        wait::until("the server", || std::net::TcpStream::connect(("fd13::2", 80)).ok());
        oci(sandbox, &["delete", "--force"]).arg(sandbox.id("c")).ok();
        reap::wait_for(pid);
    });
}

#[test]
fn a_link_that_a_hook_brings_becomes_the_guests() {
    with_kvm(|sandbox| {
        let host = format!("vh{:x}", std::process::id());
        let hook = sandbox.path().join("hook");
        let script = format!(
            "#!/bin/sh\npid=$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/')\n\
             ip link add {host} type veth peer name eth0 netns $pid || exit 1\n\
             nsenter -t $pid -n ip addr add 10.213.12.2/24 dev eth0\nnsenter -t $pid -n ip link set eth0 up\n"
        );
        fs::write(&hook, script).unwrap();
        fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
        let mut bundle = sandbox.bundle("c", &["ip", "-4", "-o", "addr", "show", "dev", "eth0"]);
        bundle.change(|config| {
            config["hooks"]["prestart"] =
                json!([{ "path": hook, "env": [format!("PATH={}", std::env::var("PATH").unwrap())] }]);
        });
        let said = run(sandbox, &bundle, &[]).ok().text();
        assert!(said.contains("inet 10.213.12.2/24"), "{said}");
    });
}

#[test]
fn ps_shows_what_runs_inside_and_callers_get_process_ids_of_the_host() {
    with_kvm(|sandbox| {
        let script = "sleep 1001 & exec sleep 1002";
        let pid = up(sandbox, &sandbox.bundle("c", &["sh", "-c", script]));
        let ps = |flags: &[&str]| oci(sandbox, &["ps"]).args(flags).arg(sandbox.id("c"));
        let said = wait::until("both processes", || {
            let said = ps(&[]).ok().text();
            (said.lines().count() == 3 && !said.contains("sh -c")).then_some(said)
        });
        let lines: Vec<Vec<&str>> = said.lines().map(|line| line.split_whitespace().collect()).collect();
        assert_eq!(lines[0][..3], ["UID", "PID", "PPID"]);
        assert!(lines[1..].iter().any(|line| line[1] == "1" && line.ends_with(&["sleep", "1002"])), "{said}");
        assert!(lines[1..].iter().any(|line| line[2] == "1" && line.ends_with(&["sleep", "1001"])), "{said}");
        assert_eq!(ps(&["--format", "json"]).ok().json(), json!([pid]));
        oci(sandbox, &["ps"]).arg(sandbox.id("c")).arg("-ef").fails("not supported");
        oci(sandbox, &["pause"]).arg(sandbox.id("c")).ok();
        ps(&[]).fails("resume");
        oci(sandbox, &["resume"]).arg(sandbox.id("c")).ok();
        oci(sandbox, &["kill"]).arg(sandbox.id("c")).arg("KILL").ok();
        reap::wait_for(pid);
        assert_eq!(ps(&[]).ok().text().lines().count(), 1);
        oci(sandbox, &["delete"]).arg(sandbox.id("c")).ok();
        nothing_is_left(sandbox);
    });
}

#[test]
fn a_link_to_the_program_chooses_by_its_name() {
    with_kvm(|sandbox| {
        let link = sandbox.path().join("rkvm-oci-vm");
        std::os::unix::fs::symlink(rkvm_testing::binary("rkvm-oci"), &link).unwrap();
        let bundle = sandbox.bundle("c", &["uname", "-r"]);
        let release = |flags: &[&str]| {
            let run = sandbox.command(&link).arg("--root").arg(sandbox.oci_root()).args(flags);
            run.args(["run", "--bundle"]).arg(&bundle.path).arg(sandbox.id("c")).ok().text()
        };
        let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_ne!(release(&[]), host.trim());
        // What is asked for in words counts more.
        assert_eq!(release(&["--isolation", "container"]), host.trim());
        nothing_is_left(sandbox);
    });
}
