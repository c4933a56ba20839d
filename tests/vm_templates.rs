//! MicroVMs that go on where another one of their shape had booted to: which do, that each is one of its own, and what happens when one
//! cannot.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::time::SystemTime;

use rkvm_testing::{Cmd, Isolation, Sandbox, free_port, has_vms, wait};

/// A sandbox with an image and a folder of its own for templates; `None` where no microVM runs.
fn sandbox() -> Option<(Sandbox, PathBuf)> {
    has_vms().then(|| {
        let sandbox = Sandbox::of(Isolation::Vm);
        sandbox.load_busybox();
        let folder = sandbox.path().join("templates");
        (sandbox, folder)
    })
}

fn command(sandbox: &Sandbox, words: &[&str]) -> Cmd {
    sandbox.rkvm(words).env("RKVM_TEMPLATES", sandbox.path().join("templates"))
}

fn run(sandbox: &Sandbox, flags: &[&str], script: &str) -> String {
    let run = command(sandbox, &["run", "--rm"]).args(flags).args(["busybox", "sh", "-c", script]);
    run.run().expect_code(0).text()
}

/// The templates, by their names, with when each was used last.
fn templates(folder: &PathBuf) -> Vec<(PathBuf, SystemTime)> {
    let entries = fs::read_dir(folder).into_iter().flatten().map(|entry| entry.unwrap().path());
    let mut all: Vec<_> =
        entries.map(|path| (path.clone(), path.metadata().unwrap().modified().unwrap())).collect();
    all.sort();
    all
}

#[test]
fn the_second_start_goes_on_from_the_first_ones_template() {
    let Some((sandbox, folder)) = sandbox() else { return };
    let look = "cat /proc/sys/kernel/random/boot_id /sys/class/net/eth0/address; date +%s; hostname; cat /proc/uptime";
    let first = run(&sandbox, &[], look);
    let recorded = templates(&folder);
    assert_eq!(recorded.len(), 1, "{recorded:?}");
    assert_eq!(folder.metadata().unwrap().permissions().mode() & 0o777, 0o700);
    assert_eq!(recorded[0].0.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let second = run(&sandbox, &[], look);
    let used = templates(&folder);
    assert!(used.len() == 1 && used[0].1 > recorded[0].1, "{recorded:?} {used:?}");
    let lines = [&first, &second].map(|text| text.lines().collect::<Vec<_>>());
    for index in [0, 1, 3] {
        assert_ne!(lines[0][index], lines[1][index], "{first}{second}");
    }
    let number = |text: &str| text.split(' ').next().unwrap().parse::<f64>().unwrap();
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    assert!((0.0..60.0).contains(&(now - number(lines[1][2]))), "{second} at {now}");
    assert!(number(lines[1][4]) < 60.0, "{second}");
}

#[test]
fn its_address_is_that_of_its_container_and_answers() {
    let Some((sandbox, folder)) = sandbox() else { return };
    run(&sandbox, &[], "true");
    for name in ["one", "two"] {
        let port = free_port();
        let publish = format!("127.0.0.1:{port}:80");
        let script = format!("mkdir /srv; echo from {name} > /srv/index.html; exec httpd -f -h /srv");
        command(&sandbox, &["run", "-d", "--name", name, "-p", &publish, "busybox", "sh", "-c", &script])
            .ok();
        let format = "{{.NetworkSettings.MacAddress}}";
        let inspected = sandbox.rkvm(["inspect", "--format", format, name]).ok().text();
        let inside = sandbox.rkvm(["exec", name, "cat", "/sys/class/net/eth0/address"]).ok().text();
        assert_eq!(inside, inspected);
        let url = format!("http://127.0.0.1:{port}/");
        let page = wait::until("the page", || {
            let page = sandbox.command("busybox").args(["wget", "-qO-", &url]).run();
            (page.code == 0).then(|| page.text())
        });
        assert_eq!(page, format!("from {name}"));
    }
    assert_eq!(templates(&folder).len(), 1);
    sandbox.rkvm(["rm", "-f", "one", "two"]).ok();
}

#[test]
fn each_shape_has_its_own_and_some_machines_boot() {
    let Some((sandbox, folder)) = sandbox() else { return };
    let volume = format!("{}:/there:ro", sandbox.path().display());
    for (count, flags, script, said) in [
        (1, &["--network", "none"][..], "nproc", "1"),
        (2, &["--network", "none", "--cpus", "2"], "nproc", "2"),
        (3, &["--network", "none", "-m", "100m"], "grep -c MemTotal /proc/meminfo", "1"),
        (4, &["--network", "none", "--cmdline", "a.word=1"], "grep -c a.word=1 /proc/cmdline", "1"),
        // A folder more or less is none: all are shared by the one device.
        (4, &["--network", "none", "-v", &volume], "test -e /there/templates && echo there", "there"),
        (4, &["--network", "none", "--template", "never", "-m", "90m"], "echo booted", "booted"),
        (
            4,
            &["--network", "none", "--annotation", "io.rkvm.vm.console=/dev/null", "-m", "90m"],
            "echo it",
            "it",
        ),
    ] {
        for turn in 0..2 {
            assert_eq!(run(&sandbox, flags, script), said, "{flags:?}, turn {turn}");
            assert_eq!(templates(&folder).len(), count, "{flags:?}, turn {turn}");
        }
    }
    command(&sandbox, &["run", "--rm", "--template", "often", "busybox", "true"]).fails("auto");
    let annotated = ["run", "--rm", "--annotation", "io.rkvm.vm.template=often", "busybox", "true"];
    command(&sandbox, &annotated).fails("io.rkvm.vm.template");
    // One that is used no more is as little there as a container that is used no more.
    command(&sandbox, &["system", "prune", "--force"]).ok();
    assert_eq!(templates(&folder), []);
}

#[test]
fn what_cannot_be_used_is_told_once_and_then_machines_boot() {
    let Some((sandbox, folder)) = sandbox() else { return };
    run(&sandbox, &[], "true");
    let template = templates(&folder)[0].0.clone();
    let content = fs::read(&template).unwrap();
    // The file is whole, and what it holds is not: memory of zeros.
    let description = u64::from_le_bytes(content[8..16].try_into().unwrap()) as usize;
    let mut zeros = content.clone();
    zeros[4096..description].fill(0);
    let cut = &content[..content.len() / 2];
    for (content, limit) in [(b"garbage".as_slice(), ""), (cut, ""), (&zeros, "io.rkvm.vm.boot-timeout=3")] {
        fs::write(&template, content).unwrap();
        let mut flags = vec!["run", "--rm"];
        if !limit.is_empty() {
            flags.extend(["--annotation", limit]);
        }
        let failed = command(&sandbox, &flags).args(["busybox", "true"]).run();
        assert_eq!(failed.code, 125, "{failed}");
        assert!(
            failed.stderr().contains("template") && failed.stderr().contains("next ones boot"),
            "{failed}"
        );
        for _ in 0..2 {
            assert_eq!(run(&sandbox, &[], "echo booted"), "booted");
        }
        assert_eq!(fs::metadata(&template).unwrap().len(), 0);
    }
    // What the workload does wrong is not the template's fault.
    fs::remove_file(&template).unwrap();
    run(&sandbox, &[], "true");
    let missing = command(&sandbox, &["run", "--rm", "busybox", "/no/such/program"]).run();
    assert_eq!(missing.code, 127, "{missing}");
    assert!(fs::metadata(&template).unwrap().len() > 0);
}

#[test]
fn a_folder_that_others_can_write_to_holds_no_templates() {
    let Some((sandbox, folder)) = sandbox() else { return };
    fs::create_dir(&folder).unwrap();
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o777)).unwrap();
    assert_eq!(run(&sandbox, &[], "echo booted"), "booted");
    assert_eq!(templates(&folder), []);
}

#[test]
fn a_runtimes_machines_have_templates_too() {
    if !has_vms() {
        return;
    }
    let sandbox = Sandbox::of(Isolation::Vm);
    let folder = sandbox.path().join("templates");
    let bundle = sandbox.bundle("c", &["cat", "/proc/sys/kernel/random/boot_id"]);
    let start = |flags: &[&str]| {
        let run = sandbox.oci(["run"]).args(flags).arg("--bundle").arg(&bundle.path).arg(sandbox.id("c"));
        run.env("RKVM_TEMPLATES", &folder).ok().text()
    };
    let first = start(&[]);
    let recorded = templates(&folder);
    assert_eq!(recorded.len(), 1);
    assert_ne!(start(&[]), first);
    let used = templates(&folder);
    assert!(used.len() == 1 && used[0].1 > recorded[0].1, "{recorded:?} {used:?}");
    start(&["--template", "never"]);
    assert_eq!(templates(&folder), used);
}
