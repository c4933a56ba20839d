//! Containers of measurements: finding them, and removing what a killed measurement left.

use std::net::{IpAddr, Ipv4Addr};
use std::path::PathBuf;
use std::process::Command;

use anyhow::Result;
use rkvm_engine::{Container, Engine};
use rkvm_engine::record::NetworkMode;
use rkvm_measure::process::helper;
use rkvm_measure::rkvm::{Lookup, Seen};
use rkvm_measure::session::{self, LABEL};
use rkvm_oci::{Isolation, Phase};

use crate::context::Context;

/// Folder of the folders of all measurements.
pub fn folder(context: &Context) -> PathBuf {
    context.lib_dir.join("compare")
}

/// Removes what measurements left that were killed.
///
/// # Errors
/// Something cannot be removed.
pub fn clean_up(context: &Context) -> Result<()> {
    let parent = folder(context);
    let dead = session::dead(&parent);
    let is_alive = |name: &str| parent.join(name).exists() && !dead.iter().any(|one| one.name == name);
    remove_all(context, |session| !is_alive(session))?;
    for one in dead {
        rkvm_measure::peers::clean_up(&one.folder)?;
        one.forget()?;
    }
    Ok(())
}

/// Removes the containers of each session that `which` is true of.
///
/// # Errors
/// One cannot be removed.
pub fn remove_all(context: &Context, which: impl Fn(&str) -> bool) -> Result<()> {
    let (containers, _) = context.engine().list()?;
    let ours = containers.iter().filter(|one| one.record.labels.get(LABEL).is_some_and(|name| which(name)));
    let ids: Vec<&str> = ours.map(|one| one.id()).collect();
    if ids.is_empty() {
        return Ok(());
    }
    let mut command = rkvm(context)?;
    helper(command.args(["rm", "--force", "--volumes"]).args(ids))?;
    Ok(())
}

/// This program, for the same engine.
pub fn rkvm(context: &Context) -> Result<Command> {
    let mut command = Command::new(std::env::current_exe()?);
    match &context.root {
        Some(root) => command.env("RKVM_ROOT", root),
        None => command.env_remove("RKVM_ROOT"),
    };
    Ok(command)
}

/// Asks the engine of `context` for containers.
pub fn lookup(context: &Context) -> Lookup {
    let paths = context.engine().paths;
    Box::new(move |name| {
        // A new one each time: several threads ask.
        let engine = Engine::new(paths.clone(), crate::backend::backend);
        let container = engine.find(name).ok()?;
        let network = container.state.network.as_ref();
        let address = match &container.record.network.mode {
            NetworkMode::Host => Some(IpAddr::V4(Ipv4Addr::LOCALHOST)),
            _ => network.and_then(|network| network.ip.parse().ok()),
        };
        let status = container.state.status;
        let has_ended = !status.is_active() && container.state.finished_at.is_some();
        Some(Seen {
            address,
            monitor_pid: container.state.monitor_pid,
            pid: container.state.pid,
            exit_code: has_ended.then_some(container.state.exit_code),
            reached: Some(reached(&engine, &container).name().to_owned()),
        })
    })
}

/// Exit codes of a start whose program could not be executed, as with Docker: all was made but for that.
const NOT_EXECUTED: [u8; 2] = [126, 127];

/// The last phase that is known to have ended of a container's start.
fn reached(engine: &Engine, container: &Container) -> Phase {
    let timeline = container.state.timeline.as_ref().filter(|_| container.state.status.is_active());
    match timeline.and_then(|timeline| timeline.marks.last()) {
        Some(mark) => mark.phase,
        // The runtime's folder is gone by then.
        None if NOT_EXECUTED.contains(&container.state.exit_code) => Phase::Process,
        // The runtime is called when root filesystem and network are there.
        None if engine.paths.runtime().dir(container.id()).exists() => Phase::Network,
        // It is recorded when its image is there.
        None => Phase::Image,
    }
}

/// Why an isolation cannot be used on this host; `None`: it can.
pub fn unusable(isolation: Isolation) -> Option<String> {
    let checked = crate::backend::backend(isolation).and_then(|backend| backend.check_host());
    checked.err().map(|error| format!("{:#}", anyhow::Error::from(error)))
}

/// The guest kernel that a microVM boots on this host; `None`: there is none.
pub fn guest_kernel() -> Option<PathBuf> {
    Some(PathBuf::from(crate::backend::machines().guest.kernel)).filter(|path| path.is_file())
}
