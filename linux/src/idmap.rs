//! User and group id mappings of a user namespace (user_namespaces(7)).

use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::process::Command;

use oci_spec::runtime::{LinuxIdMapping, Spec};
use rkvm_oci::{Error, Result};

use crate::mounts::bind;
use crate::mounts::options::Plan;
use crate::sys::spawn::{self, Parent, Side};

/// The kernel's form of a mapping table.
fn table(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().map(|map| format!("{} {} {}\n", map.container_id(), map.host_id(), map.size())).collect()
}

/// Writes the mappings of the user namespace that process `pid` is the first of. Without CAP_SETUID in this namespace
/// (rootless), everything beyond a mapping of one's own id goes through newuidmap and newgidmap.
///
/// # Errors
/// The kernel refuses the table, or the helper is missing or refuses (/etc/subuid).
pub fn write(pid: i32, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<()> {
    let direct = nix::unistd::geteuid().is_root();
    for (kind, mappings, own, helper) in [
        ("uid", uids, nix::unistd::geteuid().as_raw(), "newuidmap"),
        ("gid", gids, nix::unistd::getegid().as_raw(), "newgidmap"),
    ] {
        if mappings.is_empty() {
            continue;
        }
        let only_own = matches!(mappings, [one] if one.host_id() == own && one.size() == 1);
        if direct || only_own {
            if !direct && kind == "gid" {
                // Without it an unprivileged process could drop a group that keeps it out of a file.
                let path = format!("/proc/{pid}/setgroups");
                fs::write(&path, "deny").map_err(|source| Error::failed("write", path, source))?;
            }
            let path = format!("/proc/{pid}/{kind}_map");
            fs::write(&path, table(mappings)).map_err(|source| {
                Error::failed("write", &path, source).hint("check the mappings in config.json")
            })?;
        } else {
            run_helper(helper, pid, mappings)?;
        }
    }
    Ok(())
}

fn run_helper(helper: &'static str, pid: i32, mappings: &[LinuxIdMapping]) -> Result<()> {
    let mut command = Command::new(helper);
    command.arg(pid.to_string());
    for map in mappings {
        command.args([map.container_id(), map.host_id(), map.size()].map(|number| number.to_string()));
    }
    let output = command.output().map_err(|source| {
        Error::failed("run", helper, source)
            .hint("rootless containers with more than one id need it: install package uidmap")
    })?;
    if output.status.success() {
        return Ok(());
    }
    let reason = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(Error::failed("map ids with", helper, reason).hint("check /etc/subuid and /etc/subgid"))
}

/// Maps the new user namespace of process `pid` as `spec` says, and those of `mounts` that follow its mapping.
///
/// # Errors
/// The kernel refuses the table, or a file system cannot be idmapped.
pub fn map(spec: &Spec, pid: i32, mounts: &[(Plan, OwnedFd)]) -> Result<()> {
    let linux = spec.linux().as_ref();
    let list = |list: Option<&Vec<LinuxIdMapping>>| list.cloned().unwrap_or_default();
    let uids = list(linux.and_then(|linux| linux.uid_mappings().as_ref()));
    let gids = list(linux.and_then(|linux| linux.gid_mappings().as_ref()));
    write(pid, &uids, &gids)?;
    if mounts.is_empty() {
        return Ok(());
    }
    let path = format!("/proc/{pid}/ns/user");
    let userns = fs::File::open(&path).map_err(|source| Error::failed("open", &path, source))?;
    mounts.iter().try_for_each(|(plan, tree)| bind::map_ids(plan, tree.as_fd(), userns.as_fd()))
}

/// A user namespace with these mappings and no process in it, for an idmapped mount.
///
/// # Errors
/// User namespaces are not allowed, or the mappings are refused.
pub fn namespace(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd> {
    let failed = |source| Error::failed("make user namespace for", "an idmapped mount", source);
    match spawn::clone3(libc::CLONE_NEWUSER as u64, Parent::Caller, None).map_err(failed)? {
        Side::Child => {
            // Ended by the signal below, or with its parent.
            let _ = nix::sys::prctl::set_pdeathsig(nix::sys::signal::Signal::SIGKILL);
            loop {
                nix::unistd::pause();
            }
        }
        Side::Parent { pid, pidfd } => {
            let written = write(pid, uids, gids).and_then(|()| {
                fs::File::open(format!("/proc/{pid}/ns/user")).map(OwnedFd::from).map_err(failed)
            });
            let _ = spawn::pidfd_signal(std::os::fd::AsFd::as_fd(&pidfd), libc::SIGKILL);
            let _ = nix::sys::wait::waitpid(nix::unistd::Pid::from_raw(pid), None);
            written
        }
    }
}
