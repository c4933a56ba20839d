//! OCI runtimes: runc, crun.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use serde_json::{Value, json};

use super::network::Namespace;
use super::{Workload, make_folder, on_path};
use crate::contestant::{Contestant, Instance, Launch, Mode, Target};
use crate::error::{Error, Result};
use crate::model::{Subject, SubjectKind};
use crate::probe::Probe;
use crate::process::helper;

/// `runc run`, `crun run`.
pub struct Runtime {
    subject: Subject,
    program: PathBuf,
    workload: Workload,
    /// Its state store.
    store: PathBuf,
    /// Folders of its bundles.
    bundles: PathBuf,
    connection: Connection,
    namespaces: Mutex<HashMap<String, Namespace>>,
}

/// Whether a probe has to reach it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Connection {
    None,
    Loopback,
}

impl Runtime {
    /// The runtime `program`.
    pub fn new(name: &str, program: PathBuf, workload: &Workload, probe: &Probe) -> Self {
        let folder = workload.folder.join(name);
        let connection = if probe.port().is_some() { Connection::Loopback } else { Connection::None };
        let network = match connection {
            Connection::None => "it has a new network namespace and no link",
            Connection::Loopback => "its network namespace is made before the command and has only loopback",
        };
        let subject = Subject {
            id: name.to_owned(),
            kind: SubjectKind::Peer,
            name: name.to_owned(),
            command_line: vec![],
            differences: vec![
                "its root filesystem is joined before the command: it knows no images".to_owned(),
                network.to_owned(),
                "it shares the host's user namespace".to_owned(),
                "it keeps no record, no log and no monitor".to_owned(),
            ],
        };
        let mut runtime = Self {
            subject,
            program,
            workload: workload.clone(),
            store: folder.join("store"),
            bundles: folder.join("bundles"),
            connection,
            namespaces: Mutex::default(),
        };
        let example = runtime.launch(Instance { name: "NAME", slot: 0 }, Mode::Detached);
        runtime.subject.command_line =
            example.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        runtime
    }

    fn bundle(&self, name: &str) -> PathBuf {
        self.bundles.join(name)
    }

    fn namespaces(&self) -> std::sync::MutexGuard<'_, HashMap<String, Namespace>> {
        self.namespaces.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    /// The workload's configuration for one instance.
    fn config(&self, name: &str, network: Option<&Path>) -> Value {
        let mut spec = self.workload.spec.clone();
        spec["ociVersion"] = json!("1.0.2");
        spec["root"]["path"] = json!("rootfs");
        let linux = &mut spec["linux"];
        linux["cgroupsPath"] = json!(format!("/{name}"));
        let mut namespaces: Vec<Value> =
            ["pid", "ipc", "uts", "mount", "cgroup"].iter().map(|kind| json!({ "type": kind })).collect();
        namespaces.push(match network {
            Some(path) => json!({ "type": "network", "path": path }),
            None => json!({ "type": "network" }),
        });
        linux["namespaces"] = Value::Array(namespaces);
        spec
    }
}

impl Contestant for Runtime {
    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn prepare(&self, instance: Instance<'_>, _mode: Mode) -> Result<()> {
        let bundle = self.bundle(instance.name);
        let path = |name: &str| bundle.join(name);
        for folder in ["rootfs", "upper", "work"] {
            make_folder(&path(folder))?;
        }
        let layers: Vec<_> =
            self.workload.layers.iter().map(|layer| layer.to_string_lossy().into_owned()).collect();
        let options = format!(
            "lowerdir={},upperdir={},workdir={}",
            layers.join(":"),
            path("upper").display(),
            path("work").display()
        );
        mount(Some("overlay"), &path("rootfs"), Some("overlay"), MsFlags::empty(), Some(options.as_str()))
            .map_err(|errno| Error::file("mount an overlay on", path("rootfs"), errno.into()))?;
        let network = match self.connection {
            Connection::None => None,
            Connection::Loopback => Some(Namespace::new()?),
        };
        let config = self.config(instance.name, network.as_ref().map(Namespace::path).as_deref());
        if let Some(network) = network {
            self.namespaces().insert(instance.name.to_owned(), network);
        }
        let file = path("config.json");
        fs::write(&file, config.to_string()).map_err(|error| Error::file("write", file, error))
    }

    fn launch(&self, instance: Instance<'_>, mode: Mode) -> Launch {
        let mut argv: Vec<OsString> =
            vec![self.program.clone().into(), "--root".into(), self.store.clone().into()];
        argv.push("run".into());
        if mode == Mode::Detached {
            argv.push("--detach".into());
        }
        argv.extend(["--bundle".into(), self.bundle(instance.name).into(), instance.name.into()]);
        Launch { argv, env: vec![] }
    }

    fn target(&self, instance: Instance<'_>, port: u16) -> Result<Target> {
        let namespaces = self.namespaces();
        let namespace = namespaces.get(instance.name).map(Namespace::file).transpose()?;
        Ok(Target { address: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port), namespace })
    }

    fn ended(&self, instance: Instance<'_>) -> Option<String> {
        let state = state(&self.program, &self.store, instance.name)?;
        (state["status"] == "stopped").then(|| "it is stopped".to_owned())
    }

    fn processes(&self, instance: Instance<'_>) -> Vec<i32> {
        let state = state(&self.program, &self.store, instance.name);
        state.and_then(|state| state["pid"].as_i64()).map(|pid| pid as i32).into_iter().collect()
    }

    fn remove(&self, instance: Instance<'_>) -> Result<()> {
        delete(&self.program, &self.store, instance.name)?;
        self.namespaces().remove(instance.name);
        let bundle = self.bundle(instance.name);
        let rootfs = bundle.join("rootfs");
        if rootfs.exists() {
            // Already gone when preparing it failed.
            let _ = umount2(&rootfs, MntFlags::MNT_DETACH);
        }
        match fs::remove_dir_all(&bundle) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                Err(Error::file("remove", bundle, error))
            }
            _ => Ok(()),
        }
    }
}

fn state(program: &Path, store: &Path, name: &str) -> Option<Value> {
    let text = helper(Command::new(program).arg("--root").arg(store).args(["state", name])).ok()?;
    serde_json::from_str(&text).ok()
}

/// Kills and removes a container; one that is not there is no error.
fn delete(program: &Path, store: &Path, name: &str) -> Result<()> {
    if !store.join(name).exists() {
        return Ok(());
    }
    helper(Command::new(program).arg("--root").arg(store).args(["delete", "--force", name])).map(drop)
}

/// Removes the containers in the stores of a killed measurement. Their mounts have ended with it.
///
/// # Errors
/// One cannot be removed.
pub fn clean_up(folder: &Path) -> Result<()> {
    for name in ["runc", "crun"] {
        let store = folder.join(name).join("store");
        let Some(program) = on_path(name).filter(|_| store.exists()) else { continue };
        let entries = fs::read_dir(&store).into_iter().flatten().flatten();
        for id in entries.filter_map(|entry| entry.file_name().into_string().ok()) {
            delete(&program, &store, &id)?;
        }
    }
    Ok(())
}
