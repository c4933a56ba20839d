//! What `info` shows: this engine and this host.

use std::fmt;

use rkvm_oci::Isolation;
use serde::Serialize;

use crate::engine::Engine;
use crate::error::Result;
use crate::format::human;
use crate::host::{self, CgroupMode, Guest, Kvm, Machines};
use crate::state::ContainerStatus;

/// This engine and this host, in Docker's words where it has them.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Info {
    containers: usize,
    containers_running: usize,
    containers_paused: usize,
    containers_stopped: usize,
    images: usize,
    volumes: usize,
    server_version: String,
    driver: &'static str,
    driver_status: Vec<[String; 2]>,
    run_dir: String,
    root_dir: String,
    cgroup_driver: &'static str,
    /// `1` or `2`.
    cgroup_version: &'static str,
    cgroup_mode: CgroupMode,
    cgroup_controllers: Vec<String>,
    namespaces: Vec<String>,
    security_options: Vec<String>,
    rootless: bool,
    kernel_version: String,
    operating_system: String,
    #[serde(rename = "OSType")]
    os_type: &'static str,
    architecture: &'static str,
    #[serde(rename = "NCPU")]
    cpus: usize,
    mem_total: u64,
    name: String,
    isolation: Vec<BackendInfo>,
    #[serde(rename = "KVM")]
    kvm: Kvm,
    guest: Guest,
    warnings: Vec<String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct BackendInfo {
    name: String,
    available: bool,
    /// Why it is not available.
    reason: String,
}

impl Info {
    /// Looks at everything. `version` is this build's, `machines` what the backend for microVMs found.
    ///
    /// # Errors
    /// The engine's folders cannot be read.
    pub fn collect(engine: &Engine, version: &str, machines: Machines) -> Result<Self> {
        let (containers, damaged) = engine.list()?;
        let count = |wanted: fn(ContainerStatus) -> bool| {
            containers.iter().filter(|container| wanted(container.state.status)).count()
        };
        let running =
            count(|status| matches!(status, ContainerStatus::Running | ContainerStatus::Restarting));
        let paused = count(|status| status == ContainerStatus::Paused);
        let cgroup_mode = CgroupMode::of_this_host();
        let mut info = Self {
            containers: containers.len() + damaged.len(),
            containers_running: running,
            containers_paused: paused,
            containers_stopped: containers.len() - running - paused,
            images: rkvm_image::Store::open(&engine.paths.lib).images()?.len(),
            volumes: crate::volume::VolumeStore::new(&engine.paths.lib).list()?.len(),
            server_version: version.to_owned(),
            driver: "overlay2",
            driver_status: vec![
                ["Backing Filesystem".to_owned(), host::filesystem_of(&engine.paths.lib)],
                ["Idmapped Mounts".to_owned(), "true".to_owned()],
            ],
            run_dir: engine.paths.run.display().to_string(),
            root_dir: engine.paths.lib.display().to_string(),
            cgroup_driver: "cgroupfs",
            cgroup_version: if cgroup_mode == CgroupMode::V2 { "2" } else { "1" },
            cgroup_mode,
            cgroup_controllers: host::cgroup_controllers(cgroup_mode),
            namespaces: host::namespaces(),
            security_options: host::security_options(),
            rootless: !nix::unistd::geteuid().is_root(),
            kernel_version: host::kernel_release(),
            operating_system: host::operating_system(),
            os_type: std::env::consts::OS,
            architecture: std::env::consts::ARCH,
            cpus: std::thread::available_parallelism().map_or(1, usize::from),
            mem_total: host::memory_bytes(),
            name: host::read_trimmed("/proc/sys/kernel/hostname"),
            isolation: [Isolation::Container, Isolation::Vm]
                .map(|isolation| backend(engine, isolation))
                .into(),
            kvm: machines.kvm,
            guest: machines.guest,
            warnings: damaged.iter().map(ToString::to_string).collect(),
        };
        info.warn();
        Ok(info)
    }

    /// What will not work here, and why.
    pub fn warnings(&self) -> &[String] {
        &self.warnings
    }

    fn warn(&mut self) {
        let mut warn = |holds: bool, text: &str| {
            if holds {
                self.warnings.push(text.to_owned());
            }
        };
        warn(self.rootless, "not running as root: containers cannot be made");
        warn(
            !host::has_filesystem("overlay"),
            "the kernel has no overlayfs: load it with `modprobe overlay`",
        );
        warn(self.cgroup_mode == CgroupMode::None, "no cgroups are mounted: limits cannot be enforced");
        for controller in ["memory", "cpu", "pids"] {
            let missing = !self.cgroup_controllers.iter().any(|known| known == controller);
            warn(missing, &format!("no {controller} cgroup controller: its limits cannot be enforced"));
        }
        warn(
            !self.namespaces.iter().any(|name| name == "user"),
            "the kernel has no user namespaces: use --userns=host",
        );
        warn(
            !self.security_options.iter().any(|name| name.contains("seccomp")),
            "the kernel has no seccomp filters",
        );
    }
}

fn backend(engine: &Engine, isolation: Isolation) -> BackendInfo {
    let checked = engine.backend(isolation).and_then(|backend| Ok(backend.check_host()?));
    BackendInfo {
        name: isolation.to_string(),
        available: checked.is_ok(),
        reason: checked.err().map(|error| error.to_string()).unwrap_or_default(),
    }
}

impl fmt::Display for Info {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "Containers: {}", self.containers)?;
        writeln!(f, " Running: {}", self.containers_running)?;
        writeln!(f, " Paused: {}", self.containers_paused)?;
        writeln!(f, " Stopped: {}", self.containers_stopped)?;
        writeln!(f, "Images: {}", self.images)?;
        writeln!(f, "Volumes: {}", self.volumes)?;
        writeln!(f, "Version: {}", self.server_version)?;
        writeln!(f, "Isolation:")?;
        for backend in &self.isolation {
            let state = if backend.available { "available" } else { backend.reason.as_str() };
            writeln!(f, " {}: {state}", backend.name)?;
        }
        writeln!(f, "KVM: {} ({})", self.kvm.kind, self.kvm.reason)?;
        writeln!(f, "Guest Kernel: {}", self.guest)?;
        writeln!(f, "Storage Driver: {}", self.driver)?;
        for [name, value] in &self.driver_status {
            writeln!(f, " {name}: {value}")?;
        }
        writeln!(f, "Cgroup Driver: {}", self.cgroup_driver)?;
        writeln!(f, "Cgroup Mode: {}", self.cgroup_mode)?;
        writeln!(f, " Controllers: {}", self.cgroup_controllers.join(" "))?;
        writeln!(f, "Namespaces: {}", self.namespaces.join(" "))?;
        writeln!(f, "Security Options: {}", self.security_options.join(" "))?;
        writeln!(f, "Rootless: {}", self.rootless)?;
        writeln!(f, "Kernel Version: {}", self.kernel_version)?;
        writeln!(f, "Operating System: {}", self.operating_system)?;
        writeln!(f, "Architecture: {}", self.architecture)?;
        writeln!(f, "CPUs: {}", self.cpus)?;
        writeln!(f, "Total Memory: {}", human::memory(self.mem_total))?;
        writeln!(f, "Name: {}", self.name)?;
        writeln!(f, "Run Dir: {}", self.run_dir)?;
        writeln!(f, "Root Dir: {}", self.root_dir)
    }
}
