//! The same callers with microVMs, on networks of their own: each test's are in a network namespace that it makes and removes.

use std::path::PathBuf;
use std::time::Duration;

use rkvm_testing::has_vms;

use super::*;

/// A network namespace with loopback; what a caller makes in it (bridges, rules, proxies) ends with it.
struct Net<'a> {
    sandbox: &'a Sandbox,
    name: String,
}

impl<'a> Net<'a> {
    fn new(sandbox: &'a Sandbox) -> Self {
        let net = Self { sandbox, name: format!("{}-net", sandbox.tag()) };
        sandbox.command("ip").args(["netns", "add", &net.name]).ok();
        net.command("ip").args(["link", "set", "lo", "up"]).ok();
        net
    }

    fn path(&self) -> String {
        format!("/run/netns/{}", self.name)
    }

    /// `program` in it. Only the network is another: cgroups and folders are the host's.
    fn command(&self, program: &str) -> Cmd {
        self.sandbox.command("nsenter").arg(format!("--net={}", self.path())).arg(program)
    }

    /// The page at `url`, once there is one.
    fn page(&self, url: &str) -> String {
        wait::until("the page", || {
            let page = self.command("curl").args(["-s", "-m", "5", url]).run();
            (page.code == 0).then(|| page.text())
        })
    }
}

impl Drop for Net<'_> {
    fn drop(&mut self) {
        self.sandbox.command("ip").args(["netns", "del", &self.name]).run();
    }
}

/// `rkvm-oci` under the name that asks for microVMs.
fn linked(sandbox: &Sandbox) -> PathBuf {
    let link = sandbox.path().join("rkvm-oci-vm");
    std::os::unix::fs::symlink(binary("rkvm-oci"), &link).unwrap();
    link
}

fn is_a_guests(release: &str) {
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert!(!release.is_empty() && release != host.trim(), "{release:?} is the host's kernel");
}

/// A web server that says `text`, writes to the volume at /v, and ends with 7 when it is stopped.
fn server(text: &str) -> String {
    format!(
        "mkdir -p /srv; echo {text} > /srv/index.html; cat /v/from-host; echo written > /v/from-guest; \
         trap 'exit 7' TERM; httpd -f -h /srv & while :; do sleep 0.1; done"
    )
}

fn volume(sandbox: &Sandbox) -> PathBuf {
    let folder = sandbox.path().join("volume");
    fs::create_dir(&folder).unwrap();
    fs::write(folder.join("from-host"), "given\n").unwrap();
    folder
}

#[test]
fn podman_runs_microvms_on_its_networks() {
    if !has_vms() || !installed(&["podman", "conmon", "curl", "iptables"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let net = Net::new(&sandbox);
    let image = rootfs_tar(&sandbox);
    let config = sandbox.path().join("networks").display().to_string();
    let podman = || {
        let folder = |name: &str| sandbox.path().join(name).display().to_string();
        net.command("podman")
            .args(["--root", &folder("podman"), "--runroot", &folder("podman-run")])
            .args(["--tmpdir", &folder("podman-tmp"), "--network-config-dir", &config])
            .args(["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "none"])
            .args(["--runtime", binary("rkvm-oci").to_str().unwrap(), "--runtime-flag", "isolation=vm"])
    };
    podman().args(["import", &image, "test:1"]).ok();
    podman().args(["network", "create", sandbox.tag()]).ok();
    let parent = sandbox.tag().to_owned();
    let run = |flags: &[&str], command: &[&str]| {
        podman()
            .args(["run", "--cgroup-parent", &parent, "--network", &parent])
            .args(&PODMAN_RUN[2..])
            .args(flags)
            .arg("test:1")
            .args(command)
    };
    let said = run(&["--rm", "--hostname", "inside"], &["sh", "-c", "hostname; uname -r; exit 3"]).run();
    let text = said.expect_code(3).text();
    let (name, release) = text.split_once('\n').unwrap();
    assert_eq!(name, "inside");
    is_a_guests(release);
    run(&["--rm"], &["nope"]).run().expect_code(127);
    run(&["--rm"], &["/etc"]).run().expect_code(126);
    assert_eq!(run(&["--rm", "-i"], &["cat"]).stdin("typed").ok().text(), "typed");

    let shared = format!("{}:/v", volume(&sandbox).display());
    let script = server("from the guest");
    let flags = ["-d", "--name", "web", "-p", "18080:80", "-v", &shared, "-v", "named:/n"];
    run(&flags, &["sh", "-c", &script]).ok();
    assert_eq!(net.page("http://127.0.0.1:18080/"), "from the guest");
    assert_eq!(podman().args(["logs", "web"]).ok().text(), "given");
    assert_eq!(fs::read_to_string(sandbox.path().join("volume/from-guest")).unwrap(), "written\n");
    podman().args(["exec", "web", "sh", "-c", "exit 4"]).run().expect_code(4);
    let said = podman().args(["exec", "-t", "web", "tty"]).ok();
    assert!(said.text().contains("/dev/pts/"), "{said}");
    let address = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}";
    let address = podman().args(["inspect", "web", "--format", address]).ok().text();
    // From another machine, through Podman's bridge.
    let said = run(&["--rm"], &["wget", "-qO-", &format!("http://{address}/")]).ok();
    assert_eq!(said.text(), "from the guest");
    podman().args(["pause", "web"]).ok();
    podman().args(["unpause", "web"]).ok();
    podman().args(["stop", "-t", "20", "web"]).ok();
    let said = podman().args(["inspect", "web", "--format", "{{.State.ExitCode}}"]).ok();
    assert_eq!(said.text(), "7");
    podman().args(["rm", "web"]).ok();
    podman().args(["volume", "rm", "named"]).ok();

    let host = podman().args(["run", "--rm", "--cgroup-parent", &parent, "--network", "host"]);
    host.args(&PODMAN_RUN[2..]).args(["test:1", "true"]).fails("linux.namespaces without network");
    podman().args(["network", "rm", "-f", sandbox.tag()]).ok();
    podman().args(["rmi", "-f", "test:1"]).ok();
    conmon_is_gone(&parent);
    // Podman's own record of addresses, which it keeps for a network that is gone.
    let _ = fs::remove_dir_all(Path::new("/var/lib/cni/networks").join(sandbox.tag()));
}

#[test]
fn containerd_runs_microvms() {
    if !has_vms() || !installed(&["containerd", "ctr"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let net = Net::new(&sandbox);
    let ip = |args: &[&str]| drop(net.command("ip").args(args).ok());
    ip(&["link", "add", "eth0", "type", "veth", "peer", "name", "peer"]);
    ip(&["addr", "add", "10.214.1.2/24", "dev", "eth0"]);
    ip(&["link", "set", "eth0", "up"]);
    // Down: of two links that are up, nothing says which one is meant.
    ip(&["link", "set", "peer", "down"]);
    let rootfs = sandbox.path().join("image");
    busybox_rootfs(&rootfs);
    let (daemon, socket) = containerd(&sandbox, None);
    let namespace = sandbox.tag().to_owned();
    let ctr = || sandbox.command("ctr").args(["-a", &socket, "-n", &namespace]);
    let run = |runtime: &Path, flags: &[&str], id: &str, command: &[&str]| {
        ctr()
            .args(["run", "--runc-binary", runtime.to_str().unwrap()])
            .args(flags)
            .args(["--rootfs", rootfs.to_str().unwrap(), &sandbox.id(id)])
            .args(command)
    };
    let link = linked(&sandbox);
    let said = run(&link, &["--rm"], "a", &["sh", "-c", "uname -r; exit 6"]).run();
    is_a_guests(&said.expect_code(6).text());
    // Without the link, as the container asks.
    let annotated = ["--rm", "--annotation", "io.rkvm.isolation=vm"];
    is_a_guests(&run(&binary("rkvm-oci"), &annotated, "a", &["uname", "-r"]).ok().text());
    // In a namespace that has a link already, as CRI gives one.
    let given = format!("network:{}", net.path());
    let said =
        run(&link, &["--rm", "--with-ns", &given], "a", &["ip", "-4", "-o", "addr", "show", "eth0"]).ok();
    assert!(said.text().contains("10.214.1.2/24"), "{said}");
    run(&link, &["--rm", "--net-host"], "a", &["true"]).fails("network");

    let mount = format!("type=bind,src={},dst=/v,options=rbind:rw", volume(&sandbox).display());
    let log = sandbox.path().join("log");
    let uri = format!("file://{}", log.display());
    let script =
        "cat /v/from-host; echo written > /v/from-guest; trap 'exit 7' TERM; while :; do sleep 0.1; done";
    run(&link, &["-d", "--mount", &mount, "--log-uri", &uri], "b", &["sh", "-c", script]).ok();
    wait::until("the log", || (fs::read_to_string(&log).ok()? == "given\n").then_some(()));
    let id = sandbox.id("b");
    let exec = |args: &[&str]| ctr().args(["task", "exec"]).args(args).run();
    exec(&["--exec-id", "one", &id, "sh", "-c", "test $(cat /v/from-guest) = written; exit 5"])
        .expect_code(5);
    let pids = ctr().args(["task", "ps", &id]).ok().text();
    assert_eq!(pids.lines().count(), 2, "the machine's process: {pids}");
    ctr().args(["task", "pause", &id]).ok();
    ctr().args(["task", "resume", &id]).ok();
    ctr().args(["task", "metrics", &id]).ok();
    ctr().args(["task", "kill", "-s", "TERM", &id]).ok();
    wait::until("the task to stop", || {
        ctr().args(["task", "ls"]).ok().stdout().contains("STOPPED").then_some(())
    });
    let said = ctr().args(["task", "rm", &id]).run();
    assert!(said.stderr().contains("exit code 7"), "{said}");
    ctr().args(["container", "rm", &id]).ok();
    end(daemon);
    remove_cgroups(&namespace);
}

#[test]
fn docker_runs_microvms_on_its_bridge() {
    if !has_vms() || !installed(&["dockerd", "docker", "containerd", "curl", "iptables"]) {
        return;
    }
    let sandbox = Sandbox::new();
    let net = Net::new(&sandbox);
    let image = rootfs_tar(&sandbox);
    // Both in it: what `--network host` means to dockerd is then rkvm-oci's own network too, as it is on a host.
    let (containerd, socket) = containerd(&sandbox, Some(&net.path()));
    let at = |name: &str| sandbox.path().join(name).display().to_string();
    let runtime = binary("rkvm-oci");
    let config = serde_json::json!({ "runtimes": {
        "by-flag": { "path": runtime, "runtimeArgs": ["--isolation=vm"] },
        "by-name": { "path": linked(&sandbox) },
        "container": { "path": runtime },
    }});
    fs::write(at("daemon.json"), config.to_string()).unwrap();
    let host = format!("unix://{}", at("d"));
    let daemon = net
        .command("dockerd")
        .args(["--containerd", &socket, "--data-root", &at("dd"), "--exec-root", &at("de"), "-p", &at("dp")])
        .args(["-H", &host, "--storage-driver", "vfs", "--cgroup-parent", sandbox.tag()])
        .args(["--config-file", &at("daemon.json")])
        .limit(Duration::from_secs(120))
        .spawn();
    let docker = || sandbox.command("docker").args(["-H", &host]);
    wait::until("dockerd to answer", || (docker().arg("version").run().code == 0).then_some(()));
    docker().args(["import", &image, "test:1"]).ok();
    let run = |runtime: &str, flags: &[&str], command: &[&str]| {
        docker().args(["run", "--runtime", runtime]).args(flags).arg("test:1").args(command)
    };
    for runtime in ["by-flag", "by-name"] {
        let said = run(runtime, &["--rm"], &["sh", "-c", "uname -r; exit 3"]).run();
        is_a_guests(&said.expect_code(3).text());
    }
    run("by-flag", &["--rm"], &["nope"]).run().expect_code(127);
    assert_eq!(run("by-flag", &["--rm", "-i"], &["cat"]).stdin("typed").ok().text(), "typed");
    assert!(run("by-flag", &["--rm", "-t"], &["tty"]).ok().text().contains("/dev/pts/0"));
    run("by-flag", &["--rm", "--network", "host"], &["true"]).fails("with the host's");

    let shared = format!("{}:/v", volume(&sandbox).display());
    let flags = ["-d", "--name", "web", "-p", "18080:80", "-v", &shared, "-v", "named:/n"];
    run("by-flag", &flags, &["sh", "-c", &server("from the guest")]).ok();
    assert_eq!(net.page("http://127.0.0.1:18080/"), "from the guest");
    assert_eq!(docker().args(["logs", "web"]).ok().text(), "given");
    assert_eq!(fs::read_to_string(sandbox.path().join("volume/from-guest")).unwrap(), "written\n");
    docker().args(["exec", "web", "sh", "-c", "exit 4"]).run().expect_code(4);
    // From a container, through Docker's bridge.
    let address = docker().args(["inspect", "web", "--format", "{{.NetworkSettings.IPAddress}}"]).ok().text();
    let url = format!("http://{address}/");
    assert_eq!(run("container", &["--rm"], &["wget", "-qO-", &url]).ok().text(), "from the guest");
    docker().args(["pause", "web"]).ok();
    docker().args(["unpause", "web"]).ok();
    docker().args(["stop", "-t", "20", "web"]).ok();
    let said = docker().args(["inspect", "web", "--format", "{{.State.ExitCode}}"]).ok();
    assert_eq!(said.text(), "7");
    docker().args(["rm", "web"]).ok();
    docker().args(["volume", "rm", "named"]).ok();
    end(daemon);
    end(containerd);
    // dockerd's own handle of its network, which it leaves.
    sandbox.command("umount").arg(format!("{}/netns/default", at("de"))).run();
    remove_cgroups(sandbox.tag());
}
