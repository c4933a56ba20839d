//! Boots a kernel and prints its console, time stamps and exits: `boot KERNEL INITRD CPUS MIB CMDLINE...`. `BOOT_DISK` names a raw
//! image for `vda`, `BOOT_TAP` a tap of this network namespace for `eth0`, `BOOT_SHARE` a folder for the guest, `BOOT_HVC` a terminal or fifo for `hvc0`,
//! `BOOT_BALLOON` adds one, `BOOT_VSOCK` is the path of
//! the host's side of the guest's sockets, `BOOT_CONSOLE=quiet` leaves the console to panics, `BOOT_PROTOCOL=pvh` takes that entry.
#![allow(clippy::unwrap_used, reason = "a developer's tool")]

use std::fs::OpenOptions;
use std::path::Path;
use std::time::{Duration, Instant};

use rkvm_oci::timeline::MonotonicNs;
use rkvm_vmm::virtio::balloon::{Balloon, Offers};
use rkvm_vmm::virtio::console::TerminalSize;
use rkvm_vmm::virtio::net::{Net, open_tap};
use rkvm_vmm::virtio::{block::Block, fs::Fs, fs::Share, rng::Rng, vsock::Vsock};
use rkvm_vmm::{Access, Console, Host, Image, Protocol, VmConfig, build, virtio};

fn main() {
    let begun = Instant::now();
    let start = MonotonicNs::now();
    let args: Vec<String> = std::env::args().collect();
    let mut config = VmConfig::new(Image::open(Path::new(&args[1])).unwrap());
    config.initrd = Some(Image::open(Path::new(&args[2])).unwrap());
    config.vcpus = args[3].parse().unwrap();
    config.memory_mib = args[4].parse().unwrap();
    config.cmdline = args[5..].join(" ");
    if std::env::var_os("BOOT_CONSOLE").is_none() {
        config.console = Console::Full;
    }
    if std::env::var_os("BOOT_PROTOCOL").is_some_and(|value| value == "pvh") {
        config.protocol = Protocol::Pvh;
    }
    config.console_output = Some(Box::new(std::io::stdout()));
    config.attach(Rng::new().unwrap());
    if let Some(path) = std::env::var_os("BOOT_DISK") {
        config.attach(Block::open(Path::new(&path), Access::ReadWrite, "rkvm-disk0").unwrap());
    }
    if let Ok(name) = std::env::var("BOOT_TAP") {
        config.attach(Net::new(open_tap(&name).unwrap(), [2, 0, 0, 0, 0, 2]).unwrap());
    }
    if std::env::var_os("BOOT_BALLOON").is_some() {
        config.attach(Balloon::new(Offers::NoStatistics).unwrap());
    }
    if let Some(path) = std::env::var_os("BOOT_HVC") {
        let open = || OpenOptions::new().read(true).write(true).open(&path).unwrap().into();
        let size = TerminalSize { columns: 80, rows: 24 };
        config.attach(virtio::console::Console::new(open(), open(), size).unwrap());
    }
    if let Some(root) = std::env::var_os("BOOT_SHARE") {
        config.attach(Fs::open(&Share { root: root.into(), proc_self_fd: None }).unwrap());
    }
    if let Some(path) = std::env::var_os("BOOT_VSOCK") {
        config.attach(Vsock::bind(Path::new(&path)).unwrap());
    }
    let machine = build(&Host::open().unwrap(), config).unwrap();
    eprintln!("{}, built in {:?}", machine.kind(), begun.elapsed());
    machine.start().unwrap();
    let end = machine.wait(Some(Duration::from_secs(60)));
    eprintln!("end: {end} after {:?}", begun.elapsed());
    for marker in machine.markers() {
        eprintln!("marker {} at {:.2} ms", marker.value, (marker.at.0 - start.0) as f64 / 1e6);
    }
    eprintln!("{:?}", machine.exit_counts());
}
