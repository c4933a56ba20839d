//! Many containers, one after the other and all at once: nothing is left, nothing is given twice.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use rkvm_testing::{Isolation, Sandbox, free_port, in_both_isolations, wait};

in_both_isolations! {
    hundreds_of_starts_and_stops,
    many_at_once,
    a_monitor_keeps_nothing_of_the_runs_before,
}

fn hundreds_of_starts_and_stops(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    // Two starts each: 200 containers, 100 boots.
    let cycles = match isolation {
        Isolation::Container => 100,
        Isolation::Vm => 50,
    };
    // Lanes, because a boot alone leaves a processor idle: each one container many times, and many containers.
    std::thread::scope(|scope| {
        for lane in 0..2 {
            let sandbox = &sandbox;
            scope.spawn(move || {
                let again = format!("again{lane}");
                let publish = format!("127.0.0.1:{}:80", free_port());
                sandbox.rkvm(["create", "--name", &again, "-p", &publish, "busybox", "sleep", "1000"]).ok();
                for cycle in 0..cycles / 2 {
                    sandbox.rkvm(["start", &again]).ok();
                    sandbox.rkvm(["stop", "-t", "0", &again]).ok();
                    let said = format!("{lane}-{cycle}");
                    let id = sandbox.path().join(format!("id-{said}"));
                    let run = sandbox.rkvm(["run", "--rm", "--cidfile", id.to_str().unwrap()]);
                    assert_eq!(run.args(["busybox", "echo", &said]).ok().text(), said);
                    sandbox.remember(fs::read_to_string(&id).unwrap().trim());
                }
                sandbox.rkvm(["rm", &again]).ok();
            });
        }
    });
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
    sandbox.assert_no_leaks();
}

fn many_at_once(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    let many = match isolation {
        Isolation::Container => 50,
        Isolation::Vm => 20,
    };
    let starting: Vec<_> = (0..many)
        .map(|number| {
            let name = format!("n{number}");
            sandbox.rkvm(["run", "-d", "--name", &name, "busybox", "sleep", "1000"]).spawn()
        })
        .collect();
    let ids: BTreeSet<String> = starting.into_iter().map(|one| one.wait().expect_code(0).text()).collect();
    assert_eq!(ids.len(), many);
    let listed = sandbox.rkvm(["ps", "-q", "--no-trunc"]).ok().stdout();
    assert_eq!(listed.lines().map(str::to_owned).collect::<BTreeSet<_>>(), ids);

    // No address and no user is given twice.
    let format = "{{.NetworkSettings.IPAddress}} {{.State.Pid}}";
    let rows = sandbox.rkvm(["inspect", "--format", format]).args(&ids).ok().stdout();
    let mut addresses = BTreeSet::new();
    let mut users = BTreeSet::new();
    for row in rows.lines() {
        let (address, pid) = row.split_once(' ').unwrap();
        assert!(addresses.insert(address.to_owned()), "{address} is given twice");
        let map = fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
        assert!(users.insert(map), "users are given twice");
    }
    assert_eq!(users.len(), many);
    // And each has the address that it was given.
    let some = ids.iter().take(5).map(|id| sandbox.rkvm(["exec", id, "ip", "-4", "-o", "addr"]).spawn());
    for one in some.collect::<Vec<_>>() {
        let shown = one.wait().expect_code(0).text();
        assert!(addresses.iter().any(|address| shown.contains(&format!(" {address}/"))), "{shown}");
    }

    let stopping: Vec<_> = ids.iter().map(|id| sandbox.rkvm(["rm", "-f", id]).spawn()).collect();
    stopping.into_iter().for_each(|one| drop(one.wait().expect_code(0)));
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
    sandbox.assert_no_leaks();
}

/// What process `pid` has open and mapped: a line for each descriptor, and one for each mount of its namespace.
fn holdings(pid: i64) -> Vec<String> {
    let process = PathBuf::from(format!("/proc/{pid}"));
    let fds = fs::read_dir(process.join("fd")).unwrap().flatten();
    let target = |path: &Path| fs::read_link(path).map(|path| path.display().to_string()).unwrap_or_default();
    let mut all: Vec<String> = fds.map(|fd| target(&fd.path())).collect();
    let mounts = fs::read_to_string(process.join("mountinfo")).unwrap();
    all.extend(mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(|at| format!("mount on {at}")));
    all.sort();
    all
}

fn a_monitor_keeps_nothing_of_the_runs_before(isolation: Isolation) {
    let sandbox = Sandbox::of(isolation);
    sandbox.load_busybox();
    let publish = format!("127.0.0.1:{}:80", free_port());
    // It runs on until it is told to end; the monitor then starts it anew.
    let script = "while [ ! -e /end ]; do sleep 0.05; done; rm /end; exit 1";
    let run = ["run", "-d", "--restart", "always", "--name", "again", "-p", &publish, "-v", "/data"];
    sandbox.rkvm(run).args(["busybox", "sh", "-c", script]).ok();
    let folder = fs::read_link(sandbox.root().join("lib/names/again")).unwrap();
    let state = sandbox.root().join("lib/containers").join(folder).join("state.json");
    let read = || -> Option<serde_json::Value> { serde_json::from_slice(&fs::read(&state).ok()?).ok() };
    let monitor = read().unwrap()["monitor_pid"].as_i64().unwrap();
    let mut seen = vec![];
    for restart in 0..5 {
        let ran = read().unwrap()["pid"].as_i64();
        seen.push(holdings(monitor));
        sandbox.rkvm(["exec", "again", "touch", "/end"]).ok();
        wait::until(&format!("restart {restart}"), || {
            let format = "{{.State.Status}} {{.State.Pid}}";
            let now = sandbox.rkvm(["inspect", "--format", format, "again"]).ok().text();
            let (status, pid) = now.split_once(' ')?;
            (status == "running" && pid.parse().ok() != ran).then_some(())
        });
    }
    assert_eq!(seen[1].len(), seen[4].len(), "{:#?}\n{:#?}", seen[1], seen[4]);
    sandbox.rkvm(["rm", "-f", "-v", "again"]).ok();
    sandbox.assert_no_leaks();
}
