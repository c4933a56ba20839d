//! A container's state in one phrase, as in `ps`.

use std::time::SystemTime;

use crate::format::human;
use crate::state::{ContainerState, ContainerStatus};

/// "Up 3 minutes", "Exited (0) 2 hours ago", "Created".
pub fn phrase(state: &ContainerState, now: SystemTime) -> String {
    let since = |moment: &Option<String>| {
        let moment = moment.as_deref().and_then(human::parse_time).unwrap_or(now);
        human::duration(now.duration_since(moment).unwrap_or_default())
    };
    match state.status {
        ContainerStatus::Created => "Created".to_owned(),
        ContainerStatus::Running => format!("Up {}", since(&state.started_at)),
        ContainerStatus::Paused => format!("Up {} (Paused)", since(&state.started_at)),
        ContainerStatus::Restarting => {
            format!("Restarting ({}) {} ago", state.exit_code, since(&state.finished_at))
        }
        ContainerStatus::Exited => format!("Exited ({}) {} ago", state.exit_code, since(&state.finished_at)),
        ContainerStatus::Dead => "Dead".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn every_state_has_its_phrase() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000);
        let before = |seconds| Some(rkvm_oci::runtime::rfc3339(now - Duration::from_secs(seconds)));
        let state = |status, exit_code| ContainerState {
            status,
            exit_code,
            started_at: before(200),
            finished_at: before(7_300),
            ..ContainerState::default()
        };
        for (status, code, text) in [
            (ContainerStatus::Created, 0, "Created"),
            (ContainerStatus::Running, 0, "Up 3 minutes"),
            (ContainerStatus::Paused, 0, "Up 3 minutes (Paused)"),
            (ContainerStatus::Restarting, 1, "Restarting (1) 2 hours ago"),
            (ContainerStatus::Exited, 137, "Exited (137) 2 hours ago"),
            (ContainerStatus::Dead, 0, "Dead"),
        ] {
            assert_eq!(phrase(&state(status, code), now), text);
        }
    }
}
