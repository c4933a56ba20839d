//! Folders of a cgroup hierarchy: making, listing and removing them.

use std::fs::{self, DirBuilder};
use std::io::{self, ErrorKind};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rkvm_oci::{Error, Result};
use serde::{Deserialize, Serialize};

use super::file;

/// How long the removal of a cgroup waits for its last process to leave the kernel.
const REMOVE_TIMEOUT: Duration = Duration::from_secs(5);

/// A cgroup's folder in one hierarchy.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Folder {
    /// Its absolute path.
    pub path: PathBuf,
    /// How many ancestors were made along with it, so that removal takes them away again when they are empty.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub made_ancestors: usize,
}

/// Whether a folder was there before.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Made {
    New,
    Found,
}

fn is_zero(number: &usize) -> bool {
    *number == 0
}

impl Folder {
    /// The folder that is there already.
    pub fn find(mount: &Path, relative: &Path) -> Option<Self> {
        let path = mount.join(relative);
        path.is_dir().then_some(Self { path, made_ancestors: 0 })
    }

    /// Makes `mount`/`relative`, with ancestors. An existing folder is taken over only while no process is in it and
    /// it is not frozen: otherwise two containers would share limits, and one's kill would hit the other.
    ///
    /// # Errors
    /// A folder cannot be made, or it is in use.
    pub fn make(mount: &Path, relative: &Path) -> Result<(Self, Made)> {
        let path = mount.join(relative);
        let failed = |path: &Path, error: io::Error| {
            let kind = error.kind();
            let error = Error::failed("create cgroup", path.display(), error);
            match kind {
                ErrorKind::ReadOnlyFilesystem | ErrorKind::PermissionDenied => error.hint(
                    "cgroups must be mounted writable, and making them needs root or a delegated subtree",
                ),
                _ => error,
            }
        };
        match make_dir(&path) {
            Ok(()) => return Ok((Self { path, made_ancestors: 0 }, Made::New)),
            Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                refuse_in_use(&path)?;
                return Ok((Self { path, made_ancestors: 0 }, Made::Found));
            }
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            Err(error) => return Err(failed(&path, error)),
        }
        let missing: Vec<&Path> =
            path.ancestors().skip(1).take_while(|up| *up != mount && !up.exists()).collect();
        let mut folder = Self { path: path.clone(), made_ancestors: 0 };
        for up in missing.iter().rev() {
            match make_dir(up) {
                Ok(()) => folder.made_ancestors += 1,
                // Another container with the same parent was faster.
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {}
                Err(error) => return Err(failed(up, error)),
            }
        }
        match make_dir(&path) {
            Ok(()) => Ok((folder, Made::New)),
            Err(error) => {
                folder.remove_ancestors();
                Err(failed(&path, error))
            }
        }
    }

    /// Removes the folder, what is below it, and the ancestors that came with it. A folder that is gone is fine.
    ///
    /// # Errors
    /// A process stays in it for [`REMOVE_TIMEOUT`].
    pub fn remove(&self) -> Result<()> {
        remove_tree(&self.path, Instant::now() + REMOVE_TIMEOUT)?;
        self.remove_ancestors();
        Ok(())
    }

    fn remove_ancestors(&self) {
        for up in self.path.ancestors().skip(1).take(self.made_ancestors) {
            // In use by another container: its own removal does not know of them, and they cost nothing.
            if fs::remove_dir(up).is_err() {
                break;
            }
        }
    }
}

fn make_dir(path: &Path) -> io::Result<()> {
    DirBuilder::new().mode(0o755).create(path)
}

fn refuse_in_use(path: &Path) -> Result<()> {
    // The unified hierarchy says both at once, of the cgroups below too.
    let events = file::optional(path, "cgroup.events")?.unwrap_or_default();
    if ["populated", "frozen"].iter().all(|key| file::keyed(&events, key) == Some(0)) {
        return Ok(());
    }
    let pids = processes(path)?;
    if let Some(pid) = pids.first() {
        return Err(Error::invalid_spec(
            "linux.cgroupsPath",
            format!(
                "cgroup {} is in use by {} process(es), {pid} among them; choose another path",
                path.display(),
                pids.len()
            ),
        ));
    }
    let frozen = ["freezer.state", "cgroup.freeze"].iter().any(|name| {
        fs::read_to_string(path.join(name)).is_ok_and(|state| matches!(state.trim(), "FROZEN" | "1"))
    });
    if frozen {
        return Err(Error::invalid_spec(
            "linux.cgroupsPath",
            format!("cgroup {} exists and is frozen; thaw it or choose another path", path.display()),
        ));
    }
    Ok(())
}

/// Process ids in the cgroup and the cgroups below it, in no order; none when it is gone.
///
/// # Errors
/// The list cannot be read.
pub(super) fn processes(path: &Path) -> Result<Vec<i32>> {
    let mut pids = vec![];
    collect(path, &mut pids)?;
    Ok(pids)
}

fn collect(path: &Path, pids: &mut Vec<i32>) -> Result<()> {
    // ENODEV: removed between opening and reading. EOPNOTSUPP: a threaded cgroup, whose processes its domain lists.
    if let Some(text) = file::optional(path, "cgroup.procs")? {
        // 0 stands for a process of a PID namespace outside ours; as an argument of kill(2) it would mean ourselves.
        pids.extend(text.lines().filter_map(|line| line.parse::<i32>().ok()).filter(|pid| *pid > 0));
    }
    for child in children(path) {
        collect(&child, pids)?;
    }
    Ok(())
}

fn children(path: &Path) -> Vec<PathBuf> {
    let Ok(entries) = fs::read_dir(path) else { return vec![] };
    entries
        .filter_map(|entry| entry.ok())
        .filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_dir()))
        .map(|entry| entry.path())
        .collect()
}

fn remove_tree(path: &Path, deadline: Instant) -> Result<()> {
    let mut pause = Duration::from_micros(20);
    loop {
        match fs::remove_dir(path) {
            Ok(()) => return Ok(()),
            Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
            // EBUSY stands both for cgroups below and for a process that has ended but not yet left.
            Err(error) if matches!(error.raw_os_error(), Some(libc::EBUSY | libc::ENOTEMPTY)) => {
                for child in children(path) {
                    remove_tree(&child, deadline)?;
                }
                if Instant::now() >= deadline {
                    let pids = processes(path).unwrap_or_default();
                    return Err(Error::failed(
                        "remove cgroup",
                        format!("{} (processes in it: {pids:?})", path.display()),
                        error,
                    ));
                }
            }
            Err(error) => return Err(Error::failed("remove cgroup", path.display(), error)),
        }
        thread::sleep(pause);
        pause = (pause * 2).min(Duration::from_millis(5));
    }
}
