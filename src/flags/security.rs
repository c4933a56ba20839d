//! Flags of what a container may do.

use anyhow::Result;
use rkvm_engine::record::ContainerRecord;
use rkvm_engine::{Engine, options, spec};

/// See the module.
#[derive(Debug, clap::Args)]
pub struct SecurityFlags {
    /// Add a capability, or ALL
    #[arg(long = "cap-add", value_name = "CAPABILITY")]
    cap_add: Vec<String>,
    /// Drop a capability, or ALL
    #[arg(long = "cap-drop", value_name = "CAPABILITY")]
    cap_drop: Vec<String>,
    /// no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE, label=..., systempaths=unconfined
    #[arg(long = "security-opt", value_name = "OPTION")]
    security_options: Vec<String>,
    /// Every capability and device, no filters, the host's user namespace
    #[arg(long)]
    privileged: bool,
    /// Mount the root filesystem read-only
    #[arg(long)]
    read_only: bool,
    /// Give a device, HOST[:CONTAINER][:rwm]
    #[arg(long = "device", value_name = "DEVICE")]
    devices: Vec<String>,
    /// Allow devices by number, e.g. "c 10:* rwm"
    #[arg(long = "device-cgroup-rule", value_name = "RULE")]
    device_rules: Vec<String>,
    /// Set a kernel parameter of the container's namespaces, NAME=value
    #[arg(long = "sysctl", value_name = "PARAMETER")]
    sysctls: Vec<String>,
    /// User namespace: private | host
    #[arg(long, default_value = "private", value_name = "MODE")]
    userns: String,
    /// Process namespace: private | host | container:NAME
    #[arg(long, default_value = "private", value_name = "MODE")]
    pid: String,
    /// IPC namespace: private | host | container:NAME
    #[arg(long, default_value = "private", value_name = "MODE")]
    ipc: String,
    /// Host name namespace: private | host
    #[arg(long, default_value = "private", value_name = "MODE")]
    uts: String,
    /// Cgroup namespace: private | host
    #[arg(long, default_value = "private", value_name = "MODE")]
    cgroupns: String,
    /// Cgroup under which the container's is made
    #[arg(long, value_name = "PATH")]
    cgroup_parent: Option<String>,
}

impl SecurityFlags {
    /// Sets what was given.
    pub(super) fn apply(&self, engine: &Engine, record: &mut ContainerRecord) -> Result<()> {
        let resolve = |name: &str| Ok(engine.find(name)?.record.id);
        let security = &mut record.security;
        let capabilities = |texts: &[String]| -> rkvm_engine::Result<Vec<String>> {
            texts.iter().map(|text| spec::parse_capability(text)).collect()
        };
        security.cap_add = capabilities(&self.cap_add)?;
        security.cap_drop = capabilities(&self.cap_drop)?;
        for text in &self.security_options {
            options::security_option(text, security)?;
        }
        security.privileged = self.privileged;
        security.read_only = self.read_only;
        security.devices = self.devices.iter().map(|text| options::device(text)).collect::<Result<_, _>>()?;
        for text in &self.device_rules {
            spec::parse_device_rule(text)?;
        }
        security.device_rules.clone_from(&self.device_rules);
        for (what, text, mode) in [
            ("user namespace mode", &self.userns, &mut security.userns),
            ("pid mode", &self.pid, &mut security.pid),
            ("ipc mode", &self.ipc, &mut security.ipc),
            ("uts mode", &self.uts, &mut security.uts),
            ("cgroup namespace mode", &self.cgroupns, &mut security.cgroupns),
        ] {
            *mode = options::namespace_mode(what, text, resolve)?;
        }
        for text in &self.sysctls {
            let (name, value) = options::sysctl(text, &record.network.mode, &security.ipc)?;
            security.sysctls.insert(name, value);
        }
        security.cgroup_parent.clone_from(&self.cgroup_parent);
        Ok(())
    }
}
