//! Engines with Docker's words: podman, docker.

use std::collections::HashMap;
use std::ffi::OsString;
use std::fs;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;

use super::network::Namespace;
use super::{Workload, make_folder, on_path};
use crate::contestant::{Contestant, Instance, Launch, Mode, Target};
use crate::error::{Error, Result};
use crate::model::{Subject, SubjectKind};
use crate::probe::Probe;
use crate::process::helper;

/// Which of the two.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Without a daemon: it gets a store of its own.
    Podman,
    /// With a daemon, which has its own store.
    Docker,
}

/// `podman run`, `docker run`.
pub struct Engine {
    subject: Subject,
    kind: Kind,
    /// Program and global flags.
    base: Vec<OsString>,
    flags: Vec<String>,
    image: String,
    command: Vec<String>,
    needs_network: bool,
    namespaces: Mutex<HashMap<String, Namespace>>,
    /// An image that was loaded into a daemon's store and goes with this value.
    loaded: Option<String>,
}

/// File in a session's folder with the name of an image that was loaded into Docker's store.
const LOADED: &str = "docker-image";
/// CAP_SYS_RESOURCE, with which limits can be raised.
const SYS_RESOURCE: u32 = 24;

impl Engine {
    /// The engine `program`, with the image loaded; the reason why it cannot take part otherwise.
    ///
    /// # Errors
    /// Its files cannot be made.
    pub fn new(
        kind: Kind,
        program: PathBuf,
        workload: &Workload,
        probe: &Probe,
    ) -> Result<std::result::Result<Self, String>> {
        let mut base: Vec<OsString> = vec![program.clone().into()];
        let mut loaded = None;
        let Some(archive) = &workload.archive else {
            return Ok(Err("the image was not saved for it".to_owned()));
        };
        let image = workload.image.clone();
        match kind {
            Kind::Podman => {
                base.extend(podman_globals(&workload.folder)?);
                if let Err(error) = helper(command(&base).args(["load", "--input"]).arg(archive)) {
                    return Ok(Err(error.with_causes()));
                }
            }
            Kind::Docker => {
                if let Err(error) =
                    helper(command(&base).args(["version", "--format", "{{.Server.Version}}"]))
                {
                    return Ok(Err(format!("its daemon does not answer: {error}")));
                }
                if helper(command(&base).args(["image", "inspect", &image])).is_err() {
                    let note = workload.folder.join(LOADED);
                    fs::write(&note, &image).map_err(|error| Error::file("write", note, error))?;
                    loaded = Some(image.clone());
                    if let Err(error) = helper(command(&base).args(["load", "--input"]).arg(archive)) {
                        return Ok(Err(error.with_causes()));
                    }
                }
            }
        }
        let (id, network) = match kind {
            Kind::Podman => {
                ("podman", "its network namespace is made before the command and has only loopback")
            }
            Kind::Docker => {
                ("docker", "its daemon does the work: what the daemon keeps ready is not counted")
            }
        };
        let subject = Subject {
            id: id.to_owned(),
            kind: SubjectKind::Peer,
            name: id.to_owned(),
            command_line: vec![],
            differences: vec!["it shares the host's user namespace".to_owned(), network.to_owned()],
        };
        let flags = workload.run_flags.iter().filter(|flag| {
            // Podman is given a network of its own kind below.
            kind == Kind::Docker || !(flag.starts_with("--network") || flag.starts_with("--net="))
        });
        let mut engine = Self {
            subject,
            kind,
            base,
            flags: flags.cloned().chain(limits()).collect(),
            image,
            command: workload.command.clone(),
            needs_network: probe.port().is_some(),
            namespaces: Mutex::default(),
            loaded,
        };
        let example = engine.launch(Instance { name: "NAME", slot: 0 }, Mode::Detached);
        engine.subject.command_line =
            example.argv.iter().map(|word| word.to_string_lossy().into_owned()).collect();
        Ok(Ok(engine))
    }

    fn namespaces(&self) -> std::sync::MutexGuard<'_, HashMap<String, Namespace>> {
        self.namespaces.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn inspect(&self, name: &str, format: &str) -> Option<String> {
        let text =
            helper(command(&self.base).args(["container", "inspect", "--format", format, name])).ok()?;
        Some(text.trim().to_owned())
    }
}

impl Contestant for Engine {
    fn subject(&self) -> &Subject {
        &self.subject
    }

    fn prepare(&self, instance: Instance<'_>, _mode: Mode) -> Result<()> {
        if self.kind == Kind::Podman && self.needs_network {
            self.namespaces().insert(instance.name.to_owned(), Namespace::new()?);
        }
        Ok(())
    }

    fn launch(&self, instance: Instance<'_>, mode: Mode) -> Launch {
        let mut argv = self.base.clone();
        argv.push("run".into());
        argv.push(match mode {
            Mode::Attached => "--rm".into(),
            Mode::Detached => "-d".into(),
        });
        argv.extend(["--pull=never", "--name", instance.name].map(OsString::from));
        if self.kind == Kind::Podman {
            let network = match self.namespaces().get(instance.name) {
                Some(namespace) => format!("--network=ns:{}", namespace.path().display()),
                None => "--network=none".to_owned(),
            };
            argv.push(network.into());
        }
        argv.extend(self.flags.iter().map(OsString::from));
        argv.push((&self.image).into());
        argv.extend(self.command.iter().map(OsString::from));
        Launch { argv, env: vec![] }
    }

    fn target(&self, instance: Instance<'_>, port: u16) -> Result<Target> {
        if let Some(namespace) = self.namespaces().get(instance.name) {
            let address = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), port);
            return Ok(Target { address, namespace: Some(namespace.file()?) });
        }
        let format = "{{range .NetworkSettings.Networks}}{{.IPAddress}} {{end}}";
        let text = self.inspect(instance.name, format).unwrap_or_default();
        let address = text.split_whitespace().find_map(|word| word.parse::<IpAddr>().ok());
        match address {
            Some(address) => Ok(Target { address: SocketAddr::new(address, port), namespace: None }),
            None => Err(Error::invalid(
                "--ready",
                port.to_string(),
                format!("{} has no address", self.subject.id),
            )),
        }
    }

    fn ended(&self, instance: Instance<'_>) -> Option<String> {
        let status = self.inspect(instance.name, "{{.State.Status}}, exit code {{.State.ExitCode}}")?;
        (!status.starts_with("running")).then_some(status)
    }

    fn log(&self, instance: Instance<'_>) -> Vec<String> {
        let Ok(output) = command(&self.base).args(["logs", "--tail", "10", instance.name]).output() else {
            return vec![];
        };
        if !output.status.success() {
            return vec![];
        }
        String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).lines().map(str::to_owned).collect()
    }

    fn processes(&self, instance: Instance<'_>) -> Vec<i32> {
        let format = match self.kind {
            Kind::Podman => "{{.State.ConmonPid}} {{.State.Pid}}",
            Kind::Docker => "{{.State.Pid}}",
        };
        let text = self.inspect(instance.name, format).unwrap_or_default();
        text.split_whitespace().filter_map(|word| word.parse().ok()).filter(|pid| *pid > 0).collect()
    }

    fn remove(&self, instance: Instance<'_>) -> Result<()> {
        remove(&self.base, self.kind, instance.name)?;
        self.namespaces().remove(instance.name);
        Ok(())
    }
}

impl Drop for Engine {
    fn drop(&mut self) {
        if let Some(image) = &self.loaded {
            let _ = helper(command(&self.base).args(["rmi", image]));
        }
    }
}

fn command(base: &[OsString]) -> Command {
    let (program, globals) =
        base.split_first().map_or((OsString::new(), &base[..0]), |(first, rest)| (first.clone(), rest));
    let mut command = Command::new(program);
    command.args(globals);
    command
}

/// Removes a container; one that is not there is no error.
fn remove(base: &[OsString], kind: Kind, name: &str) -> Result<()> {
    let mut command = command(base);
    command.args(["rm", "--force", "--volumes"]);
    if kind == Kind::Podman {
        // Docker's rm kills at once.
        command.args(["--ignore", "--time", "0"]);
    }
    match helper(command.arg(name)) {
        Err(Error::Helper { output, .. }) if output.to_lowercase().contains("no such container") => Ok(()),
        other => other.map(drop),
    }
}

/// A store of its own for podman, so that nothing of the user's is touched.
fn podman_globals(folder: &Path) -> Result<Vec<OsString>> {
    let own = folder.join("podman");
    make_folder(&own)?;
    let mut globals: Vec<OsString> = vec![];
    // Podman takes at most 50 characters for its runroot.
    for (flag, name) in [("--root", "root"), ("--runroot", "r"), ("--tmpdir", "tmp")] {
        globals.extend([flag.into(), own.join(name).into()]);
    }
    globals.extend(["--cgroup-manager=cgroupfs", "--events-backend=file"].map(OsString::from));
    // crun, podman's first choice, refuses hybrid hosts.
    if Path::new("/sys/fs/cgroup/unified").exists() && on_path("runc").is_some() {
        globals.push("--runtime=runc".into());
    }
    Ok(globals)
}

/// Podman and Docker raise limits, which needs a capability. Without it they are given some that need none.
fn limits() -> Vec<String> {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let bits = status.lines().find_map(|line| line.strip_prefix("CapEff:"));
    let bits = bits.and_then(|bits| u64::from_str_radix(bits.trim(), 16).ok()).unwrap_or(u64::MAX);
    if bits >> SYS_RESOURCE & 1 == 1 {
        return vec![];
    }
    ["--ulimit=nofile=1024:1024", "--ulimit=nproc=4096:4096"].map(str::to_owned).to_vec()
}

/// Removes what a killed measurement left.
///
/// # Errors
/// Something cannot be removed.
pub fn clean_up(folder: &Path) -> Result<()> {
    if let Some(podman) = on_path("podman").filter(|_| folder.join("podman").exists()) {
        let mut base: Vec<OsString> = vec![podman.into()];
        base.extend(podman_globals(folder)?);
        helper(command(&base).args(["rm", "--all", "--force", "--time", "0"]))?;
    }
    let (Some(docker), Ok(image)) = (on_path("docker"), fs::read_to_string(folder.join(LOADED))) else {
        return Ok(());
    };
    let base = [docker.into()];
    let session = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let filter = format!("name=rkvm-compare-{session}-");
    let names = helper(command(&base).args(["ps", "--all", "--quiet", "--filter", &filter]))?;
    names.split_whitespace().try_for_each(|name| remove(&base, Kind::Docker, name))?;
    helper(command(&base).args(["rmi", "--force", &image])).map(drop)
}
