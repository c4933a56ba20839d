//! Commands that show the engine and the host, and volumes, through the real binary.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;

use rkvm_testing::Sandbox;
use serde_json::Value;

#[track_caller]
fn out(sandbox: &Sandbox, args: &[&str]) -> String {
    sandbox.rkvm(args).ok().stdout().trim_end_matches('\n').to_owned()
}

#[test]
fn versions_and_host_are_told_in_three_forms() {
    let sandbox = Sandbox::new();
    assert!(out(&sandbox, &["version"]).contains("Runtime Spec:"));
    assert_eq!(out(&sandbox, &["version", "--format", "{{.Client.Version}}"]), env!("CARGO_PKG_VERSION"));
    let version: Value = serde_json::from_str(&out(&sandbox, &["version", "--format", "json"])).unwrap();
    assert_eq!(version["Server"]["Os"], "linux");

    let info: Value = serde_json::from_str(&out(&sandbox, &["info", "--format", "json"])).unwrap();
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
    assert_eq!(info["KernelVersion"], kernel.trim());
    assert_eq!(info["Containers"], 0);
    assert_eq!(info["Isolation"][1]["Name"], "vm");
    assert_eq!(info["RootDir"], sandbox.root().join("lib").to_str().unwrap());
    assert!(out(&sandbox, &["system", "info"]).contains("Cgroup Mode: "));
    assert_eq!(sandbox.rkvm(["info", "--format", "{{.Nope}}"]).fails("Nope").code, 1);
}

#[test]
fn features_list_both_backends_and_whether_the_host_can_run_them() {
    let sandbox = Sandbox::new();
    let features: Value = serde_json::from_str(&out(&sandbox, &["features", "--format", "json"])).unwrap();
    assert_eq!(features["container"]["available"], true);
    assert_eq!(features["vm"]["available"], std::path::Path::new("/dev/kvm").exists());
    assert_eq!(features["vm"]["features"]["linux"]["netDevices"]["enabled"], false);
    let text = out(&sandbox, &["features", "--isolation", "vm"]);
    assert!(text.contains("vm: ") && !text.contains("container: "), "{text}");
    sandbox.rkvm(["features", "--isolation", "box"]).fails("container");
}

#[test]
fn each_shell_gets_its_script() {
    let sandbox = Sandbox::new();
    for shell in ["bash", "zsh", "fish"] {
        let script = out(&sandbox, &["completion", shell]);
        assert!(script.contains("rkvm") && script.contains("inspect"), "{shell}");
    }
    let script = sandbox.path().join("complete");
    fs::write(&script, out(&sandbox, &["completion", "bash"])).unwrap();
    sandbox.command("bash").arg("-n").arg(&script).ok();
}

#[test]
fn every_verb_has_help() {
    let sandbox = Sandbox::new();
    let help = out(&sandbox, &["--help"]);
    let verbs: Vec<_> = help
        .lines()
        .skip_while(|line| !line.starts_with("Commands:"))
        .skip(1)
        .take_while(|line| !line.is_empty())
        // A verb is indented by two; what is further in goes on with a description.
        .filter_map(|line| line.strip_prefix("  ").filter(|rest| !rest.starts_with(' ')))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|verb| *verb != "help")
        .collect();
    assert!(verbs.len() > 30, "{verbs:?}");
    for verb in verbs {
        let help = out(&sandbox, &[verb, "--help"]);
        assert!(help.contains("Usage: rkvm"), "{verb}: {help}");
    }
}

#[test]
fn volumes_are_made_shown_and_removed() {
    let sandbox = Sandbox::new();
    assert_eq!(out(&sandbox, &["volume", "create", "--label", "a=1", "data"]), "data");
    assert_eq!(out(&sandbox, &["volume", "create", "data"]), "data", "making it again is no error");
    let anonymous = out(&sandbox, &["volume", "create"]);
    assert_eq!(anonymous.len(), 64);
    let place = out(&sandbox, &["volume", "inspect", "-f", "{{.Mountpoint}}", "data"]);
    fs::write(format!("{place}/file"), vec![1; 5_000]).unwrap();
    assert_eq!(out(&sandbox, &["volume", "ls", "-q", "--filter", "label=a=1"]), "data");
    assert_eq!(out(&sandbox, &["volume", "ls", "-q", "--filter", "dangling=false"]), "");
    assert_eq!(
        out(&sandbox, &["volume", "ls", "--filter", "name=^data$"]),
        "DRIVER    VOLUME NAME\nlocal     data"
    );
    for (args, part) in [
        (&["volume", "create", "no/name"][..], "no/name"),
        (&["volume", "create", "-d", "nfs", "x1"], "nfs"),
        (&["volume", "rm", "nothing"], "nothing"),
        (&["volume", "inspect", "nothing"], "nothing"),
        (&["volume", "ls", "--filter", "dangling=perhaps"], "true"),
        (&["volume", "ls", "--filter", "size=1"], "size"),
    ] {
        assert_eq!(sandbox.rkvm(args).fails(part).code, 1, "{args:?}");
    }
    sandbox.rkvm(["volume", "rm", "-f", "nothing"]).ok();
    sandbox.rkvm(["volume", "prune"]).fails("cancelled");
    assert!(out(&sandbox, &["volume", "prune", "-f"]).contains(&anonymous));
    assert_eq!(out(&sandbox, &["volume", "rm", "data"]), "data");
    assert!(!std::path::Path::new(&place).exists());
}

#[test]
fn a_used_volume_is_not_removed() {
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    out(&sandbox, &["create", "--name", "user", "-v", "data:/data", "busybox"]);
    let id = out(&sandbox, &["ps", "-aq"]);
    sandbox.rkvm(["volume", "rm", "data"]).fails(&id);
    sandbox.rkvm(["volume", "prune", "-af"]).ok();
    let disk = out(&sandbox, &["system", "df", "--format", "{{.Type}} {{.TotalCount}} {{.Active}}"]);
    assert_eq!(disk, "Images 1 1\nContainers 1 0\nLocal Volumes 1 1");
    assert_eq!(out(&sandbox, &["volume", "ls", "-q", "--filter", "dangling=false"]), "data");
    sandbox.rkvm(["rm", "user"]).ok();
    sandbox.rkvm(["volume", "rm", "data"]).ok();
}
