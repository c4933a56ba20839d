//! What verbs print, and the logs that callers parse.

use std::fs;

use serde_json::Value;

use crate::subject::Subject;
use crate::{Case, case};

pub const CASES: &[Case] = &[
    case("list", list),
    case("list-of-an-empty-store", list_empty),
    case("ps", ps),
    case("spec-makes-a-bundle-that-runs", spec),
    case("spec-does-not-overwrite", spec_twice),
    case("features", features),
    case("log-json", log_json),
    case("log-text-to-a-file", log_text),
    case("nothing-is-printed-on-success", silent),
    case("version", version),
    case("help-is-no-error", help),
];

fn list(s: &Subject) {
    let pid = s.sleeper();
    let table = s.cmd(["list"]).ok().stdout();
    let mut lines = table.lines();
    let header = lines.next().unwrap();
    for column in ["ID", "PID", "STATUS", "BUNDLE", "CREATED", "OWNER"] {
        assert!(header.contains(column), "{header}");
    }
    let row = lines.next().unwrap();
    assert!(row.contains(&s.id()) && row.contains(&pid.to_string()) && row.contains("running"), "{row}");
    let json = s.cmd(["list", "--format", "json"]).ok().json();
    let row = &json.as_array().unwrap()[0];
    assert_eq!(row["id"], s.id());
    assert_eq!(row["pid"], pid);
    assert_eq!(row["status"], "running");
    assert!(row["created"].as_str().unwrap().contains('T'), "{row}");
    assert_eq!(row["owner"], "root");
    s.cmd(["list", "--format", "nonsense"]).fails("format");
}

fn list_empty(s: &Subject) {
    assert_eq!(s.cmd(["list", "-q"]).ok().stdout(), "");
    assert_eq!(s.cmd(["list"]).ok().stdout().lines().count(), 1);
}

fn ps(s: &Subject) {
    let pid = s.sleeper();
    let json = s.cmd(["ps", "--format", "json"]).arg(s.id()).ok().json();
    assert_eq!(json, serde_json::json!([pid]));
    let table = s.cmd(["ps"]).arg(s.id()).ok().stdout();
    assert!(table.contains("sleep 1000") && table.contains("PID"), "{table}");
    // Further arguments are ps's own.
    let table = s.cmd(["ps"]).arg(s.id()).args(["-eo", "pid,comm"]).ok().stdout();
    assert!(table.contains("sleep") && !table.contains("1000 "), "{table}");
}

fn spec(s: &Subject) {
    let bundle = s.bundle(&["true"]);
    fs::remove_file(bundle.path.join("config.json")).unwrap();
    s.cmd(["spec", "--bundle"]).arg(&bundle.path).ok();
    let mut config: Value =
        serde_json::from_slice(&fs::read(bundle.path.join("config.json")).unwrap()).unwrap();
    assert_eq!(config["process"]["terminal"], true);
    assert_eq!(config["process"]["args"], serde_json::json!(["sh"]));
    config["process"]["terminal"] = false.into();
    config["process"]["args"] = serde_json::json!(["echo", "from spec"]);
    config["linux"]["cgroupsPath"] = s.sandbox.cgroup("c").into();
    fs::write(bundle.path.join("config.json"), config.to_string()).unwrap();
    assert_eq!(s.run(&bundle).expect_code(0).text(), "from spec");
}

fn spec_twice(s: &Subject) {
    let bundle = s.bundle(&["true"]);
    s.cmd(["spec", "--bundle"]).arg(&bundle.path).fails("exist");
}

fn features(s: &Subject) {
    let features = s.cmd(["features"]).ok().json();
    for namespace in ["cgroup", "ipc", "mount", "network", "pid", "user", "uts"] {
        assert!(
            features["linux"]["namespaces"].as_array().unwrap().contains(&namespace.into()),
            "{namespace}"
        );
    }
    assert_eq!(features["hooks"].as_array().unwrap().len(), 6);
    for option in ["ro", "rro", "rbind", "nosuid", "rshared", "remount"] {
        assert!(features["mountOptions"].as_array().unwrap().contains(&option.into()), "{option}");
    }
    assert!(features["linux"]["capabilities"].as_array().unwrap().len() > 35);
    assert_eq!(features["linux"]["seccomp"]["enabled"], true);
    assert_eq!(features["linux"]["cgroup"]["v1"], true);
}

fn log_json(s: &Subject) {
    let log = s.sandbox.path().join("log");
    let output =
        s.global(&["--log", log.to_str().unwrap(), "--log-format", "json"]).args(["state", "nope"]).run();
    assert_ne!(output.code, 0);
    let text = fs::read_to_string(&log).unwrap();
    let line: Value = serde_json::from_str(text.lines().last().expect("a line in the log")).unwrap();
    assert_eq!(line["level"], "error");
    assert!(line["msg"].as_str().unwrap().contains("not exist"), "{line}");
    assert!(line["time"].as_str().unwrap().contains('T'), "{line}");
}

fn log_text(s: &Subject) {
    let log = s.sandbox.path().join("log");
    s.global(&["--log", log.to_str().unwrap()]).args(["state", "nope"]).fails("not exist");
    let text = fs::read_to_string(&log).unwrap();
    assert!(text.contains("level=error") && text.contains("not exist"), "{text}");
    // Appended to, never cut: several commands of one caller share it.
    s.global(&["--log", log.to_str().unwrap()]).args(["state", "nope"]).fails("not exist");
    assert!(fs::read_to_string(&log).unwrap().len() > text.len());
}

fn silent(s: &Subject) {
    let output = s.create(&s.bundle(&["true"])).1;
    assert_eq!((output.stdout(), output.stderr()), (String::new(), String::new()));
    let output = s.cmd(["start"]).arg(s.id()).ok();
    assert_eq!((output.stdout(), output.stderr()), (String::new(), String::new()));
}

fn version(s: &Subject) {
    let text = s.global(&["--version"]).run().expect_code(0).stdout();
    assert!(text.contains("version") && text.contains("spec: 1."), "{text}");
}

fn help(s: &Subject) {
    assert!(s.cmd(["--help"]).ok().stdout().contains("create"));
    assert!(s.cmd(["run", "--help"]).ok().stdout().contains("bundle"));
}
