//! Firecracker, from a configuration file and without its API, which is its fastest way to start.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Mutex;

use serde_json::{Value, json};

use super::Workload;
use super::guest::{self, GUEST, Guest, HOST};
use super::network::Namespace;
use crate::contestant::{Contestant, Instance, Launch, Mode, Target};
use crate::error::{Error, Result};
use crate::model::{Subject, SubjectKind};
use crate::probe::Probe;

/// What `--with` calls it, and the program.
pub const NAME: &str = "firecracker";
/// Name of the folder of its files.
pub const FOLDER: &str = "firecracker";
/// Begins the line in which the init tells the program's status: Firecracker itself succeeds whatever its guest did.
const STATUS: &str = "rkvm: the program ended with ";
/// What starts it; `$0.pid` gets its process, `$0.log` its console.
const ATTACHED: &str = "echo $$ >\"$0.pid\"; exec \"$@\"";
const DETACHED: &str = "\"$@\" </dev/null >\"$0.log\" 2>&1 & echo $! >\"$0.pid\"";

/// `firecracker --no-api --config-file`.
pub struct Firecracker {
    subject: Subject,
    program: PathBuf,
    folder: PathBuf,
    config: PathBuf,
    needs_network: bool,
    namespaces: Mutex<HashMap<String, Namespace>>,
}

impl Firecracker {
    /// The machine; the reason why it cannot take part otherwise.
    ///
    /// # Errors
    /// Its files cannot be written.
    pub fn new(
        program: PathBuf,
        workload: &Workload,
        probe: &Probe,
    ) -> Result<std::result::Result<Self, String>> {
        let folder = workload.folder.join(FOLDER);
        let guest = match guest::prepare(workload, probe, &folder, &format!("$B echo \"{STATUS}$?\""))? {
            Ok(guest) => guest,
            Err(reason) => return Ok(Err(reason)),
        };
        let needs_network = probe.port().is_some();
        let config = folder.join("config.json");
        let text = configuration(&guest, needs_network).to_string();
        fs::write(&config, text).map_err(|error| Error::file("write", &config, error))?;
        let subject = Subject {
            id: NAME.to_owned(),
            kind: SubjectKind::Peer,
            name: NAME.to_owned(),
            command_line: vec![],
            differences: [
                "its root filesystem is made before the command and its writes go to the guest's memory",
                "its program runs as root without any of the container's limits and filters",
                "its console is a serial port, each byte of which is an exit to the host",
                guest::LINK,
                "a shell starts it and notes its process; it runs without its jailer",
                "it keeps no record, no log and no monitor",
            ]
            .map(str::to_owned)
            .to_vec(),
        };
        let mut machine =
            Self { subject, program, folder, config, needs_network, namespaces: Mutex::default() };
        let example = machine.launch(Instance { name: "NAME", slot: 0 }, Mode::Attached);
        machine.subject.command_line =
            example.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Ok(Ok(machine))
    }

    fn file(&self, name: &str, suffix: &str) -> PathBuf {
        self.folder.join(format!("{name}.{suffix}"))
    }

    fn namespaces(&self) -> std::sync::MutexGuard<'_, HashMap<String, Namespace>> {
        self.namespaces.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

/// Its configuration file (Firecracker's docs/getting-started.md, "Running Firecracker with a configuration file"). It adds the
/// transports of its devices to the kernel's command line itself.
fn configuration(guest: &Guest, needs_network: bool) -> Value {
    let mut config = json!({
        "boot-source": {
            "kernel_image_path": guest.machine.kernel,
            "initrd_path": guest.initrd,
            "boot_args": "console=ttyS0 quiet rdinit=/init panic=-1 reboot=k pci=off i8042.noaux i8042.nomux i8042.dumbkbd",
        },
        "drives": [{
            "drive_id": "root",
            "path_on_host": guest.machine.root,
            "is_root_device": false,
            "is_read_only": true,
        }],
        "machine-config": { "vcpu_count": 1, "mem_size_mib": guest.memory_mib },
    });
    if needs_network {
        config["network-interfaces"] = json!([{ "iface_id": "eth0", "host_dev_name": "tap0" }]);
    }
    config
}

impl Contestant for Firecracker {
    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn prepare(&self, instance: Instance<'_>, _mode: Mode) -> Result<()> {
        if self.needs_network {
            let namespace = Namespace::new()?;
            namespace.add_tap(HOST)?;
            self.namespaces().insert(instance.name.to_owned(), namespace);
        }
        Ok(())
    }

    fn launch(&self, instance: Instance<'_>, mode: Mode) -> Launch {
        let script = match mode {
            Mode::Attached => ATTACHED,
            Mode::Detached => DETACHED,
        };
        let mut argv: Vec<OsString> = ["/bin/sh", "-c", script].map(OsString::from).to_vec();
        argv.push(self.folder.join(instance.name).into());
        if let Some(namespace) = self.namespaces().get(instance.name) {
            argv.extend(["nsenter".into(), format!("--net={}", namespace.path().display()).into()]);
        }
        argv.extend([self.program.clone().into(), "--no-api".into(), "--config-file".into()]);
        argv.push(self.config.clone().into());
        Launch { argv, env: vec![] }
    }

    fn failure(&self, stdout: &str) -> Option<String> {
        let status =
            stdout.lines().rev().find_map(|line| line.split_once(STATUS)).map(|(_, rest)| rest.trim());
        match status {
            Some("0") => None,
            Some(status) => Some(format!("the program ended with {status} before it was ready")),
            None => Some("the machine went off and its program had not ended".to_owned()),
        }
    }

    fn target(&self, instance: Instance<'_>, port: u16) -> Result<Target> {
        let namespace = self.namespaces().get(instance.name).map(Namespace::file).transpose()?;
        Ok(Target { address: SocketAddr::new(GUEST.into(), port), namespace })
    }

    fn ended(&self, instance: Instance<'_>) -> Option<String> {
        let pid = guest::pid_in(&self.file(instance.name, "pid"))?;
        (!guest::is_ours(pid, &self.folder)).then(|| "the machine is off".to_owned())
    }

    fn log(&self, instance: Instance<'_>) -> Vec<String> {
        guest::log(&self.file(instance.name, "log"))
    }

    fn processes(&self, instance: Instance<'_>) -> Vec<i32> {
        guest::pid_in(&self.file(instance.name, "pid")).into_iter().collect()
    }

    fn remove(&self, instance: Instance<'_>) -> Result<()> {
        guest::end(&self.file(instance.name, "pid"), &self.folder);
        self.namespaces().remove(instance.name);
        for suffix in ["pid", "log"] {
            let _ = fs::remove_file(self.file(instance.name, suffix));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_configuration_names_kernel_image_and_link() {
        let guest = Guest {
            machine: guest::Machine { kernel: "/k".into(), root: "/image.erofs".into() },
            initrd: "/i".into(),
            memory_mib: 128,
        };
        let config = configuration(&guest, true);
        assert_eq!(config["boot-source"]["kernel_image_path"], "/k");
        assert_eq!(config["boot-source"]["initrd_path"], "/i");
        assert_eq!(config["drives"][0]["path_on_host"], "/image.erofs");
        assert_eq!(config["machine-config"]["mem_size_mib"], 128);
        assert_eq!(config["network-interfaces"][0]["host_dev_name"], "tap0");
        assert_eq!(configuration(&guest, false).get("network-interfaces"), None);
    }
}
