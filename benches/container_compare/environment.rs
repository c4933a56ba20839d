//! Where the figures come from.

use std::fs;
use std::path::Path;
use std::process::Command;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sched::{CloneFlags, unshare};

/// The host and the versions of the contestants, a line each.
pub fn lines() -> Vec<String> {
    let file = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let first_line = |program: &str| {
        let output = Command::new(program).arg("--version").output();
        let text =
            output.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default();
        text.lines().next().unwrap_or("not installed").to_owned()
    };
    let cpu = file("/proc/cpuinfo");
    let cpu = cpu.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let cores = std::thread::available_parallelism().map_or(0, |cores| cores.get());
    let controllers: Vec<String> = fs::read_dir("/sys/fs/cgroup")
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect();
    vec![
        format!("kernel {}", file("/proc/sys/kernel/osrelease")),
        format!("cpu {} x{cores}", cpu.trim_start_matches([' ', '\t', ':'])),
        format!("load {}", file("/proc/loadavg")),
        format!("cgroups {}", controllers.join(" ")),
        first_line("runc"),
        first_line("crun"),
        first_line("umoci"),
        format!("rkvm {}", env!("CARGO_PKG_VERSION")),
        format!(
            "build {}",
            if cfg!(debug_assertions) { "debug: these figures say nothing" } else { "release" }
        ),
    ]
}

/// Prints them.
pub fn print(seed: u64) {
    lines().iter().for_each(|line| println!("{line}"));
    println!("seed {seed}");
}

/// Moves this process to a mount namespace without the cgroup v2 mount of a hybrid host.
pub fn leave_cgroup_v2() {
    let unified = Path::new("/sys/fs/cgroup/unified");
    if !unified.exists() {
        return;
    }
    unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace");
    mount(None::<&str>, "/", None::<&str>, MsFlags::MS_REC | MsFlags::MS_PRIVATE, None::<&str>)
        .expect("make mounts private");
    umount2(unified, MntFlags::MNT_DETACH).expect("unmount cgroup v2");
    println!(
        "cgroup v2 is unmounted in this benchmark's mount namespace, for all contestants: crun refuses hybrid hosts"
    );
}
