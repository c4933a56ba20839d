//! What was asked for when a container was created: the image's defaults and the user's flags, joined.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;

use rkvm_oci::{Isolation, Signal};
use serde::{Deserialize, Serialize};

/// A container as it was asked for. Changes only through `rename` and `update`.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct ContainerRecord {
    /// 64 hex digits.
    pub id: String,
    /// Unique name.
    pub name: String,
    /// When it was created, RFC 3339, UTC.
    pub created: String,
    /// Where its root filesystem comes from.
    pub image: ImageUse,
    /// Which backend runs it.
    pub isolation: Isolation,
    /// What runs in it.
    pub process: ProcessConfig,
    /// Its network.
    pub network: NetworkConfig,
    /// File systems joined to its root.
    pub mounts: Vec<MountConfig>,
    /// Resource limits.
    pub limits: Limits,
    /// What a microVM boots.
    #[serde(default)]
    pub boot: Boot,
    /// What it may do.
    pub security: Security,
    /// What happens when it ends.
    pub restart: RestartPolicy,
    /// Remove it when it ends (`--rm`).
    pub auto_remove: bool,
    /// Log rotation.
    pub log: LogConfig,
    /// Labels of the image and of `--label`.
    pub labels: BTreeMap<String, String>,
    /// `--annotation`: annotations of config.json.
    #[serde(default)]
    pub annotations: BTreeMap<String, String>,
}

/// The image of a container, as it was when the container was created.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImageUse {
    /// As the user wrote it.
    pub reference: String,
    /// Digest of the image's configuration, `sha256:...`.
    pub id: String,
    /// Digest of the image's manifest, `sha256:...`.
    #[serde(default)]
    pub manifest: String,
    /// Unpacked layers on the host, the topmost first.
    pub layers: Vec<PathBuf>,
}

/// What runs in a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessConfig {
    /// Entry point of the image or of `--entrypoint`.
    pub entrypoint: Vec<String>,
    /// Command of the image or of the command line, appended to the entry point.
    pub cmd: Vec<String>,
    /// `NAME=value`, the image's first, then the user's.
    pub env: Vec<String>,
    /// Absolute; made when it is missing.
    pub working_dir: String,
    /// `USER[:GROUP]`, names or numbers; empty is root.
    pub user: String,
    /// Further groups, names or numbers.
    pub group_add: Vec<String>,
    /// Host name; empty is the short id.
    pub hostname: String,
    /// Domain name; empty is none.
    #[serde(default)]
    pub domainname: String,
    /// Whether it has a terminal.
    pub tty: bool,
    /// Whether its standard input stays open (`-i`).
    pub open_stdin: bool,
    /// Close standard input when the first client that feeds it leaves (Docker's StdinOnce).
    #[serde(default)]
    pub stdin_once: bool,
    /// What `stop` sends first; `None` is SIGTERM.
    pub stop_signal: Option<Signal>,
    /// Seconds that `stop` waits before SIGKILL, -1 without end; `None` is 10.
    pub stop_timeout: Option<i64>,
    /// Run a small init as pid 1 (`--init`).
    pub init: bool,
}

impl ProcessConfig {
    /// Entry point and command together: what is executed.
    pub fn args(&self) -> impl Iterator<Item = &String> {
        self.entrypoint.iter().chain(&self.cmd)
    }
}

/// How a container is connected.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NetworkMode {
    /// An address of its own on the bridge.
    #[default]
    Bridge,
    /// Only a loopback link.
    None,
    /// The host's network namespace.
    Host,
    /// The network namespace of this container (its full id).
    Container(String),
}

/// Network of a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkConfig {
    /// How it is connected.
    pub mode: NetworkMode,
    /// Ports published on the host (`-p`); host port 0 where it is chosen at the start.
    pub ports: Vec<PortMapping>,
    /// The same with ranges of host ports to choose from, as the network takes them.
    #[serde(default)]
    pub requested: Vec<rkvm_net::PortMapping>,
    /// Ports that the image or `--expose` names, `80/tcp`.
    pub exposed: Vec<String>,
    /// Publish every exposed port on a free host port (`-P`).
    pub publish_all: bool,
    /// `--dns`.
    pub dns: Vec<IpAddr>,
    /// `--dns-search`.
    pub dns_search: Vec<String>,
    /// `--dns-option`.
    pub dns_options: Vec<String>,
    /// `--add-host`: name and address, the address possibly `host-gateway`.
    pub extra_hosts: Vec<(String, String)>,
}

/// Transport protocol of a published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Protocol {
    /// TCP.
    #[default]
    Tcp,
    /// UDP.
    Udp,
}

impl std::fmt::Display for Protocol {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        })
    }
}

/// One published port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct PortMapping {
    /// Host address to listen on; `None` is all of them.
    pub host_ip: Option<IpAddr>,
    /// Host port; 0 is any that is free.
    pub host_port: u16,
    /// Port inside.
    pub container_port: u16,
    /// Protocol.
    pub protocol: Protocol,
}

/// What a mount joins to the root filesystem.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum MountKind {
    /// A host folder or file.
    Bind {
        /// Absolute host path.
        source: PathBuf,
        /// Mount propagation: `private`, `rprivate`, `slave`, `rslave`.
        propagation: String,
        /// Whether mounts below the source come along.
        recursive: bool,
    },
    /// A volume.
    Volume {
        /// Its name (64 hex digits for an anonymous one).
        name: String,
        /// Made for this container, and removed with it by `rm -v` and `--rm`.
        anonymous: bool,
        /// Do not copy the image's content into the volume when that is empty.
        no_copy: bool,
        /// Folder within the volume; empty is the whole of it.
        #[serde(default)]
        subpath: String,
    },
    /// Memory.
    Tmpfs {
        /// Mount options, e.g. `size=64m`, `mode=1777`, `noexec`.
        options: Vec<String>,
    },
}

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MountConfig {
    /// What is mounted.
    #[serde(flatten)]
    pub kind: MountKind,
    /// Absolute path inside.
    pub target: String,
    /// Whether it cannot be written.
    pub read_only: bool,
}

/// What a microVM boots in place of the host's guest kernel and initramfs; all `None` for a container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Boot {
    /// Kernel: ELF, bzImage or PVH; absolute.
    pub kernel: Option<PathBuf>,
    /// Initramfs; absolute.
    pub initrd: Option<PathBuf>,
    /// Appended to the kernel's command line.
    pub cmdline: Option<String>,
    /// When the machine begins with a template.
    #[serde(default)]
    pub template: Option<Template>,
}

/// When a machine begins where another one of its shape had booted to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Template {
    /// When there is one; otherwise the machine becomes one.
    Auto,
    /// Never: it boots.
    Never,
}

impl std::fmt::Display for Template {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Auto => "auto",
            Self::Never => "never",
        })
    }
}

impl Boot {
    /// The annotations of config.json that say the same.
    pub fn annotations(&self) -> impl Iterator<Item = (String, String)> {
        let path = |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string());
        let template = self.template.map(|template| template.to_string());
        [
            ("kernel", path(&self.kernel)),
            ("initrd", path(&self.initrd)),
            ("cmdline", self.cmdline.clone()),
            ("template", template),
        ]
        .into_iter()
        .filter_map(|(name, value)| Some((format!("io.rkvm.vm.{name}"), value?)))
    }
}

/// Resource limits; `None` is no limit or the kernel's default.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Limits {
    /// Memory, bytes.
    pub memory: Option<i64>,
    /// Memory and swap, bytes; -1 is unlimited swap.
    pub memory_swap: Option<i64>,
    /// Soft limit, bytes.
    pub memory_reservation: Option<i64>,
    /// 0 to 100.
    pub memory_swappiness: Option<u64>,
    /// CPUs in billionths (`--cpus 1.5` is 1500000000).
    pub nano_cpus: Option<i64>,
    /// Microseconds.
    pub cpu_period: Option<u64>,
    /// Microseconds a period.
    pub cpu_quota: Option<i64>,
    /// Relative weight.
    pub cpu_shares: Option<u64>,
    /// CPUs it may run on, `0-3,5`.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use.
    pub cpuset_mems: Option<String>,
    /// Processes and threads; -1 is unlimited.
    pub pids: Option<i64>,
    /// Block I/O weight, 10 to 1000.
    pub blkio_weight: Option<u16>,
    /// Per-process limits.
    pub ulimits: Vec<Ulimit>,
    /// Size of /dev/shm, bytes.
    pub shm_size: Option<i64>,
    /// Do not kill on memory shortage, but wait.
    pub oom_kill_disable: bool,
    /// -1000 to 1000.
    pub oom_score_adj: Option<i32>,
}

/// One `--ulimit`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ulimit {
    /// `nofile`, `nproc`, ...
    pub name: String,
    /// Soft limit; `u64::MAX` is unlimited.
    pub soft: u64,
    /// Hard limit.
    pub hard: u64,
}

/// Which namespace a container lives in.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum NamespaceMode {
    /// Its own.
    #[default]
    Private,
    /// The host's.
    Host,
    /// That of this container (its full id).
    Container(String),
}

/// Which seccomp filter applies.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum Seccomp {
    /// The engine's default profile.
    #[default]
    Default,
    /// None.
    Unconfined,
    /// This profile (JSON, in Docker's form or runtime-spec's).
    Profile(String),
}

/// One `--device`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct DeviceMapping {
    /// Device file on the host.
    pub host: PathBuf,
    /// Path inside.
    pub container: PathBuf,
    /// Any of `r`, `w`, `m`.
    pub permissions: String,
}

/// What a container may do.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Security {
    /// `--cap-add`, normalised to `CAP_...` or `ALL`.
    pub cap_add: Vec<String>,
    /// `--cap-drop`, likewise.
    pub cap_drop: Vec<String>,
    /// All capabilities, all devices, no filters.
    pub privileged: bool,
    /// System call filter.
    pub seccomp: Seccomp,
    /// Nothing executed gains privileges.
    pub no_new_privileges: bool,
    /// AppArmor profile.
    pub apparmor: Option<String>,
    /// SELinux labels (`--security-opt label=...`).
    pub selinux: Vec<String>,
    /// /proc and /sys are not masked (`--security-opt systempaths=unconfined`).
    pub unmasked: bool,
    /// The root filesystem cannot be written.
    pub read_only: bool,
    /// User namespace.
    pub userns: NamespaceMode,
    /// Process id namespace.
    pub pid: NamespaceMode,
    /// IPC namespace.
    pub ipc: NamespaceMode,
    /// Host name namespace.
    pub uts: NamespaceMode,
    /// Cgroup namespace.
    pub cgroupns: NamespaceMode,
    /// Devices.
    pub devices: Vec<DeviceMapping>,
    /// `--device-cgroup-rule`, `c 1:3 rwm`.
    pub device_rules: Vec<String>,
    /// Kernel parameters of its namespaces.
    pub sysctls: BTreeMap<String, String>,
    /// Cgroup under which its own is made; `None` is `/rkvm`.
    #[serde(default)]
    pub cgroup_parent: Option<String>,
}

/// What happens when a container ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case")]
pub enum RestartPolicy {
    /// Nothing.
    #[default]
    No,
    /// It is started again when it fails.
    OnFailure {
        /// At most this often; 0 is without end.
        max_retries: u32,
    },
    /// It is started again.
    Always,
    /// It is started again, unless the user stopped it.
    UnlessStopped,
}

impl std::fmt::Display for RestartPolicy {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::No => f.write_str("no"),
            Self::OnFailure { max_retries: 0 } => f.write_str("on-failure"),
            Self::OnFailure { max_retries } => write!(f, "on-failure:{max_retries}"),
            Self::Always => f.write_str("always"),
            Self::UnlessStopped => f.write_str("unless-stopped"),
        }
    }
}

/// Log rotation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct LogConfig {
    /// A file is rotated when it would grow beyond this, bytes.
    pub max_size: u64,
    /// How many files are kept, the current one included; at least 1.
    pub max_files: u32,
    /// Whether anything is logged (`--log-driver none` turns it off).
    pub enabled: bool,
}

impl Default for LogConfig {
    /// 5 files of 10 MiB: unlike Docker, a container that nobody looks after cannot fill the disk.
    fn default() -> Self {
        Self { max_size: 10 << 20, max_files: 5, enabled: true }
    }
}
