//! Many containers, one after the other and all at once: nothing is left, nothing is given twice.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeSet;

use rkvm_testing::Sandbox;

#[test]
fn two_hundred_starts_and_stops() {
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    // One container a hundred times, and a hundred containers.
    sandbox.rkvm(["create", "--name", "again", "busybox", "sleep", "1000"]).ok();
    for cycle in 0..100 {
        sandbox.rkvm(["start", "again"]).ok();
        sandbox.rkvm(["stop", "-t", "0", "again"]).ok();
        let output = sandbox.rkvm(["run", "--rm", "busybox", "echo", &cycle.to_string()]).ok();
        assert_eq!(output.text(), cycle.to_string());
    }
    assert_eq!(sandbox.rkvm(["ps", "-q"]).ok().text(), "");
    sandbox.rkvm(["rm", "again"]).ok();
    sandbox.assert_no_leaks();
}

#[test]
fn fifty_at_once() {
    let sandbox = Sandbox::new();
    sandbox.load_busybox();
    let starting: Vec<_> = (0..50)
        .map(|number| {
            let name = format!("n{number}");
            sandbox.rkvm(["run", "-d", "--name", &name, "busybox", "sleep", "1000"]).spawn()
        })
        .collect();
    let ids: BTreeSet<String> = starting.into_iter().map(|one| one.wait().expect_code(0).text()).collect();
    assert_eq!(ids.len(), 50);
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
        let map = std::fs::read_to_string(format!("/proc/{pid}/uid_map")).unwrap();
        assert!(users.insert(map), "users are given twice");
    }
    assert_eq!(users.len(), 50);

    let stopping: Vec<_> = ids.iter().map(|id| sandbox.rkvm(["rm", "-f", id]).spawn()).collect();
    stopping.into_iter().for_each(|one| drop(one.wait().expect_code(0)));
    assert_eq!(sandbox.rkvm(["ps", "-aq"]).ok().text(), "");
    sandbox.assert_no_leaks();
}
