//! The programs that call an OCI runtime, over `rkvm-oci`: Podman (conmon), containerd (its shim) and Docker. Each test is
//! skipped, with the reason, where its program is not installed.
#![allow(clippy::unwrap_used)]

use std::fs;
use std::path::Path;

use rkvm_testing::{Cmd, Running, Sandbox, binary, busybox_rootfs, have, wait};

mod vm;

/// The image's files as a tar archive.
fn rootfs_tar(sandbox: &Sandbox) -> String {
    let rootfs = sandbox.path().join("image");
    busybox_rootfs(&rootfs);
    let tar = sandbox.path().join("image.tar").display().to_string();
    sandbox.command("tar").args(["-C", rootfs.to_str().unwrap(), "-cf", &tar, "."]).ok();
    tar
}

/// Whether all of `programs` are installed; says which one is not.
fn installed(programs: &[&str]) -> bool {
    match programs.iter().find(|program| !have(program)) {
        None => true,
        Some(missing) => {
            eprintln!("skipped: {missing} is not installed");
            false
        }
    }
}

/// Removes the parent cgroup that callers make and keep for their containers.
fn remove_cgroups(name: &str) {
    for hierarchy in fs::read_dir("/sys/fs/cgroup").into_iter().flatten().flatten() {
        let _ = fs::remove_dir(hierarchy.path().join(name));
    }
    let _ = fs::remove_dir(Path::new("/sys/fs/cgroup").join(name));
}

fn podman(sandbox: &Sandbox) -> Cmd {
    let folder = |name: &str| sandbox.path().join(name).display().to_string();
    sandbox
        .command("podman")
        .args([
            "--root",
            &folder("podman"),
            "--runroot",
            &folder("podman-run"),
            "--tmpdir",
            &folder("podman-tmp"),
        ])
        .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"])
        .args(["--runtime", binary("rkvm-oci").to_str().unwrap()])
}

/// Waits until conmon, which ends a moment after its container, has left the cgroup that Podman made for it, and removes that.
fn conmon_is_gone(parent: &str) {
    wait::until("conmon to leave its cgroup", || {
        remove_cgroups(&format!("{parent}/conmon"));
        let left = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        let mut left = left.map(|hierarchy| hierarchy.path().join(parent).join("conmon"));
        (!left.any(|folder| folder.exists())).then_some(())
    });
    remove_cgroups(parent);
}

/// Flags that make a container possible on any host: without a network, and with limits that need no CAP_SYS_RESOURCE
/// (Podman's own raise them).
const PODMAN_RUN: [&str; 6] =
    ["--network", "none", "--ulimit", "nofile=1024:1024", "--ulimit", "nproc=1024:1024"];

#[test]
fn podman_runs_stops_and_executes() {
    if !installed(&["podman", "conmon"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let image = rootfs_tar(&sandbox);
    podman(&sandbox).args(["import", &image, "test:1"]).ok();
    let parent = sandbox.tag().to_owned();
    let run = |flags: &[&str], command: &[&str]| {
        podman(&sandbox)
            .args(["run", "--cgroup-parent", &parent])
            .args(PODMAN_RUN)
            .args(flags)
            .arg("test:1")
            .args(command)
    };
    let said = run(&["--rm", "--hostname", "inside"], &["sh", "-c", "hostname; echo $HOME; exit 3"]).run();
    assert_eq!(said.expect_code(3).text(), "inside\n/root");
    run(&["--rm"], &["nope"]).run().expect_code(127);
    run(&["--rm"], &["/etc"]).run().expect_code(126);
    let said = run(&["--rm", "-i"], &["cat"]).stdin("typed").ok();
    assert_eq!(said.text(), "typed");
    let limited = ["--rm", "--read-only", "--user", "1000:1000", "--memory", "64m", "--pids-limit", "50"];
    let said = run(&limited, &["sh", "-c", "id -u; touch /x 2>/dev/null || echo closed"]).ok();
    assert_eq!(said.text(), "1000\nclosed");
    run(
        &["-d", "--name", "web", "--init=false"],
        &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"],
    )
    .ok();
    podman(&sandbox).args(["exec", "web", "sh", "-c", "exit 4"]).run().expect_code(4);
    let said = podman(&sandbox).args(["exec", "-t", "web", "tty"]).ok();
    assert!(said.text().contains("/dev/pts/"), "{said}");
    podman(&sandbox).args(["stop", "-t", "20", "web"]).ok();
    let said = podman(&sandbox).args(["inspect", "web", "--format", "{{.State.ExitCode}}"]).ok();
    assert_eq!(said.text(), "0");
    podman(&sandbox).args(["rm", "web"]).ok();
    podman(&sandbox).args(["rmi", "-f", "test:1"]).ok();
    conmon_is_gone(&parent);
}

/// containerd with everything of its own in the sandbox, in the network namespace `network` if that is named.
fn containerd(sandbox: &Sandbox, network: Option<&str>) -> (Running, String) {
    let folder = sandbox.path().join("cd");
    fs::create_dir(&folder).unwrap();
    let socket = folder.join("s").display().to_string();
    let at = |name: &str| folder.join(name).display().to_string();
    let config = format!(
        "version = 2\nroot = \"{}\"\nstate = \"{}\"\n[grpc]\naddress = \"{socket}\"\n\
         [plugins.\"io.containerd.internal.v1.opt\"]\npath = \"{}\"\n",
        at("root"),
        at("state"),
        at("opt")
    );
    fs::write(folder.join("config.toml"), config).unwrap();
    let command = match network {
        Some(path) => sandbox.command("nsenter").arg(format!("--net={path}")).arg("containerd"),
        None => sandbox.command("containerd"),
    };
    let daemon = command.args(["-c", &at("config.toml")]).spawn();
    wait::until("containerd to answer", || {
        (sandbox.command("ctr").args(["-a", &socket, "version"]).run().code == 0).then_some(())
    });
    (daemon, socket)
}

fn end(daemon: Running) {
    daemon.signal(nix::sys::signal::Signal::SIGTERM);
    daemon.wait();
}

#[test]
fn containerd_runs_and_executes() {
    if !installed(&["containerd", "ctr"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let rootfs = sandbox.path().join("image");
    busybox_rootfs(&rootfs);
    let (daemon, socket) = containerd(&sandbox, None);
    let namespace = sandbox.tag().to_owned();
    let ctr = || sandbox.command("ctr").args(["-a", &socket, "-n", &namespace]);
    let run = |flags: &[&str], id: &str, command: &[&str]| {
        ctr()
            .args(["run", "--runc-binary", binary("rkvm-oci").to_str().unwrap()])
            .args(flags)
            .args(["--rootfs", rootfs.to_str().unwrap(), &sandbox.id(id)])
            .args(command)
    };
    let said = run(&["--rm"], "a", &["sh", "-c", "echo from the shim; exit 6"]).run();
    assert_eq!(said.expect_code(6).text(), "from the shim");
    run(&["-d"], "b", &["sleep", "1000"]).ok();
    let id = sandbox.id("b");
    ctr().args(["task", "exec", "--exec-id", "one", &id, "sh", "-c", "exit 5"]).run().expect_code(5);
    ctr().args(["task", "kill", "-s", "KILL", &id]).ok();
    wait::until("the task to stop", || {
        ctr().args(["task", "ls"]).ok().stdout().contains("STOPPED").then_some(())
    });
    ctr().args(["task", "rm", &id]).run();
    ctr().args(["container", "rm", &id]).ok();
    end(daemon);
    remove_cgroups(&namespace);
}

#[test]
fn docker_runs_stops_and_executes() {
    if !installed(&["dockerd", "docker", "containerd"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let image = rootfs_tar(&sandbox);
    let (containerd, socket) = containerd(&sandbox, None);
    let at = |name: &str| sandbox.path().join(name).display().to_string();
    let host = format!("unix://{}", at("d"));
    let daemon = sandbox
        .command("dockerd")
        .args(["--containerd", &socket, "--data-root", &at("dd"), "--exec-root", &at("de"), "-p", &at("dp")])
        .args(["-H", &host, "--iptables=false", "--bridge=none", "--storage-driver", "vfs"])
        .args(["--add-runtime", &format!("rkvm={}", binary("rkvm-oci").display())])
        .args(["--cgroup-parent", sandbox.tag()])
        .spawn();
    let docker = || sandbox.command("docker").args(["-H", &host]);
    wait::until("dockerd to answer", || (docker().arg("version").run().code == 0).then_some(()));
    docker().args(["import", &image, "test:1"]).ok();
    let run = |flags: &[&str], command: &[&str]| {
        docker()
            .args(["run", "--runtime", "rkvm", "--network", "none"])
            .args(flags)
            .arg("test:1")
            .args(command)
    };
    let said = run(&["--rm", "--hostname", "inside"], &["sh", "-c", "hostname; echo $HOME; exit 3"]).run();
    assert_eq!(said.expect_code(3).text(), "inside\n/root");
    run(&["--rm"], &["nope"]).run().expect_code(127);
    run(&["--rm"], &["/etc"]).run().expect_code(126);
    assert_eq!(run(&["--rm", "-i"], &["cat"]).stdin("typed").ok().text(), "typed");
    assert!(run(&["--rm", "-t"], &["tty"]).ok().text().contains("/dev/pts/0"));
    run(&["--rm", "--privileged"], &["test", "-e", "/dev/ptmx"]).ok();
    let limited = [
        "--rm",
        "--read-only",
        "--user",
        "1000:1000",
        "--memory",
        "32m",
        "--security-opt",
        "no-new-privileges",
    ];
    let said = run(&limited, &["sh", "-c", "id -u; grep ^Seccomp: /proc/self/status"]).ok();
    assert_eq!(said.text().split_whitespace().collect::<Vec<_>>(), ["1000", "Seccomp:", "2"]);
    run(&["-d", "--name", "web"], &["sh", "-c", "trap 'exit 0' TERM; while :; do sleep 0.1; done"]).ok();
    docker().args(["exec", "web", "sh", "-c", "exit 4"]).run().expect_code(4);
    docker().args(["pause", "web"]).ok();
    docker().args(["unpause", "web"]).ok();
    docker().args(["update", "--memory", "64m", "--memory-swap", "64m", "web"]).ok();
    docker().args(["stop", "-t", "20", "web"]).ok();
    let said = docker().args(["inspect", "web", "--format", "{{.State.ExitCode}}"]).ok();
    assert_eq!(said.text(), "0");
    docker().args(["rm", "web"]).ok();
    end(daemon);
    end(containerd);
    remove_cgroups(sandbox.tag());
}
