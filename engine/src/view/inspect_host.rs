//! `HostConfig` of `inspect`: what was asked of the host.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use super::inspect::{PortMap, port_map};
use super::ps;
use crate::record::{
    self, ContainerRecord, DeviceMapping, MountConfig, MountKind, NamespaceMode, RestartPolicy, Seccomp,
    Ulimit,
};

/// What was asked of the host, in Docker's words. A limit that was not set is 0.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct HostConfig {
    binds: Option<Vec<String>>,
    #[serde(rename = "ContainerIDFile")]
    container_id_file: String,
    log_config: LogConfig,
    network_mode: String,
    port_bindings: PortMap,
    restart_policy: Restart,
    auto_remove: bool,
    volume_driver: String,
    volumes_from: Option<Vec<String>>,
    cap_add: Option<Vec<String>>,
    cap_drop: Option<Vec<String>>,
    cgroupns_mode: String,
    dns: Vec<String>,
    dns_options: Vec<String>,
    dns_search: Vec<String>,
    extra_hosts: Option<Vec<String>>,
    group_add: Option<Vec<String>>,
    ipc_mode: String,
    oom_score_adj: i32,
    pid_mode: String,
    privileged: bool,
    publish_all_ports: bool,
    readonly_rootfs: bool,
    security_opt: Option<Vec<String>>,
    #[serde(rename = "UTSMode")]
    uts_mode: String,
    userns_mode: String,
    shm_size: i64,
    runtime: &'static str,
    isolation: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    boot: Option<Boot>,
    cpu_shares: u64,
    memory: i64,
    nano_cpus: i64,
    cgroup_parent: String,
    blkio_weight: u16,
    cpu_period: u64,
    cpu_quota: i64,
    cpuset_cpus: String,
    cpuset_mems: String,
    devices: Vec<Device>,
    device_cgroup_rules: Option<Vec<String>>,
    memory_reservation: i64,
    memory_swap: i64,
    memory_swappiness: Option<u64>,
    oom_kill_disable: bool,
    pids_limit: Option<i64>,
    ulimits: Vec<Limit>,
    sysctls: BTreeMap<String, String>,
    tmpfs: BTreeMap<String, String>,
    init: bool,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct LogConfig {
    #[serde(rename = "Type")]
    kind: &'static str,
    config: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Restart {
    name: &'static str,
    maximum_retry_count: u32,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Device {
    path_on_host: String,
    path_in_container: String,
    cgroup_permissions: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Limit {
    name: String,
    hard: i64,
    soft: i64,
}

/// What a microVM boots in place of the default; absent where that is everything.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Boot {
    kernel: String,
    initrd: String,
    cmdline: String,
    template: String,
}

/// Docker's default for `--shm-size`, bytes.
const SHM_BYTES: i64 = 64 << 20;

impl HostConfig {
    /// What `record` asks for.
    pub(super) fn new(record: &ContainerRecord) -> Self {
        let (limits, security, network) = (&record.limits, &record.security, &record.network);
        let some = |list: &[String]| (!list.is_empty()).then(|| list.to_vec());
        let hosts: Vec<_> = network.extra_hosts.iter().map(|(name, ip)| format!("{name}:{ip}")).collect();
        Self {
            binds: some(&record.mounts.iter().filter_map(bind).collect::<Vec<_>>()),
            container_id_file: String::new(),
            log_config: LogConfig {
                kind: if record.log.enabled { "json-file" } else { "none" },
                config: BTreeMap::from([
                    ("max-file", record.log.max_files.to_string()),
                    ("max-size", record.log.max_size.to_string()),
                ]),
            },
            network_mode: ps::network_name(&network.mode),
            port_bindings: port_map(&network.ports),
            restart_policy: restart(record.restart),
            auto_remove: record.auto_remove,
            volume_driver: String::new(),
            volumes_from: None,
            cap_add: some(&security.cap_add),
            cap_drop: some(&security.cap_drop),
            cgroupns_mode: mode(&security.cgroupns, "private"),
            dns: network.dns.iter().map(ToString::to_string).collect(),
            dns_options: network.dns_options.clone(),
            dns_search: network.dns_search.clone(),
            extra_hosts: some(&hosts),
            group_add: some(&record.process.group_add),
            ipc_mode: mode(&security.ipc, "private"),
            oom_score_adj: limits.oom_score_adj.unwrap_or_default(),
            pid_mode: mode(&security.pid, ""),
            privileged: security.privileged,
            publish_all_ports: network.publish_all,
            readonly_rootfs: security.read_only,
            security_opt: some(&security_options(record)),
            uts_mode: mode(&security.uts, ""),
            userns_mode: mode(&security.userns, "private"),
            shm_size: limits.shm_size.unwrap_or(SHM_BYTES),
            runtime: "rkvm-oci",
            isolation: record.isolation.to_string(),
            boot: Boot::new(&record.boot),
            cpu_shares: limits.cpu_shares.unwrap_or_default(),
            memory: limits.memory.unwrap_or_default(),
            nano_cpus: limits.nano_cpus.unwrap_or_default(),
            cgroup_parent: security.cgroup_parent.clone().unwrap_or_default(),
            blkio_weight: limits.blkio_weight.unwrap_or_default(),
            cpu_period: limits.cpu_period.unwrap_or_default(),
            cpu_quota: limits.cpu_quota.unwrap_or_default(),
            cpuset_cpus: limits.cpuset_cpus.clone().unwrap_or_default(),
            cpuset_mems: limits.cpuset_mems.clone().unwrap_or_default(),
            devices: security.devices.iter().map(Device::new).collect(),
            device_cgroup_rules: some(&security.device_rules),
            memory_reservation: limits.memory_reservation.unwrap_or_default(),
            memory_swap: limits.memory_swap.unwrap_or_default(),
            memory_swappiness: limits.memory_swappiness,
            oom_kill_disable: limits.oom_kill_disable,
            pids_limit: limits.pids,
            ulimits: limits.ulimits.iter().map(Limit::new).collect(),
            sysctls: security.sysctls.clone(),
            tmpfs: record.mounts.iter().filter_map(tmpfs).collect(),
            init: record.process.init,
        }
    }
}

/// A bind mount or named volume as `-v` takes it.
fn bind(mount: &MountConfig) -> Option<String> {
    let source = match &mount.kind {
        MountKind::Bind { source, .. } => source.display().to_string(),
        MountKind::Volume { name, anonymous: false, .. } => name.clone(),
        MountKind::Volume { .. } | MountKind::Tmpfs { .. } => return None,
    };
    let suffix = if mount.read_only { ":ro" } else { "" };
    Some(format!("{source}:{}{suffix}", mount.target))
}

fn tmpfs(mount: &MountConfig) -> Option<(String, String)> {
    match &mount.kind {
        MountKind::Tmpfs { options } => Some((mount.target.clone(), options.join(","))),
        _ => None,
    }
}

fn mode(mode: &NamespaceMode, private: &str) -> String {
    match mode {
        NamespaceMode::Private => private.to_owned(),
        NamespaceMode::Host => "host".to_owned(),
        NamespaceMode::Container(id) => format!("container:{id}"),
    }
}

fn restart(policy: RestartPolicy) -> Restart {
    let (name, maximum_retry_count) = match policy {
        RestartPolicy::No => ("no", 0),
        RestartPolicy::OnFailure { max_retries } => ("on-failure", max_retries),
        RestartPolicy::Always => ("always", 0),
        RestartPolicy::UnlessStopped => ("unless-stopped", 0),
    };
    Restart { name, maximum_retry_count }
}

fn security_options(record: &ContainerRecord) -> Vec<String> {
    let security = &record.security;
    let mut options = vec![];
    match &security.seccomp {
        Seccomp::Default => {}
        Seccomp::Unconfined => options.push("seccomp=unconfined".to_owned()),
        Seccomp::Profile(profile) => options.push(format!("seccomp={profile}")),
    }
    if security.no_new_privileges {
        options.push("no-new-privileges".to_owned());
    }
    if let Some(profile) = &security.apparmor {
        options.push(format!("apparmor={profile}"));
    }
    options.extend(security.selinux.iter().map(|label| format!("label={label}")));
    if security.unmasked {
        options.push("systempaths=unconfined".to_owned());
    }
    options
}

impl Boot {
    fn new(boot: &record::Boot) -> Option<Self> {
        let path =
            |path: &Option<PathBuf>| path.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
        (*boot != record::Boot::default()).then(|| Self {
            kernel: path(&boot.kernel),
            initrd: path(&boot.initrd),
            cmdline: boot.cmdline.clone().unwrap_or_default(),
            template: boot.template.unwrap_or(record::Template::Auto).to_string(),
        })
    }
}

impl Device {
    fn new(device: &DeviceMapping) -> Self {
        Self {
            path_on_host: device.host.display().to_string(),
            path_in_container: device.container.display().to_string(),
            cgroup_permissions: device.permissions.clone(),
        }
    }
}

impl Limit {
    fn new(limit: &Ulimit) -> Self {
        // Docker writes "unlimited" as -1.
        let number = |value| i64::try_from(value).unwrap_or(-1);
        Self { name: limit.name.clone(), hard: number(limit.hard), soft: number(limit.soft) }
    }
}
