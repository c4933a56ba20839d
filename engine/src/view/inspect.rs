//! What `inspect` prints of a container, in Docker's shape (API "ContainerInspect"), plus `Isolation`.

use std::collections::BTreeMap;

use serde::Serialize;

pub use super::inspect_host::HostConfig;
use super::ps::Measure;
use super::{ports, ps};
use crate::paths::Paths;
use crate::record::{MountKind, NetworkMode, PortMapping};
use crate::state::ContainerStatus;
use crate::store::Container;

/// Go's zero time, which Docker prints where something has not happened.
const NEVER: &str = "0001-01-01T00:00:00Z";

/// Everything that is known of a container.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub struct Inspect {
    id: String,
    created: String,
    path: String,
    args: Vec<String>,
    state: State,
    image: String,
    resolv_conf_path: String,
    hostname_path: String,
    hosts_path: String,
    log_path: String,
    name: String,
    restart_count: u32,
    driver: &'static str,
    platform: &'static str,
    mount_label: String,
    process_label: String,
    app_armor_profile: String,
    #[serde(rename = "ExecIDs")]
    exec_ids: Option<Vec<String>>,
    isolation: String,
    host_config: HostConfig,
    graph_driver: GraphDriver,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_rw: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size_root_fs: Option<u64>,
    mounts: Vec<Mount>,
    config: Config,
    network_settings: NetworkSettings,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    status: String,
    running: bool,
    paused: bool,
    restarting: bool,
    #[serde(rename = "OOMKilled")]
    oom_killed: bool,
    dead: bool,
    pid: i32,
    monitor_pid: i32,
    exit_code: u8,
    error: String,
    started_at: String,
    finished_at: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct GraphDriver {
    name: &'static str,
    data: BTreeMap<&'static str, String>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Mount {
    #[serde(rename = "Type")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    source: String,
    destination: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    driver: Option<&'static str>,
    mode: String,
    #[serde(rename = "RW")]
    writable: bool,
    propagation: String,
}

/// A set, as Go encodes it in JSON: an object of empty objects.
type Set = BTreeMap<String, BTreeMap<String, String>>;

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    hostname: String,
    domainname: String,
    user: String,
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    #[serde(skip_serializing_if = "Set::is_empty")]
    exposed_ports: Set,
    tty: bool,
    open_stdin: bool,
    stdin_once: bool,
    env: Vec<String>,
    cmd: Option<Vec<String>>,
    image: String,
    volumes: Option<Set>,
    working_dir: String,
    entrypoint: Option<Vec<String>>,
    labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_signal: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    stop_timeout: Option<i64>,
}

/// Where a container's port is reachable; `null` for one that is exposed and not published.
pub(super) type PortMap = BTreeMap<String, Option<Vec<PortBinding>>>;

/// One place at which a port is reachable.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
pub(super) struct PortBinding {
    host_ip: String,
    host_port: String,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct NetworkSettings {
    bridge: String,
    sandbox_key: String,
    ports: PortMap,
    gateway: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    mac_address: String,
    networks: BTreeMap<String, Endpoint>,
}

#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "PascalCase")]
struct Endpoint {
    gateway: String,
    #[serde(rename = "IPAddress")]
    ip_address: String,
    #[serde(rename = "IPPrefixLen")]
    ip_prefix_len: u8,
    mac_address: String,
    #[serde(rename = "NetworkID")]
    network_id: String,
}

/// `ports` by container port.
pub(super) fn port_map<'a>(ports: impl IntoIterator<Item = &'a PortMapping>) -> PortMap {
    let mut map = PortMap::new();
    for mapping in ports {
        let name = format!("{}/{}", mapping.container_port, mapping.protocol);
        let binding = PortBinding {
            host_ip: ports::host_ip(mapping),
            // A port that is to be chosen has no number yet.
            host_port: if mapping.host_port == 0 { String::new() } else { mapping.host_port.to_string() },
        };
        map.entry(name).or_default().get_or_insert_default().push(binding);
    }
    map
}

impl Inspect {
    /// What is known of `container`.
    pub fn new(container: &Container, paths: &Paths, measure: Measure) -> Self {
        let record = &container.record;
        let files = &container.paths;
        let mut args = record.process.args().cloned();
        let sizes = (measure == Measure::Size).then(|| ps::sizes(container));
        Self {
            id: record.id.clone(),
            created: record.created.clone(),
            path: args.next().unwrap_or_default(),
            args: args.collect(),
            state: State::new(container),
            image: record.image.id.clone(),
            resolv_conf_path: files.resolv_conf().display().to_string(),
            hostname_path: files.hostname().display().to_string(),
            hosts_path: files.hosts().display().to_string(),
            log_path: if record.log.enabled { files.log().display().to_string() } else { String::new() },
            name: format!("/{}", record.name),
            restart_count: container.state.restart_count,
            driver: "overlay2",
            platform: "linux",
            mount_label: String::new(),
            process_label: String::new(),
            app_armor_profile: record.security.apparmor.clone().unwrap_or_default(),
            exec_ids: None,
            isolation: record.isolation.to_string(),
            host_config: HostConfig::new(record),
            graph_driver: GraphDriver::new(container),
            size_rw: sizes.map(|(written, _)| written),
            size_root_fs: sizes.map(|(_, whole)| whole),
            mounts: record.mounts.iter().map(|mount| Mount::new(mount, paths)).collect(),
            config: Config::new(container),
            network_settings: NetworkSettings::new(container),
        }
    }
}

impl State {
    fn new(container: &Container) -> Self {
        let state = &container.state;
        let or_never = |moment: &Option<String>| moment.clone().unwrap_or_else(|| NEVER.to_owned());
        Self {
            status: state.status.to_string(),
            // Docker counts a container that is paused or about to restart as running.
            running: state.status.is_active(),
            paused: state.status == ContainerStatus::Paused,
            restarting: state.status == ContainerStatus::Restarting,
            oom_killed: state.oom_killed,
            dead: state.status == ContainerStatus::Dead,
            pid: state.pid,
            monitor_pid: state.monitor_pid,
            exit_code: state.exit_code,
            error: state.error.clone(),
            started_at: or_never(&state.started_at),
            finished_at: or_never(&state.finished_at),
        }
    }
}

impl GraphDriver {
    fn new(container: &Container) -> Self {
        let overlay = container.paths.overlay();
        let layers: Vec<_> =
            container.record.image.layers.iter().map(|layer| layer.display().to_string()).collect();
        let data = BTreeMap::from([
            ("LowerDir", layers.join(":")),
            ("MergedDir", container.paths.rootfs().display().to_string()),
            ("UpperDir", overlay.join("upper").display().to_string()),
            ("WorkDir", overlay.join("work").display().to_string()),
        ]);
        Self { name: "overlay2", data }
    }
}

impl Mount {
    fn new(mount: &crate::record::MountConfig, paths: &Paths) -> Self {
        let (kind, name, source, driver, mode, propagation) = match &mount.kind {
            MountKind::Bind { source, propagation, .. } => {
                ("bind", None, source.display().to_string(), None, String::new(), propagation.clone())
            }
            MountKind::Volume { name, subpath, .. } => {
                let source = paths.volumes().join(name).join("_data").join(subpath.trim_start_matches('/'));
                let source = source.display().to_string().trim_end_matches('/').to_owned();
                ("volume", Some(name.clone()), source, Some("local"), "z".to_owned(), String::new())
            }
            MountKind::Tmpfs { options } => {
                ("tmpfs", None, String::new(), None, options.join(","), String::new())
            }
        };
        Self {
            kind,
            name,
            source,
            destination: mount.target.clone(),
            driver,
            mode,
            writable: !mount.read_only,
            propagation,
        }
    }
}

impl Config {
    fn new(container: &Container) -> Self {
        let record = &container.record;
        let process = &record.process;
        let some = |list: &Vec<String>| (!list.is_empty()).then(|| list.clone());
        let exposed = ports::exposed(container);
        let hostname = match process.hostname.as_str() {
            "" => crate::ids::short(&record.id),
            name => name,
        };
        Self {
            hostname: hostname.to_owned(),
            domainname: process.domainname.clone(),
            user: process.user.clone(),
            attach_stdin: process.stdin_once,
            attach_stdout: process.stdin_once,
            attach_stderr: process.stdin_once,
            exposed_ports: exposed
                .iter()
                .map(|(port, protocol)| (format!("{port}/{protocol}"), BTreeMap::new()))
                .collect(),
            tty: process.tty,
            open_stdin: process.open_stdin,
            stdin_once: process.stdin_once,
            env: process.env.clone(),
            cmd: some(&process.cmd),
            image: record.image.reference.clone(),
            volumes: None,
            working_dir: process.working_dir.clone(),
            entrypoint: some(&process.entrypoint),
            labels: record.labels.clone(),
            stop_signal: process.stop_signal.map(|signal| signal.to_string()),
            stop_timeout: process.stop_timeout,
        }
    }
}

impl NetworkSettings {
    fn new(container: &Container) -> Self {
        let state = container.state.network.clone().unwrap_or_default();
        let mut ports = PortMap::new();
        if container.state.status.has_processes() {
            let exposed = ports::exposed(container);
            ports.extend(exposed.iter().map(|(port, protocol)| (format!("{port}/{protocol}"), None)));
            ports.extend(port_map(&state.ports));
        }
        let pid = container.state.pid;
        let mut networks = BTreeMap::new();
        if !matches!(container.record.network.mode, NetworkMode::Container(_)) {
            let endpoint = Endpoint {
                gateway: state.gateway.clone(),
                ip_address: state.ip.clone(),
                ip_prefix_len: state.prefix_len,
                mac_address: state.mac.clone(),
                network_id: state.bridge.clone(),
            };
            networks.insert(ps::network_name(&container.record.network.mode), endpoint);
        }
        Self {
            bridge: state.bridge,
            sandbox_key: if pid == 0 { String::new() } else { format!("/proc/{pid}/ns/net") },
            ports,
            gateway: state.gateway,
            ip_address: state.ip,
            ip_prefix_len: state.prefix_len,
            mac_address: state.mac,
            networks,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::ps::tests::container;
    use super::*;
    use crate::record::Protocol;
    use crate::state::NetworkState;

    fn json(container: &Container) -> serde_json::Value {
        let paths = Paths::new("/run/rkvm", "/var/lib/rkvm");
        serde_json::to_value(Inspect::new(container, &paths, Measure::Skip)).unwrap()
    }

    /// Fields that scripts made for Docker read.
    #[test]
    fn the_shape_is_dockers() {
        let json = json(&container("web"));
        for field in [
            "/Id",
            "/Created",
            "/Path",
            "/Args/0",
            "/State/Status",
            "/State/Running",
            "/State/Paused",
            "/State/Restarting",
            "/State/OOMKilled",
            "/State/Dead",
            "/State/Pid",
            "/State/ExitCode",
            "/State/Error",
            "/State/StartedAt",
            "/State/FinishedAt",
            "/Image",
            "/ResolvConfPath",
            "/HostnamePath",
            "/HostsPath",
            "/LogPath",
            "/Name",
            "/RestartCount",
            "/HostConfig/Binds",
            "/HostConfig/NetworkMode",
            "/HostConfig/PortBindings",
            "/HostConfig/RestartPolicy/Name",
            "/HostConfig/RestartPolicy/MaximumRetryCount",
            "/HostConfig/AutoRemove",
            "/HostConfig/CapAdd",
            "/HostConfig/CapDrop",
            "/HostConfig/Dns",
            "/HostConfig/Privileged",
            "/HostConfig/ReadonlyRootfs",
            "/HostConfig/ShmSize",
            "/HostConfig/Memory",
            "/HostConfig/NanoCpus",
            "/HostConfig/PidsLimit",
            "/HostConfig/Ulimits",
            "/HostConfig/LogConfig/Type",
            "/HostConfig/UsernsMode",
            "/HostConfig/SecurityOpt",
            "/HostConfig/Init",
            "/HostConfig/Devices",
            "/Mounts",
            "/Config/Hostname",
            "/Config/User",
            "/Config/Env",
            "/Config/Cmd",
            "/Config/Image",
            "/Config/WorkingDir",
            "/Config/Entrypoint",
            "/Config/Labels",
            "/Config/Tty",
            "/Config/OpenStdin",
            "/NetworkSettings/Ports",
            "/NetworkSettings/IPAddress",
            "/NetworkSettings/Networks/bridge/IPAddress",
            "/GraphDriver/Data/UpperDir",
            "/Isolation",
        ] {
            assert!(json.pointer(field).is_some(), "{field} is missing: {json:#}");
        }
        assert_eq!(json["Name"], "/web");
        assert_eq!(json["Path"], "/docker-entrypoint.sh");
        assert_eq!(json["State"]["StartedAt"], NEVER);
        assert_eq!(json["Isolation"], "container");
    }

    #[test]
    fn ports_of_a_running_container() {
        let mut web = container("web");
        web.state.status = ContainerStatus::Running;
        web.record.network.exposed = vec!["80/tcp".to_owned(), "443/tcp".to_owned()];
        let mapping =
            PortMapping { host_ip: None, host_port: 8080, container_port: 80, protocol: Protocol::Tcp };
        web.state.network = Some(NetworkState {
            ip: "10.88.0.2".to_owned(),
            ports: vec![mapping],
            ..NetworkState::default()
        });
        let json = json(&web);
        assert_eq!(json["NetworkSettings"]["Ports"]["80/tcp"][0]["HostPort"], "8080");
        assert_eq!(json["NetworkSettings"]["Ports"]["443/tcp"], serde_json::Value::Null);
        assert_eq!(json["NetworkSettings"]["Networks"]["bridge"]["IPAddress"], "10.88.0.2");
    }
}
