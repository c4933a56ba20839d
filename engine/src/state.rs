//! What became of a container.

use std::fmt;

use serde::{Deserialize, Serialize};

/// State of a container in Docker's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ContainerStatus {
    /// Never started.
    #[default]
    Created,
    /// Its init process runs.
    Running,
    /// Every process is frozen.
    Paused,
    /// It has ended, and its monitor starts it again after a delay.
    Restarting,
    /// It has ended.
    Exited,
    /// It has ended and could not be cleaned up; [`ContainerState::error`] says why.
    Dead,
}

impl ContainerStatus {
    /// Whether a monitor must be there for this state to be true.
    pub fn is_active(self) -> bool {
        matches!(self, Self::Running | Self::Paused | Self::Restarting)
    }

    /// Whether there are processes inside.
    pub fn has_processes(self) -> bool {
        matches!(self, Self::Running | Self::Paused)
    }
}

impl fmt::Display for ContainerStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Restarting => "restarting",
            Self::Exited => "exited",
            Self::Dead => "dead",
        })
    }
}

/// What became of a container. Written atomically, under the container's lock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ContainerState {
    /// The state when this was written; [`crate::Engine`] corrects it where the monitor is gone.
    pub status: ContainerStatus,
    /// Process id of the container's init on the host; 0 when it does not run.
    #[serde(default)]
    pub pid: i32,
    /// Process id of the monitor; 0 when there is none.
    #[serde(default)]
    pub monitor_pid: i32,
    /// Exit code of the last run, 128 plus the signal's number when a signal ended it; 0 before the first.
    #[serde(default)]
    pub exit_code: u8,
    /// Why the last start failed or the run was cut short; empty when nothing went wrong.
    #[serde(default)]
    pub error: String,
    /// Whether the memory limit killed a process of the last run.
    #[serde(default)]
    pub oom_killed: bool,
    /// When the last run began, RFC 3339, UTC; `None` before the first.
    #[serde(default)]
    pub started_at: Option<String>,
    /// When the last run ended, RFC 3339, UTC; `None` before the end of the first.
    #[serde(default)]
    pub finished_at: Option<String>,
    /// How often the restart policy started it again since the user last did.
    #[serde(default)]
    pub restart_count: u32,
    /// The user stopped it (`stop`, `kill`): the restart policy stays still until the next `start`.
    #[serde(default)]
    pub stopped_by_user: bool,
    /// Addresses while it runs on a network of its own.
    #[serde(default)]
    pub network: Option<NetworkState>,
    /// Host id of the container's user and group 0; `None` when it shares the host's user namespace or does not run.
    #[serde(default)]
    pub uid_base: Option<u32>,
    /// Phases of the last start.
    #[serde(default)]
    pub timeline: Option<rkvm_oci::Timeline>,
}

/// Addresses of a running container.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NetworkState {
    /// IPv4 address inside, e.g. `10.88.0.2`.
    pub ip: String,
    /// Length of the network's prefix, 0 to 32.
    pub prefix_len: u8,
    /// Address of the bridge.
    pub gateway: String,
    /// Link-layer address, `02:42:...`.
    pub mac: String,
    /// Name of the bridge on the host.
    pub bridge: String,
    /// Published ports as they really are: host port 0 has been replaced by the one that was chosen.
    pub ports: Vec<crate::record::PortMapping>,
}
