//! Commands that are killed, and commands at the same time.

use std::thread;
use std::time::Duration;

use nix::sys::signal::Signal;
use rkvm_testing::Sandbox;

use crate::fixture::{archive, assert_whole, id_of, names, store};
use crate::registry::{Access, Registry};

/// Kills the command later and later, until it is done before it is killed.
fn kill_at_every_moment(sandbox: &Sandbox, args: &[&str]) {
    let mut kills = 0;
    let mut pause = Duration::from_millis(1);
    loop {
        let mut command = sandbox.rkvm(args).spawn();
        thread::sleep(pause);
        pause = pause.mul_f32(1.3);
        if command.try_wait().is_some_and(|status| status.success()) {
            break;
        }
        command.signal(Signal::SIGKILL);
        command.wait();
        kills += 1;
        // Whatever was going on, the store can be used at once, and what is in it is whole.
        sandbox.rkvm(["images"]).ok();
        assert_whole(sandbox);
    }
    assert!(kills > 2, "it was never killed in the middle");
}

#[test]
fn a_load_killed_at_any_moment_leaves_a_whole_store() {
    let sandbox = Sandbox::new();
    let path = archive(&sandbox, "a:1", &[1, 2, 3]);
    kill_at_every_moment(&sandbox, &["load", "-i", path.to_str().unwrap()]);
    sandbox.rkvm(["load", "-i"]).arg(&path).ok();
    id_of(&sandbox, "a:1");
    sandbox.rkvm(["image", "prune", "-f"]).ok();
    assert_eq!(names(&store(&sandbox).join("ingest")).len(), 0, "pruning leaves leftovers");
    assert_eq!(names(&store(&sandbox).join("layers")).len(), 3);
    assert_whole(&sandbox);
}

#[test]
fn a_pull_killed_at_any_moment_leaves_a_whole_store() {
    let sandbox = Sandbox::new();
    let registry = Registry::start(&sandbox, Access::Open);
    registry.push(&sandbox, &archive(&sandbox, "a:1", &[1, 2]), "a:1");
    let name = registry.name("a:1");
    kill_at_every_moment(&sandbox, &["pull", &name]);
    sandbox.rkvm(["pull", &name]).ok();
    id_of(&sandbox, &name);
    sandbox.rkvm(["image", "prune", "-f"]).ok();
    assert_eq!(names(&store(&sandbox).join("ingest")).len(), 0, "pruning leaves leftovers");
    assert_whole(&sandbox);
}

#[test]
fn commands_at_the_same_time_do_not_disturb_each_other() {
    let sandbox = Sandbox::new();
    let paths = [[1, 2], [2, 3], [3, 1]].map(|seeds| archive(&sandbox, &format!("i{}:1", seeds[0]), &seeds));
    let mut running = vec![];
    for _ in 0..3 {
        running.extend(paths.iter().map(|path| sandbox.rkvm(["load", "-i"]).arg(path).spawn()));
        running.push(sandbox.rkvm(["image", "prune", "-f"]).spawn());
        running.push(sandbox.rkvm(["images"]).spawn());
    }
    for command in running {
        command.wait().expect_code(0);
    }
    assert_whole(&sandbox);
    assert_eq!(sandbox.rkvm(["images", "-q"]).ok().stdout().lines().count(), 3);
    assert_eq!(names(&store(&sandbox).join("layers")).len(), 3, "each layer is there once");
    // Removal beside loading: an image is there whole or not at all.
    let mut running = vec![];
    for _ in 0..4 {
        running.push(sandbox.rkvm(["load", "-i"]).arg(&paths[0]).spawn());
        running.push(sandbox.rkvm(["rmi", "-f", "i1:1", "i2:1", "i3:1"]).spawn());
    }
    for command in running {
        command.wait().expect_code(0);
    }
    assert_whole(&sandbox);
}
