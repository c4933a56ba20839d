//! Other programs, measured on the same image.

mod cli;
mod cpio;
mod firecracker;
mod guest;
mod network;
mod oci;
mod qemu;

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::Value;

pub use guest::Machine;

use crate::contestant::Contestant;
use crate::error::{Error, Result};
use crate::model::{Missing, Subject, SubjectKind};
use crate::probe::Probe;
use crate::process::helper;

/// What peers run.
#[derive(Debug, Clone)]
pub struct Workload {
    /// Folders of the image's layers, the topmost first, in overlayfs' form.
    pub layers: Vec<PathBuf>,
    /// The OCI configuration that rkvm itself would use in the host's user namespace: same program, environment, limits,
    /// capabilities, seccomp filter, mounts.
    pub spec: Value,
    /// Folder for their files.
    pub folder: PathBuf,
    /// The image's name.
    pub image: String,
    /// What runs in place of the image's command; empty: its own.
    pub command: Vec<String>,
    /// Flags for `rkvm run`, whose words are Docker's.
    pub run_flags: Vec<String>,
    /// The image as an archive, for engines that have a store of their own; see [`needs_archive`].
    pub archive: Option<PathBuf>,
    /// What a virtual machine boots, or why there is none; see [`needs_machine`].
    pub machine: std::result::Result<Machine, String>,
}

/// Peers that were asked for.
#[derive(Default)]
pub struct Peers {
    /// Those that can take part.
    pub found: Vec<Box<dyn Contestant>>,
    /// Those that cannot.
    pub missing: Vec<Missing>,
    /// Version lines of those that can.
    pub versions: BTreeMap<String, String>,
}

/// All names that `--with` takes.
pub const KNOWN: [&str; 6] = ["runc", "crun", "podman", "docker", qemu::NAME, firecracker::NAME];

/// Whether one of these peers reads [`Workload::machine`].
pub fn needs_machine(names: &[String]) -> bool {
    names.iter().any(|name| [qemu::NAME, firecracker::NAME].contains(&name.as_str()))
}

/// Whether one of these peers reads [`Workload::archive`].
pub fn needs_archive(names: &[String]) -> bool {
    names.iter().any(|name| matches!(name.as_str(), "podman" | "docker"))
}

/// Checks names before anything is measured.
///
/// # Errors
/// One is not known.
pub fn check(names: &[String]) -> Result<()> {
    match names.iter().find(|name| !KNOWN.contains(&name.as_str())) {
        Some(name) => Err(Error::invalid("--with", name, format!("there are {}", KNOWN.join(", ")))),
        None => Ok(()),
    }
}

/// The peers with these names. `probe` decides whether they need a network.
///
/// # Errors
/// Their files cannot be written.
pub fn find(names: &[String], workload: &Workload, probe: &Probe) -> Result<Peers> {
    check(names)?;
    let mut peers = Peers::default();
    for name in names {
        let program = if name == qemu::NAME { qemu::PROGRAM } else { name };
        let Some(program) = on_path(program) else {
            let reason = format!("no program {program} on PATH; install it, or leave it out of --with");
            peers.missing.push(Missing { id: name.clone(), reason });
            continue;
        };
        let version = match helper(Command::new(&program).arg("--version")) {
            Ok(version) => version,
            Err(error) => {
                peers.missing.push(Missing { id: name.clone(), reason: error.with_causes() });
                continue;
            }
        };
        peers.versions.insert(name.clone(), version.lines().next().unwrap_or_default().trim().to_owned());
        match contestant(name, program, workload, probe)? {
            Ok(found) => peers.found.push(found),
            Err(reason) => peers.missing.push(Missing { id: name.clone(), reason }),
        }
    }
    Ok(peers)
}

/// A peer whose program was found, or why it cannot take part.
fn contestant(
    name: &str,
    program: PathBuf,
    workload: &Workload,
    probe: &Probe,
) -> Result<std::result::Result<Box<dyn Contestant>, String>> {
    let boxed = |engine| Box::new(engine) as Box<dyn Contestant>;
    Ok(match name {
        "podman" => cli::Engine::new(cli::Kind::Podman, program, workload, probe)?.map(boxed),
        "docker" => cli::Engine::new(cli::Kind::Docker, program, workload, probe)?.map(boxed),
        qemu::NAME => qemu::Qemu::new(program, workload, probe)?.map(|qemu| Box::new(qemu) as _),
        firecracker::NAME => {
            firecracker::Firecracker::new(program, workload, probe)?.map(|machine| Box::new(machine) as _)
        }
        _ => Ok(Box::new(oci::Runtime::new(name, program, workload, probe))),
    })
}

/// What a contestant is, with what the probe makes different.
pub fn described(contestant: &dyn Contestant, probe: &Probe) -> Subject {
    let mut subject = contestant.subject().clone();
    if subject.kind == SubjectKind::Peer && matches!(probe, Probe::Exec) {
        subject.differences.push(AT_RETURN.to_owned());
    }
    subject
}

/// A peer tells no moment of its own, see [`crate::start::start`].
const AT_RETURN: &str = "with the probe exec it is measured to its command's return, and rkvm to the moment its program is executed, a little before rkvm's own command returns";

/// Ends and removes what the peers of a killed measurement left. `folder` is its session's.
///
/// # Errors
/// Something cannot be removed.
pub fn clean_up(folder: &Path) -> Result<()> {
    [qemu::FOLDER, firecracker::FOLDER].iter().for_each(|machines| guest::clean_up(&folder.join(machines)));
    oci::clean_up(folder)?;
    cli::clean_up(folder)
}

/// Where a program is.
pub fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    // sbin is not on everyone's PATH, and runc lives there.
    let folders = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders.map(|folder| folder.join(name)).find(|path| path.is_file())
}

fn make_folder(path: &Path) -> Result<()> {
    fs::create_dir_all(path).map_err(|error| Error::file("create", path, error))
}
