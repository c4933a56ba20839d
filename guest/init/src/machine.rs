//! The machine as a whole: first mounts, host name, links, kernel settings, power.

use std::fs;
use std::path::Path;

use rkvm_guest_protocol::{GuestSetup, Network, marker};

use crate::fail::{Fail, Result};
use crate::sys;

/// File systems that init itself needs.
const FIRST_MOUNTS: [(&str, &str, &str); 4] = [
    ("devtmpfs", "/dev", "mode=0755"),
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("tmpfs", "/run", "mode=0755"),
];

/// Mounts what init needs, before it talks to anybody.
pub fn first_mounts() -> Result<()> {
    for (kind, target, data) in FIRST_MOUNTS {
        fs::create_dir_all(target).map_err(Fail::on("create", target))?;
        // The kernel may have mounted /dev already.
        match sys::mount(kind, Path::new(target), kind, libc::MS_NOSUID | libc::MS_NOEXEC, data) {
            Err(error) if error.raw_os_error() == Some(libc::EBUSY) => {}
            other => other.map_err(Fail::on("mount", target))?,
        }
    }
    Ok(())
}

/// Host name, kernel settings, links and cgroups.
pub fn configure(setup: &GuestSetup) -> Result<()> {
    sys::set_hostname(&setup.hostname).map_err(Fail::on("set the host name", &setup.hostname))?;
    sys::link_up("lo").map_err(Fail::on("bring up", "lo"))?;
    if let Some(network) = setup.network {
        connect(network)?;
    }
    for (name, value) in &setup.sysctls {
        // A dot in a link's name is written as a slash, as sysctl(8) has it.
        let path: String = name
            .chars()
            .map(|c| {
                if c == '.' {
                    '/'
                } else if c == '/' {
                    '.'
                } else {
                    c
                }
            })
            .collect();
        let path = Path::new("/proc/sys").join(path.trim_start_matches('/'));
        fs::write(&path, value).map_err(Fail::on("write the setting", name))?;
    }
    cgroups()
}

fn connect(network: Network) -> Result<()> {
    let on = |action| Fail::on(action, "eth0");
    sys::set_address("eth0", network.address, network.prefix).map_err(on("give its address to"))?;
    sys::link_up("eth0").map_err(on("bring up"))?;
    sys::add_default_route(network.gateway).map_err(Fail::on("route through", network.gateway))
}

/// The cgroup hierarchy with every controller of the kernel, and a group in it for the process.
fn cgroups() -> Result<()> {
    let root = Path::new("/sys/fs/cgroup");
    let flags = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;
    sys::mount("cgroup2", root, "cgroup2", flags, "").map_err(Fail::on("mount", root.display()))?;
    let controllers = fs::read_to_string(root.join("cgroup.controllers"))
        .map_err(Fail::on("read", "cgroup.controllers"))?;
    let enable: Vec<String> = controllers.split_whitespace().map(|name| format!("+{name}")).collect();
    fs::write(root.join("cgroup.subtree_control"), enable.join(" "))
        .map_err(Fail::on("enable", "cgroup controllers"))?;
    fs::create_dir(root.join("process")).map_err(Fail::on("create", "the process's cgroup"))
}

/// Writes everything to the devices and ends the machine.
pub fn power_off() -> ! {
    sys::sync();
    sys::mark(marker::POWER_OFF);
    // Where nothing listens to the marker port (a run of this kernel in another machine).
    sys::reboot()
}
