//! A container's life, operation by operation, and the hot paths below it. Groups are named `what/backend/size`.
//!
//! The phases of `rkvm run` come from `--timings`, the one timing mechanism of the project; operations are timed around the
//! real binaries, as a container manager or a user sees them.

// A benchmark that cannot measure has nothing else to do than to stop and say why.
#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use rkvm_image::Limits;
use rkvm_testing::{Entry, Sandbox, binary, busybox_archive, docker_archive, reap};
use serde_json::{Value, json};

/// A sandbox that removes by force what a stopped benchmark leaves.
fn sandbox() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.without_leak_check();
    sandbox
}

/// Runs a command, which must succeed, without keeping its output.
fn quiet(command: &mut Command) -> Duration {
    let start = Instant::now();
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).status().expect("run a command");
    let time = start.elapsed();
    assert!(status.success(), "{command:?}: {status}");
    time
}

/// `create`, `start`, `exec`, `delete` of the OCI runtime.
fn runtime(criterion: &mut Criterion) {
    reap::become_subreaper();
    let sandbox = sandbox();
    let store = sandbox.oci_root();
    let pid_file = sandbox.path().join("pid");
    let id = sandbox.id("c");
    let oci = |args: &[&str]| {
        let mut command = Command::new(binary("rkvm-oci"));
        command.arg("--root").arg(&store).args(args);
        command
    };
    let bundle = sandbox.bundle("c", &["true"]);
    let path = bundle.path.to_str().expect("path");
    let create = || quiet(oci(&["create", "--bundle", path, "--pid-file"]).arg(&pid_file).arg(&id));
    let wait =
        || reap::wait_blocking(fs::read_to_string(&pid_file).expect("pid file").parse().expect("a pid"));
    let delete = || quiet(&mut oci(&["delete", "--force", &id]));

    let mut timed = |name: &str, one: &dyn Fn() -> Duration| {
        criterion.benchmark_group(name).bench_function(
            BenchmarkId::new("container", "busybox-true"),
            |bencher| {
                bencher.iter_custom(|iterations| (0..iterations).map(|_| one()).sum());
            },
        );
    };
    timed("create", &|| {
        let time = create();
        delete();
        wait();
        time
    });
    timed("start", &|| {
        create();
        let time = quiet(&mut oci(&["start", &id]));
        wait();
        delete();
        time
    });
    timed("delete", &|| {
        create();
        quiet(&mut oci(&["start", &id]));
        wait();
        delete()
    });
    let sleeper = sandbox.bundle("c", &["sleep", "1000000"]);
    sleeper.write();
    create();
    quiet(&mut oci(&["start", &id]));
    timed("exec", &|| quiet(&mut oci(&["exec", &id, "true"])));
    timed("state", &|| quiet(&mut oci(&["state", &id])));
    delete();
    wait();
}

/// The isolations that work on this host; the others are named.
fn isolations(rkvm: &dyn Fn(&[&str]) -> Command) -> Vec<&'static str> {
    let works = |isolation: &&str| {
        let flag = format!("--isolation={isolation}");
        let output = rkvm(&["run", "--rm", "--network", "none", &flag, "busybox", "true"]).output();
        let output = output.expect("run rkvm");
        if !output.status.success() {
            println!("{isolation}: not measured: {}", String::from_utf8_lossy(&output.stderr).trim());
        }
        output.status.success()
    };
    ["container", "vm"].into_iter().filter(works).collect()
}

/// `rkvm run`, `start`, `stop`, `exec`, and the phases of a start, in each isolation.
fn engine(criterion: &mut Criterion) {
    let sandbox = sandbox();
    sandbox.load_busybox();
    let rkvm = |args: &[&str]| {
        let mut command = Command::new(binary("rkvm"));
        command.env("RKVM_ROOT", sandbox.root()).args(args);
        command
    };
    for isolation in isolations(&rkvm) {
        whole_runs(criterion, &rkvm, isolation);
        life(criterion, &rkvm, isolation);
    }
    for containers in [1, 20] {
        for number in 0..containers {
            quiet(&mut rkvm(&["create", "--name", &format!("n{number}"), "busybox"]));
        }
        criterion.benchmark_group("ps").bench_function(
            BenchmarkId::new("container", containers),
            |bencher| {
                bencher
                    .iter_custom(|iterations| (0..iterations).map(|_| quiet(&mut rkvm(&["ps", "-a"]))).sum());
            },
        );
        for number in 0..containers {
            quiet(&mut rkvm(&["rm", &format!("n{number}")]));
        }
    }
}

/// Whole runs, and their phases as `--timings` tells them: VM build is `sandbox`, boot is `boot`.
fn whole_runs(criterion: &mut Criterion, rkvm: &dyn Fn(&[&str]) -> Command, isolation: &str) {
    let flag = format!("--isolation={isolation}");
    for network in ["none", "bridge"] {
        let run = ["run", "--rm", &flag, "--network", network, "busybox", "true"];
        criterion.benchmark_group("run").bench_function(BenchmarkId::new(isolation, network), |bencher| {
            bencher.iter_custom(|iterations| (0..iterations).map(|_| quiet(&mut rkvm(&run))).sum());
        });
        let phases = || -> Vec<(String, Duration)> {
            let run = ["run", "--rm", &flag, "--timings=json", "--network", network, "busybox", "true"];
            let output = rkvm(&run).stdin(Stdio::null()).output().expect("run rkvm");
            let text = String::from_utf8(output.stderr).expect("timings");
            let report: Value = serde_json::from_str(text.trim()).expect("timings as JSON");
            let phases = report["phases"].as_array().expect("phases").iter();
            phases
                .map(|phase| {
                    let name = phase["phase"].as_str().expect("a name").to_owned();
                    (name, Duration::from_nanos(phase["ns"].as_u64().expect("nanoseconds")))
                })
                .collect()
        };
        for (name, _) in phases() {
            let one = || phases().into_iter().filter(|(phase, _)| *phase == name).map(|(_, time)| time).sum();
            criterion.benchmark_group(format!("phase-{name}")).bench_function(
                BenchmarkId::new(isolation, network),
                |bencher| {
                    bencher.iter_custom(|iterations| (0..iterations).map(|_| -> Duration { one() }).sum());
                },
            );
        }
    }
}

/// Starting, stopping and entering one container again and again.
fn life(criterion: &mut Criterion, rkvm: &dyn Fn(&[&str]) -> Command, isolation: &str) {
    let flag = format!("--isolation={isolation}");
    quiet(&mut rkvm(&["create", "--name", "again", &flag, "busybox", "sleep", "1000000"]));
    let start = || quiet(&mut rkvm(&["start", "again"]));
    let stop = || quiet(&mut rkvm(&["stop", "-t", "0", "again"]));
    let mut timed = |name: &str, size: &str, one: &dyn Fn() -> Duration| {
        criterion.benchmark_group(name).bench_function(BenchmarkId::new(isolation, size), |bencher| {
            bencher.iter_custom(|iterations| (0..iterations).map(|_| one()).sum());
        });
    };
    timed("engine-start", "busybox-sleep", &|| {
        let time = start();
        stop();
        time
    });
    timed("engine-stop", "busybox-sleep", &|| {
        start();
        stop()
    });
    start();
    timed("engine-exec", "true", &|| quiet(&mut rkvm(&["exec", "again", "true"])));
    quiet(&mut rkvm(&["rm", "-f", "again"]));
}

/// Unpacking a layer, and loading an image into an empty store.
fn image(criterion: &mut Criterion) {
    let sandbox = sandbox();
    let mut group = criterion.benchmark_group("unpack");
    for (name, files, size) in [("1000x1KiB", 1000, 1 << 10), ("10x1MiB", 10, 1 << 20)] {
        let content: Vec<u8> = (0..size).map(|index| (index * 7 + index / 13) as u8).collect();
        let entries: Vec<Entry> =
            (0..files).map(|number| Entry::file(&format!("file-{number}"), content.clone())).collect();
        let layer = rkvm_testing::layer(&entries);
        group.throughput(Throughput::Bytes(layer.len() as u64));
        let mut number = 0;
        group.bench_function(BenchmarkId::new("container", name), |bencher| {
            bencher.iter_custom(|iterations| {
                let mut one = |_| {
                    number += 1;
                    let folder = sandbox.path().join(format!("layer-{name}-{number}"));
                    let start = Instant::now();
                    rkvm_image::unpack(layer.as_slice(), &folder, &Limits::default()).expect("unpack");
                    let time = start.elapsed();
                    fs::remove_dir_all(folder).expect("remove a layer");
                    time
                };
                (0..iterations).map(&mut one).sum()
            });
        });
    }
    group.finish();
    let small = sandbox.path().join("small.tar");
    docker_archive(&small, "small", &[vec![Entry::file("file", "text")]], json!({}));
    for (name, archive) in [("1-file", small), ("busybox", busybox_archive())] {
        let root = sandbox.path().join("store");
        criterion.benchmark_group("load").bench_function(BenchmarkId::new("container", name), |bencher| {
            bencher.iter_custom(|iterations| {
                let one = |_| {
                    let mut command = Command::new(binary("rkvm"));
                    let time = quiet(command.env("RKVM_ROOT", &root).args(["load", "-i"]).arg(&archive));
                    fs::remove_dir_all(&root).expect("remove the store");
                    time
                };
                (0..iterations).map(one).sum()
            });
        });
    }
}

criterion_group! {
    name = benches;
    config = Criterion::default().sample_size(20).measurement_time(Duration::from_secs(4)).warm_up_time(Duration::from_secs(1));
    targets = runtime, engine, image
}
criterion_main!(benches);
