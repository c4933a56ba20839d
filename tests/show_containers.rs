//! Commands that show containers, through the real binary: ps, inspect, port, rename, diff, top, stats, cp and prune.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};

use rkvm_testing::{Isolation, Sandbox, free_port, in_both_isolations};
use serde_json::Value;

in_both_isolations! {
    inspect_answers_in_dockers_shape,
    a_container_is_renamed,
    files_are_copied_into_and_out_of_a_container_that_does_not_run,
    a_running_container_is_shown_as_it_is,
}

fn sandbox(isolation: Isolation) -> Sandbox {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    sandbox
}

/// Standard output of `rkvm ARGS`, without the last newline.
#[track_caller]
fn out(sandbox: &Sandbox, args: &[&str]) -> String {
    sandbox.rkvm(args).ok().stdout().trim_end_matches('\n').to_owned()
}

fn inspect(sandbox: &Sandbox, name: &str) -> Value {
    let list: Value = serde_json::from_str(&out(sandbox, &["inspect", name])).unwrap();
    list[0].clone()
}

#[test]
fn created_containers_are_listed_filtered_and_formatted() {
    let sandbox = sandbox(Isolation::Container);
    let web =
        out(&sandbox, &["create", "--name", "web", "--label", "tier=front", "busybox", "sleep", "1000"]);
    let db = out(&sandbox, &["create", "--name", "db", "--label", "tier=back", "busybox", "true"]);
    assert_eq!(web.len(), 64);
    assert_eq!(out(&sandbox, &["ps", "--quiet"]), "", "what does not run is shown with -a only");
    assert_eq!(out(&sandbox, &["ps", "-aq"]), format!("{}\n{}", &db[..12], &web[..12]));
    assert_eq!(
        out(&sandbox, &["ps", "-aq", "--no-trunc", "--filter", "name=web", "--format", "{{.ID}}"]),
        web
    );
    assert_eq!(out(&sandbox, &["ps", "-lq"]), db[..12]);
    assert_eq!(out(&sandbox, &["ps", "-n", "1", "--format", "{{.Names}}"]), "db");
    for (filter, names) in [
        ("label=tier", "db\nweb"),
        ("label=tier=front", "web"),
        ("status=created", "db\nweb"),
        ("status=running", ""),
        ("ancestor=busybox", "db\nweb"),
        ("before=db", "web"),
        ("since=web", "db"),
        ("name=^/db$", "db"),
        ("id=nothing", ""),
        ("network=bridge", "db\nweb"),
        ("isolation=container", "db\nweb"),
    ] {
        assert_eq!(
            out(&sandbox, &["ps", "-a", "--format", "{{.Names}}", "--filter", filter]),
            names,
            "{filter}"
        );
    }
    let table = out(
        &sandbox,
        &["container", "ls", "-a", "--format", "table {{.Names}}\\t{{.Status}}\\t{{.Command}}"],
    );
    assert_eq!(
        table,
        "NAMES     STATUS    COMMAND\ndb        Created   \"true\"\nweb       Created   \"sleep 1000\""
    );
    let row: Value = serde_json::from_str(&out(&sandbox, &["ps", "-l", "--format", "json"])).unwrap();
    assert_eq!(row["State"], "created");
    assert_eq!(
        out(&sandbox, &["ps", "-a", "--filter", "name=web", "--format", "{{.Label \"tier\"}}"]),
        "front"
    );
    sandbox.rkvm(["rm", "web", "db"]).ok();
}

fn inspect_answers_in_dockers_shape(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let args = [
        "create",
        "--name",
        "web",
        "-e",
        "A=1",
        "-m",
        "64m",
        "--label",
        "a.b=c",
        "-v",
        "data:/data",
        "busybox",
        "sleep",
        "9",
    ];
    let id = out(&sandbox, &args);
    let web = inspect(&sandbox, "web");
    for (field, value) in [
        ("/Id", Value::from(id.as_str())),
        ("/Name", "/web".into()),
        ("/Path", "sleep".into()),
        ("/Args/0", "9".into()),
        ("/State/Status", "created".into()),
        ("/State/Running", false.into()),
        ("/State/StartedAt", "0001-01-01T00:00:00Z".into()),
        ("/HostConfig/Memory", (64 << 20).into()),
        ("/HostConfig/Binds/0", "data:/data".into()),
        ("/Mounts/0/Type", "volume".into()),
        ("/Mounts/0/Name", "data".into()),
        ("/Mounts/0/RW", true.into()),
        ("/Config/Labels/a.b", "c".into()),
        ("/Config/Image", "busybox".into()),
        ("/NetworkSettings/IPAddress", "".into()),
        ("/Isolation", if isolation == Isolation::Vm { "vm" } else { "container" }.into()),
    ] {
        assert_eq!(web.pointer(field), Some(&value), "{field} in {web:#}");
    }
    let format = |template: &str| out(&sandbox, &["inspect", "--format", template, "web"]);
    assert_eq!(format("{{.State.Status}} {{index .Config.Labels \"a.b\"}}"), "created c");
    assert_eq!(format("{{range .Mounts}}{{.Destination}}{{end}}"), "/data");
    assert_eq!(format("{{json .Config.Cmd}}"), "[\"sleep\",\"9\"]");
    assert_eq!(format("{{if .State.Running}}up{{else}}down{{end}}"), "down");
    // A prefix of the id, the name with Docker's slash, several objects, other kinds of objects.
    assert_eq!(out(&sandbox, &["inspect", "--format", "{{.Name}}", &id[..8], "/web"]), "/web\n/web");
    assert!(out(&sandbox, &["inspect", "--format", "{{.Id}}", "busybox"]).starts_with("sha256:"));
    assert_eq!(out(&sandbox, &["inspect", "--type", "volume", "--format", "{{.Name}}", "data"]), "data");
    sandbox.rkvm(["rm", "web"]).ok();
    sandbox.rkvm(["volume", "rm", "data"]).ok();
}

#[test]
fn mistakes_are_named_and_exit_with_1() {
    let sandbox = sandbox(Isolation::Container);
    out(&sandbox, &["create", "--name", "web", "busybox"]);
    for (args, part) in [
        (&["inspect", "nobody"][..], "no such object: nobody"),
        (&["inspect", "--type", "container", "busybox"], "no such container: busybox"),
        (&["inspect", "--format", "{{.Nope}}", "web"], "1:3"),
        (&["inspect", "--format", "{{.State", "web"], "not a template"),
        (&["container", "inspect", "busybox"], "no such container"),
        (&["ps", "--filter", "color=red"], "color"),
        (&["ps", "--filter", "status=up"], "running"),
        (&["ps", "--filter", "name=["], "regular expression"),
        (&["ps", "--format", "{{.Nope}}", "-a"], "Nope"),
        (&["ps", "--filter", "since=nobody"], "nobody"),
        (&["rename", "nobody", "web2"], "no such container"),
        (&["rename", "web", "no/name"], "no/name"),
        (&["port", "nobody"], "no such container"),
        (&["port", "web", "80"], "80/tcp"),
        (&["port", "web", "x"], "not a port"),
        (&["top", "web"], "not running"),
        (&["diff", "nobody"], "no such container"),
        (&["stats", "--no-stream", "nobody"], "no such container"),
        (&["cp", "web:/nope", "."], "/nope"),
        (&["cp", "nobody:/etc", "."], "no such container"),
        (&["cp", "a", "b"], "CONTAINER:PATH"),
        (&["cp", "web:/etc", "web:/tmp"], "between containers"),
        (&["cp", "./missing", "web:/"], "missing"),
        (&["cp", "web:", "."], "CONTAINER:PATH"),
    ] {
        let output = sandbox.rkvm(args).fails(part);
        assert_eq!(output.code, 1, "{args:?}");
    }
    assert_eq!(sandbox.rkvm(["ps", "--no-such-flag"]).run().code, 125);
    sandbox.rkvm(["rm", "web"]).ok();
}

fn a_container_is_renamed(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let id = out(&sandbox, &["create", "--name", "old", "busybox"]);
    out(&sandbox, &["create", "--name", "other", "busybox"]);
    sandbox.rkvm(["rename", "old", "new"]).ok();
    assert_eq!(out(&sandbox, &["inspect", "--format", "{{.Id}}", "new"]), id);
    sandbox.rkvm(["inspect", "old"]).fails("no such object");
    sandbox.rkvm(["rename", "new", "other"]).fails("in use");
    sandbox.rkvm(["rm", "new", "other"]).ok();
}

fn files_are_copied_into_and_out_of_a_container_that_does_not_run(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    out(&sandbox, &["create", "--name", "web", "-v", "data:/data", "busybox", "true"]);
    let file = sandbox.path().join("file");
    fs::write(&file, "from the host").unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    sandbox.rkvm(["cp", "file", "web:/root/"]).ok();
    sandbox.rkvm(["cp", "file", "web:/data/kept"]).ok();
    sandbox.rkvm(["cp", "web:/root/file", "back"]).ok();
    assert_eq!(fs::read_to_string(sandbox.path().join("back")).unwrap(), "from the host");
    assert_eq!(fs::metadata(sandbox.path().join("back")).unwrap().mode() & 0o777, 0o640);
    sandbox.rkvm(["cp", "web:/www/.", "."]).ok();
    assert_eq!(fs::read_to_string(sandbox.path().join("index.html")).unwrap(), "it works\n");
    let volume = out(&sandbox, &["volume", "inspect", "--format", "{{.Mountpoint}}", "data"]);
    assert_eq!(fs::read_to_string(format!("{volume}/kept")).unwrap(), "from the host");

    // Through archives: what comes out goes in again.
    let archive = sandbox.rkvm(["cp", "web:/www", "-"]).ok().stdout();
    assert!(archive.contains("www/index.html"));
    sandbox.rkvm(["cp", "-", "web:/home"]).stdin(archive).ok();
    sandbox.rkvm(["cp", "web:/home/www/index.html", "again"]).ok();
    assert_eq!(fs::read_to_string(sandbox.path().join("again")).unwrap(), "it works\n");

    let diff = out(&sandbox, &["diff", "web"]);
    for line in ["C /root", "A /root/file", "C /home", "A /home/www", "A /home/www/index.html"] {
        assert!(diff.lines().any(|found| found == line), "{line} is not in\n{diff}");
    }
    assert!(!diff.contains("kept"), "{diff}");
    sandbox.rkvm(["rm", "web"]).ok();
    sandbox.rkvm(["volume", "rm", "data"]).ok();
}

#[test]
fn pruning_asks_and_takes_only_what_is_not_used() {
    let sandbox = sandbox(Isolation::Container);
    let id = out(&sandbox, &["create", "--name", "old", "--label", "keep=no", "-v", "/anonymous", "busybox"]);
    out(&sandbox, &["volume", "create", "named"]);
    sandbox.rkvm(["container", "prune"]).stdin("n\n").fails("cancelled");
    sandbox.rkvm(["system", "prune", "-f", "--filter", "label=keep=yes"]).ok();
    sandbox.rkvm(["container", "prune", "-f", "--filter", "until=1h"]).ok();
    assert_eq!(out(&sandbox, &["ps", "-aq"]), id[..12], "filters spare it");
    let output = sandbox.rkvm(["system", "prune", "-a", "--volumes"]).stdin("y\n").ok().stdout();
    assert!(
        output.contains("WARNING!") && output.contains(&id) && output.contains("Total reclaimed space"),
        "{output}"
    );
    assert_eq!(out(&sandbox, &["ps", "-aq"]), "");
    assert_eq!(out(&sandbox, &["images", "-q"]), "");
    assert_eq!(out(&sandbox, &["volume", "ls", "-q"]), "named", "a volume with a name is spared");
    sandbox.rkvm(["volume", "prune", "-af"]).ok();
    assert_eq!(out(&sandbox, &["volume", "ls", "-q"]), "");
}

fn a_running_container_is_shown_as_it_is(isolation: Isolation) {
    let sandbox = sandbox(isolation);
    let port = free_port();
    let publish = format!("127.0.0.1:{port}:80");
    let id = out(
        &sandbox,
        &[
            "run",
            "-d",
            "--name",
            "web",
            "-p",
            &publish,
            "busybox",
            "sh",
            "-c",
            "echo hi > /tmp/hi; exec sleep 1000",
        ],
    );
    let status = out(&sandbox, &["ps", "--format", "{{.Status}}|{{.Ports}}|{{.State}}"]);
    assert!(
        status.starts_with("Up ") && status.ends_with(&format!("|127.0.0.1:{port}->80/tcp|running")),
        "{status}"
    );
    assert_eq!(out(&sandbox, &["port", "web"]), format!("80/tcp -> 127.0.0.1:{port}"));
    assert_eq!(out(&sandbox, &["port", "web", "80"]), format!("127.0.0.1:{port}"));
    assert_eq!(out(&sandbox, &["ps", "-q", "--filter", "publish=80"]), id[..12]);
    let web = inspect(&sandbox, "web");
    assert_eq!(web["State"]["Running"], true);
    assert_eq!(web["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"], port.to_string());
    let pid = web["State"]["Pid"].to_string();

    let top = out(&sandbox, &["top", "web"]);
    assert!(top.starts_with("UID") && top.contains("sleep 1000"), "{top}");
    assert_eq!(top.lines().count(), 2, "{top}");
    if isolation == Isolation::Container {
        assert!(top.contains(&pid), "{top}");
        let top = out(&sandbox, &["top", "web", "-o", "pid,args"]);
        assert_eq!(top.lines().count(), 2, "{top}");
        assert!(top.contains(&pid) && top.contains("sleep 1000"), "{top}");
        sandbox.rkvm(["top", "web", "-o", "args"]).fails("no column PID");
    } else {
        sandbox.rkvm(["top", "web", "-o", "pid,args"]).fails("rkvm exec web ps");
    }
    let stats = out(&sandbox, &["stats", "--no-stream", "--format", "{{.Name}} {{.PIDs}} {{.MemUsage}}"]);
    assert!(stats.starts_with("web 1 "), "{stats}");

    // In and out while it runs: owned by the container's root, seen inside.
    fs::write(sandbox.path().join("file"), "x").unwrap();
    sandbox.rkvm(["cp", "file", "web:/tmp/file"]).ok();
    assert_eq!(out(&sandbox, &["exec", "web", "stat", "-c", "%u:%g", "/tmp/file"]), "0:0");
    sandbox.rkvm(["cp", "web:/tmp/hi", "hi"]).ok();
    assert_eq!(fs::read_to_string(sandbox.path().join("hi")).unwrap(), "hi\n");
    // A link that the container made must not lead to the host.
    fs::write(sandbox.path().join("secret"), "secret").unwrap();
    let secret = sandbox.path().join("secret").display().to_string();
    out(&sandbox, &["exec", "web", "ln", "-s", &secret, "/tmp/link"]);
    sandbox.rkvm(["cp", "-L", "web:/tmp/link", "stolen"]).fails("no such file");
    let _ = sandbox.rkvm(["cp", "file", "web:/tmp/link"]).run();
    assert_eq!(fs::read_to_string(&secret).unwrap(), "secret");
    assert!(out(&sandbox, &["diff", "web"]).contains("A /tmp/hi"));

    sandbox.rkvm(["container", "prune", "-f"]).ok();
    assert_eq!(out(&sandbox, &["ps", "-q"]), id[..12], "what runs is spared");
    sandbox.rkvm(["pause", "web"]).ok();
    assert!(out(&sandbox, &["ps", "--format", "{{.Status}}"]).ends_with("(Paused)"));
    sandbox.rkvm(["unpause", "web"]).ok();
    sandbox.rkvm(["kill", "web"]).ok();
    sandbox.rkvm(["wait", "web"]).run();
    assert!(out(&sandbox, &["ps", "-a", "--format", "{{.Status}}"]).starts_with("Exited (137) "));
    assert_eq!(out(&sandbox, &["ps", "-q", "--filter", "exited=137"]), id[..12]);
    sandbox.rkvm(["rm", "web"]).ok();
}
