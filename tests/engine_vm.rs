//! What is only so in a microVM: its kernel, its size, its image, and what it cannot have. What is alike in both isolations is in
//! the other `engine_*` tests.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::MetadataExt;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use rkvm_testing::{Isolation, Sandbox, free_port, has_vms, wait};

/// A sandbox with an image; `None` where no microVM runs.
fn sandbox() -> Option<Sandbox> {
    has_vms().then(|| {
        let sandbox = Sandbox::of(Isolation::Vm);
        sandbox.load_busybox();
        sandbox
    })
}

fn run(sandbox: &Sandbox, flags: &[&str], script: &str) -> rkvm_testing::Output {
    sandbox.rkvm(["run", "--rm", "--network", "none"]).args(flags).args(["busybox", "sh", "-c", script]).run()
}

#[test]
fn it_has_a_kernel_of_its_own_and_the_size_that_was_asked_for() {
    let Some(sandbox) = sandbox() else { return };
    let look = "uname -r; nproc; awk '/MemTotal/ {print $2}' /proc/meminfo; cat /proc/self/uid_map";
    let seen = |flags: &[&str]| -> Vec<String> {
        run(&sandbox, flags, look).expect_code(0).text().lines().map(str::to_owned).collect()
    };
    let plain = seen(&[]);
    let host = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_ne!(plain[0], host.trim());
    assert_eq!(plain[1], "1");
    let kib = |text: &str| text.parse::<u64>().unwrap();
    assert!((128 << 10..=256 << 10).contains(&kib(&plain[2])), "{plain:?}");
    assert!(plain[3].ends_with("4294967295"), "no user namespace inside: {plain:?}");
    let large = seen(&["--cpus", "1.5", "-m", "512m"]);
    assert_eq!(large[1], "2");
    assert!((448 << 10..=640 << 10).contains(&kib(&large[2])), "{large:?}");
}

#[test]
fn timings_name_every_phase_and_the_boot_among_them() {
    let Some(sandbox) = sandbox() else { return };
    let run = ["run", "--rm", "--network", "none", "--timings=json", "busybox", "true"];
    let report: serde_json::Value = serde_json::from_str(&sandbox.rkvm(run).ok().stderr()).unwrap();
    let phases: Vec<&str> =
        report["phases"].as_array().unwrap().iter().map(|phase| phase["phase"].as_str().unwrap()).collect();
    assert_eq!(phases, ["image", "rootfs", "network", "sandbox", "boot", "process", "exec"]);
}

#[test]
fn containers_and_vms_reach_each_other_and_the_host_reaches_both() {
    let Some(sandbox) = sandbox() else { return };
    let ports = [free_port(), free_port()];
    for (isolation, port) in ["container", "vm"].iter().zip(ports) {
        let publish = format!("127.0.0.1:{port}:80");
        let script = format!("mkdir /srv; echo from {isolation} > /srv/index.html; exec httpd -f -h /srv");
        sandbox
            .command(rkvm_testing::binary("rkvm"))
            .env("RKVM_ROOT", sandbox.root())
            .args(["run", "-d", "--isolation", isolation, "--name", isolation, "-p", &publish])
            .args(["busybox", "sh", "-c", &script])
            .ok();
    }
    let address = |name: &str| {
        let format = "{{.NetworkSettings.IPAddress}}";
        sandbox.rkvm(["inspect", "--format", format, name]).ok().text()
    };
    let expected = ["container", "vm"].map(|name| format!("from {name}"));
    for (port, expected) in ports.iter().zip(&expected) {
        let url = format!("http://127.0.0.1:{port}/");
        let page = wait::until("the page", || {
            let page = sandbox.command("busybox").args(["wget", "-qO-", &url]).run();
            (page.code == 0).then(|| page.text())
        });
        assert_eq!(&page, expected);
    }
    for (from, to, expected) in [("vm", "container", &expected[0]), ("container", "vm", &expected[1])] {
        let url = format!("http://{}/", address(to));
        assert_eq!(&sandbox.rkvm(["exec", from, "wget", "-qO-", &url]).ok().text(), expected);
    }
    let stats = sandbox.rkvm(["stats", "--no-stream", "--format", "{{.Name}} {{.NetIO}}"]).ok().text();
    assert!(!stats.contains("0B / 0B") && stats.lines().count() == 2, "{stats}");
    for namespace in ["--network", "--pid", "--ipc"] {
        sandbox
            .command(rkvm_testing::binary("rkvm"))
            .env("RKVM_ROOT", sandbox.root())
            .args(["run", "--rm", namespace, "container:vm", "busybox", "true"])
            .fails("microVM");
    }
    sandbox.rkvm(["rm", "-f", "container", "vm"]).ok();
}

#[test]
fn what_it_cannot_have_is_refused_by_name() {
    let Some(sandbox) = sandbox() else { return };
    let bind = format!("{}:/x:rslave", sandbox.path().display());
    for (flags, named) in [
        (&["--network", "host"][..], "--network host"),
        (&["--pid", "host"], "--pid host"),
        (&["--ipc", "host"], "--ipc host"),
        (&["--uts", "host"], "--uts host"),
        (&["--device", "/dev/fuse"], "--device"),
        (&["-v", &bind], "propagation"),
        (&["--security-opt", "apparmor=some"], "apparmor"),
        (&["--kernel", "/no/such/file"], "--kernel"),
        (&["--kernel", "/etc/passwd"], "/etc/passwd"),
        (&["--initrd", "/no/such/file"], "--initrd"),
    ] {
        let output = sandbox.rkvm(["run", "--rm"]).args(flags).args(["busybox", "true"]).run();
        assert_eq!(output.code, 125, "{output}");
        assert!(output.stderr().contains(named), "{named}: {output}");
    }
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
    let container = Sandbox::new();
    container.load_busybox();
    container.rkvm(["run", "--rm", "--cmdline", "quiet", "busybox", "true"]).fails("--isolation=vm");
}

#[test]
fn the_kernels_command_line_takes_more_words() {
    let Some(sandbox) = sandbox() else { return };
    let output = run(&sandbox, &["--cmdline", "rkvm.test=yes"], "cat /proc/cmdline").expect_code(0);
    assert!(output.text().ends_with("rkvm.test=yes"), "{output}");
}

#[test]
fn owners_on_disk_are_those_seen_inside() {
    let Some(sandbox) = sandbox() else { return };
    let host = sandbox.path().join("host");
    fs::create_dir(&host).unwrap();
    fs::write(host.join("from-host"), "x").unwrap();
    std::os::unix::fs::chown(host.join("from-host"), Some(1000), Some(1000)).unwrap();
    let bind = format!("{}:/host", host.display());
    let script = "touch /host/root /vol/root /kept; su user -c 'touch /tmp/user'; chown 1000:2000 /host/root; \
                  stat -c %u:%g /host/from-host /host/root /vol/root /tmp/user /bin/busybox /kept";
    for userns in ["private", "host"] {
        let flags = ["--userns", userns, "-v", &bind, "-v", "named:/vol"];
        let output = run(&sandbox, &flags, script).expect_code(0);
        assert_eq!(output.text().replace('\n', " "), "1000:1000 1000:2000 0:0 1000:1000 0:0 0:0", "{userns}");
        let owner = |path: &std::path::Path| {
            let metadata = path.metadata().unwrap();
            (metadata.uid(), metadata.gid())
        };
        assert_eq!(owner(&host.join("root")), (1000, 2000), "{userns}");
        assert_eq!(owner(&sandbox.root().join("lib/volumes/named/_data/root")), (0, 0), "{userns}");
        fs::remove_file(host.join("root")).unwrap();
    }
    sandbox.rkvm(["volume", "rm", "named"]).ok();
}

#[test]
fn the_write_layer_is_read_on_the_host_as_the_guest_left_it() {
    let Some(sandbox) = sandbox() else { return };
    let script = "rm -rf /www /etc/group; mkdir /www; echo new > /www/new; ln -s /etc/passwd /www/link; \
                  chmod 750 /www/new; echo more >> /etc/passwd";
    sandbox.rkvm(["run", "--name", "box", "--network", "none", "busybox", "sh", "-c", script]).ok();
    let diff = sandbox.rkvm(["diff", "box"]).ok().text();
    let lines: Vec<&str> = diff.lines().collect();
    for expected in
        ["C /www", "D /www/index.html", "A /www/new", "A /www/link", "D /etc/group", "C /etc/passwd"]
    {
        assert!(lines.contains(&expected), "{expected} is not in\n{diff}");
    }
    assert!(!diff.contains("/dev") && !diff.contains("rkvm"), "{diff}");
    sandbox.rkvm(["cp", "box:/www", "out"]).ok();
    let names: Vec<_> =
        fs::read_dir(sandbox.path().join("out")).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert_eq!(names.len(), 2, "what was removed does not come back: {names:?}");
    assert_eq!(fs::metadata(sandbox.path().join("out/new")).unwrap().mode() & 0o777, 0o750);
    // And the other way round: what the host writes is there at the next start.
    fs::write(sandbox.path().join("file"), "written meanwhile").unwrap();
    sandbox.rkvm(["cp", "file", "box:/www/"]).ok();
    sandbox.rkvm(["rm", "box"]).ok();
    let keep = ["create", "--name", "again", "--network", "none", "busybox", "cat", "/www/file"];
    sandbox.rkvm(keep).ok();
    sandbox.rkvm(["cp", "file", "again:/www/"]).ok();
    assert_eq!(sandbox.rkvm(["start", "-a", "again"]).ok().text(), "written meanwhile");
    sandbox.rkvm(["rm", "again"]).ok();
}

#[test]
fn trees_are_copied_into_and_out_of_a_vm_that_runs() {
    let Some(sandbox) = sandbox() else { return };
    sandbox
        .rkvm([
            "run",
            "-d",
            "--name",
            "box",
            "--network",
            "none",
            "-v",
            "data:/data",
            "busybox",
            "sleep",
            "1000",
        ])
        .ok();
    let tree = sandbox.path().join("tree");
    fs::create_dir_all(tree.join("deep")).unwrap();
    fs::write(tree.join("deep/large"), vec![b'x'; 3_000_000]).unwrap();
    fs::write(tree.join("small"), "small").unwrap();
    std::os::unix::fs::symlink("small", tree.join("link")).unwrap();
    let exec = |script: &str| sandbox.rkvm(["exec", "box", "sh", "-c", script]).ok().text();
    sandbox.rkvm(["cp", "tree", "box:/root"]).ok();
    sandbox.rkvm(["cp", "tree", "box:/root/named"]).ok();
    sandbox.rkvm(["cp", "tree/.", "box:/data"]).ok();
    sandbox.rkvm(["cp", "tree/small", "box:/tmp/renamed"]).ok();
    assert_eq!(
        exec("wc -c < /root/tree/deep/large; cat /root/named/small /root/named/link"),
        "3000000\nsmallsmall"
    );
    assert_eq!(exec("ls /data; readlink /data/link; cat /tmp/renamed"), "deep\nlink\nsmall\nsmall\nsmall");
    sandbox.rkvm(["cp", "box:/root/tree", "back"]).ok();
    assert_eq!(fs::metadata(sandbox.path().join("back/deep/large")).unwrap().len(), 3_000_000);
    fs::create_dir(sandbox.path().join("into")).unwrap();
    sandbox.rkvm(["cp", "box:/root/tree/.", "into"]).ok();
    sandbox.rkvm(["cp", "box:/data/small", "into/renamed"]).ok();
    sandbox.rkvm(["cp", "box:/root/tree", "into"]).ok();
    for path in ["into/deep/large", "into/renamed", "into/tree/small"] {
        assert!(sandbox.path().join(path).exists(), "{path}");
    }
    sandbox.rkvm(["cp", "box:/no/such", "x"]).fails("no such file");
    sandbox.rkvm(["cp", "tree", "box:/no/such/folder"]).fails("does not exist");
    sandbox.rkvm(["cp", "tree", "box:/data/small"]).fails("not a folder");
    let archive = sandbox.rkvm(["cp", "box:/root/tree", "-"]).ok();
    sandbox.rkvm(["cp", "-", "box:/tmp"]).stdin(archive.stdout()).ok();
    assert_eq!(exec("cat /tmp/tree/small"), "small");
    sandbox.rkvm(["pause", "box"]).ok();
    sandbox.rkvm(["cp", "box:/root/tree", "frozen"]).fails("unpause");
    sandbox.rkvm(["unpause", "box"]).ok();
    assert_eq!(fs::read_dir(sandbox.root().join("lib/containers")).unwrap().count(), 1);
    sandbox.rkvm(["rm", "-f", "box"]).ok();
    sandbox.rkvm(["volume", "rm", "data"]).ok();
}

#[test]
fn a_killed_machine_is_reported_and_leaves_nothing() {
    let Some(sandbox) = sandbox() else { return };
    let publish = format!("127.0.0.1:{}:80", free_port());
    sandbox.rkvm(["run", "-d", "--name", "box", "-p", &publish, "busybox", "sleep", "1000"]).ok();
    let pid = sandbox.rkvm(["inspect", "--format", "{{.State.Pid}}", "box"]).ok().text();
    kill(Pid::from_raw(pid.parse().unwrap()), Signal::SIGKILL).unwrap();
    assert_eq!(sandbox.rkvm(["wait", "box"]).ok().text(), "137");
    sandbox.rkvm(["start", "box"]).ok();
    assert_eq!(sandbox.rkvm(["exec", "box", "echo", "up"]).ok().text(), "up");
    sandbox.rkvm(["rm", "-f", "box"]).ok();
    sandbox.assert_no_leaks();
}

#[test]
fn all_machines_of_an_image_share_one_file_which_goes_with_it() {
    let Some(sandbox) = sandbox() else { return };
    let clients: Vec<_> = (0..3)
        .map(|_| sandbox.rkvm(["run", "--rm", "--network", "none", "busybox", "true"]).spawn())
        .collect();
    for client in clients {
        client.wait().expect_code(0);
    }
    let folder = sandbox.root().join("lib/images/erofs");
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 1);
    assert_eq!(fs::read_dir(sandbox.root().join("lib/images/ingest")).unwrap().count(), 0);
    sandbox.rkvm(["rmi", "busybox"]).ok();
    assert_eq!(fs::read_dir(&folder).unwrap().count(), 0);
}
