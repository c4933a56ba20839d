//! Boots a kernel and prints its console, time stamps and exits: `boot KERNEL INITRD CPUS MIB CMDLINE...`. `BOOT_DISK` names a raw
//! image for `vda`, `BOOT_VSOCK` the path of the host's side of the guest's sockets.
#![allow(clippy::unwrap_used, reason = "a developer's tool")]

use std::time::{Duration, Instant};

use rkvm_vmm::{Access, Disk, Host, VmConfig, build};

fn main() {
    let begun = Instant::now();
    let args: Vec<String> = std::env::args().collect();
    let config = VmConfig {
        kernel: args[1].clone().into(),
        initrd: Some(args[2].clone().into()),
        cmdline: args[5..].join(" "),
        vcpus: args[3].parse().unwrap(),
        disks: std::env::var_os("BOOT_DISK")
            .map(|path| Disk { path: path.into(), access: Access::ReadWrite })
            .into_iter()
            .collect(),
        vsock: std::env::var_os("BOOT_VSOCK").map(Into::into),
        memory_mib: args[4].parse().unwrap(),
    };
    let start = rkvm_oci::timeline::MonotonicNs::now();
    let mut machine = build(&Host::open().unwrap(), &config, Some(Box::new(std::io::stdout()))).unwrap();
    eprintln!("built in {:?}", begun.elapsed());
    machine.start().unwrap();
    let end = machine.wait(Some(Duration::from_secs(10)));
    eprintln!("end: {end:?} after {:?}", begun.elapsed());
    for marker in machine.markers() {
        eprintln!("marker {} at {:.2} ms", marker.value, (marker.at.0 - start.0) as f64 / 1e6);
    }
    eprintln!("{:?}", machine.exit_counts());
}
