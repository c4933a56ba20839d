//! Container records on disk: `lib/containers/ID/{record,state}.json`, and `lib/names/NAME` -> ID.
//!
//! The folder of a container is its lock (`flock`). `state.json` is written last when a container is made and removed first when it is
//! removed, so a folder without one is the remains of a command that was killed, and is swept away. Files are replaced by rename and
//! not synced: creating a container is on the hot path, and what a power cut can lose is a container that was just made.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::fcntl::{Flock, FlockArg};
use rkvm_oci::state::is_at;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{Error, Result};
use crate::ids;
use crate::names;
use crate::paths::{ContainerPaths, Paths};
use crate::record::ContainerRecord;
use crate::state::ContainerState;

/// A container as read from disk.
#[derive(Debug, Clone, PartialEq)]
pub struct Container {
    /// What was asked for.
    pub record: ContainerRecord,
    /// What became of it.
    pub state: ContainerState,
    /// Its files.
    pub paths: ContainerPaths,
}

impl Container {
    /// Its full id.
    pub fn id(&self) -> &str {
        &self.record.id
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    fn read(paths: ContainerPaths, id: &str) -> Result<Self> {
        let record = read_json(&paths.record(), id)?;
        let state = read_json(&paths.state(), id)?;
        Ok(Self { record, state, paths })
    }
}

/// A container that only this process may change. Dropping it unlocks.
///
/// A process that is forked while this is held holds it too, until it executes a program: do not start containers under it.
#[derive(Debug)]
pub struct Locked {
    /// The container as it is now; change it, then write it.
    pub container: Container,
    lock: Flock<File>,
}

impl Locked {
    /// Replaces the state on disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_state(&self) -> Result<()> {
        write_json(&self.container.paths.state(), &self.container.state)
    }

    /// Replaces the record on disk.
    ///
    /// # Errors
    /// The file cannot be written.
    pub fn write_record(&self) -> Result<()> {
        write_json(&self.container.paths.record(), &self.container.record)
    }

    /// Gives the container another name.
    ///
    /// # Errors
    /// The name is not valid or is taken.
    pub fn rename(&mut self, paths: &Paths, name: &str) -> Result<()> {
        names::validate(name)?;
        claim_name(paths, name, &self.container.record.id)?;
        let old = std::mem::replace(&mut self.container.record.name, name.to_owned());
        let written = self.write_record();
        release_name(paths, if written.is_ok() { &old } else { name }, &self.container.record.id);
        written
    }

    /// Ends the container's existence: its name is free, and what is left of its folder is only remains, which
    /// [`Locked::remove`] or the next listing removes.
    ///
    /// # Errors
    /// Its state cannot be removed.
    pub fn forget(&self, paths: &Paths) -> Result<()> {
        // The name last: a command that is killed in between must not leave a container that its name does not find.
        remove_state(&self.container.paths)?;
        release_name(paths, &self.container.record.name, &self.container.record.id);
        Ok(())
    }

    /// Removes every file of the container, the write layer included, and its name.
    ///
    /// # Errors
    /// Something cannot be removed; doing it again goes on.
    pub fn remove(self, paths: &Paths) -> Result<()> {
        self.forget(paths)?;
        remove_folder(&self.container.paths, self.lock)
    }
}

fn remove_state(paths: &ContainerPaths) -> Result<()> {
    match fs::remove_file(paths.state()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            Err(Error::file("remove", paths.state(), error))
        }
        _ => Ok(()),
    }
}

/// Removes the folder of a container that does not exist: one without a state.json.
fn remove_folder(paths: &ContainerPaths, lock: Flock<File>) -> Result<()> {
    match fs::remove_dir_all(paths.dir()) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(Error::file("remove", paths.dir(), error));
        }
        _ => {}
    }
    drop(lock);
    Ok(())
}

/// Makes a container. Without a `name` one is made up. `record.name` is set.
///
/// # Errors
/// The name is not valid or is taken, or a file cannot be written; nothing is left behind then.
pub fn create(paths: &Paths, mut record: ContainerRecord, name: Option<&str>) -> Result<Locked> {
    if let Some(name) = name {
        names::validate(name)?;
    }
    let files = paths.container(&record.id);
    make_folder(&paths.containers())?;
    let lock = make_locked(files.dir(), &record.id)?;
    let made = (|| {
        record.name = match name {
            Some(name) => claim_name(paths, name, &record.id).map(|()| name.to_owned())?,
            None => claim_generated_name(paths, &record.id)?,
        };
        let state = ContainerState::default();
        write_json(&files.record(), &record)?;
        write_json(&files.state(), &state)?;
        Ok(state)
    })();
    match made {
        Ok(state) => Ok(Locked { container: Container { record, state, paths: files }, lock }),
        Err(error) => {
            if !record.name.is_empty() {
                release_name(paths, &record.name, &record.id);
            }
            remove_folder(&files, lock)?;
            Err(error)
        }
    }
}

/// Makes a container's folder and locks it. Between the two it looks like the remains of a killed command, and a listing may sweep it away:
/// then it is made again.
fn make_locked(folder: &Path, id: &str) -> Result<Flock<File>> {
    loop {
        fs::create_dir(folder).map_err(|source| Error::file("create", folder, source))?;
        match flock(folder, id) {
            Err(Error::NoSuchContainer(_)) => {}
            other => return other,
        }
    }
}

/// Locks the container with this full id, waiting for another command that holds it.
///
/// # Errors
/// There is none (any more), or its files cannot be read.
pub fn lock(paths: &Paths, id: &str) -> Result<Locked> {
    let files = paths.container(id);
    let lock = flock(files.dir(), id)?;
    Ok(Locked { container: Container::read(files, id)?, lock })
}

/// Reads the container with this full id without its lock.
///
/// # Errors
/// There is none, or its files cannot be read.
pub fn peek(paths: &Paths, id: &str) -> Result<Container> {
    Container::read(paths.container(id), id)
}

/// Full ids of all containers, sorted; remains of killed commands are swept away on the way.
///
/// # Errors
/// The folder cannot be read.
pub fn ids(paths: &Paths) -> Result<Vec<String>> {
    let folder = paths.containers();
    let entries = match fs::read_dir(&folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(vec![]),
        Err(source) => return Err(Error::file("read", folder, source)),
    };
    let mut found = Vec::new();
    for name in entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()) {
        let files = paths.container(&name);
        if files.state().exists() {
            found.push(name);
        } else {
            sweep(paths, &files, &name);
        }
    }
    found.sort();
    Ok(found)
}

/// Removes a folder that has no state.json, unless a command is at work on it.
fn sweep(paths: &Paths, files: &ContainerPaths, id: &str) {
    let Ok(folder) = File::open(files.dir()) else { return };
    if let Ok(lock) = Flock::lock(folder, FlockArg::LockExclusiveNonblock)
        // Another sweep may have been faster, and the folder that is there now be a new one.
        && is_at(&lock, files.dir()).unwrap_or(false)
        && !files.state().exists()
    {
        // It may have claimed its name and not yet written it down. What cannot be removed, the next listing tries again.
        for link in fs::read_dir(paths.names()).into_iter().flatten().flatten() {
            release_name(paths, &link.file_name().to_string_lossy(), id);
        }
        let _ = remove_folder(files, lock);
    }
}

/// Full id of the container that `reference` means: its id, its name (with or without Docker's leading `/`), or the beginning
/// of its id.
///
/// # Errors
/// [`Error::NoSuchContainer`], [`Error::Ambiguous`].
pub fn resolve(paths: &Paths, reference: &str) -> Result<String> {
    let name = reference.strip_prefix('/').unwrap_or(reference);
    let missing = || Error::NoSuchContainer(reference.to_owned());
    if name.is_empty() || name.contains('/') || name == "." || name == ".." {
        return Err(missing());
    }
    if name.len() == 64 && paths.container(name).state().exists() {
        return Ok(name.to_owned());
    }
    if let Some(id) = name_holder(paths, name) {
        return Ok(id);
    }
    if !name.chars().all(|c| c.is_ascii_hexdigit()) {
        return Err(missing());
    }
    let mut fitting: Vec<String> = ids(paths)?.into_iter().filter(|id| id.starts_with(name)).collect();
    match fitting.len() {
        0 => Err(missing()),
        1 => Ok(fitting.remove(0)),
        _ => Err(Error::Ambiguous {
            reference: reference.to_owned(),
            ids: fitting.iter().map(|id| ids::short(id).to_owned()).collect(),
        }),
    }
}

/// Id of the container that has `name`, if that container exists.
pub fn name_holder(paths: &Paths, name: &str) -> Option<String> {
    let id = fs::read_link(paths.names().join(name)).ok()?.to_str()?.to_owned();
    paths.container(&id).dir().exists().then_some(id)
}

fn claim_name(paths: &Paths, name: &str, id: &str) -> Result<()> {
    let folder = paths.names();
    make_folder(&folder)?;
    // One claim at a time: two that find the same stale link must not both replace it.
    let _lock = flock(&folder, name)?;
    let link = folder.join(name);
    match symlink(id, &link) {
        Ok(()) => return Ok(()),
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(source) => return Err(Error::file("create", link, source)),
    }
    if let Some(holder) = name_holder(paths, name) {
        let files = paths.container(&holder);
        if !files.state().exists() {
            sweep(paths, &files, &holder);
        }
    }
    match name_holder(paths, name) {
        Some(holder) if holder != id => {
            Err(Error::NameTaken { name: name.to_owned(), holder: ids::short(&holder).to_owned() })
        }
        Some(_) => Ok(()),
        None => {
            let removed = match fs::remove_file(&link) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
                other => other,
            };
            removed.and_then(|()| symlink(id, &link)).map_err(|source| Error::file("replace", link, source))
        }
    }
}

fn claim_generated_name(paths: &Paths, id: &str) -> Result<String> {
    let mut attempt = 0;
    loop {
        let name = names::generate(id, attempt);
        match claim_name(paths, &name, id) {
            Ok(()) => return Ok(name),
            // Every made-up name is taken: the id itself cannot be.
            Err(Error::NameTaken { .. }) if attempt >= 20 => {
                return claim_name(paths, id, id).map(|()| id.to_owned());
            }
            Err(Error::NameTaken { .. }) => attempt += 1,
            Err(error) => return Err(error),
        }
    }
}

fn release_name(paths: &Paths, name: &str, id: &str) {
    let link = paths.names().join(name);
    if fs::read_link(&link).is_ok_and(|target| target == Path::new(id)) {
        // A link that stays is stale, and a later claim replaces it.
        let _ = fs::remove_file(link);
    }
}

fn flock(folder: &Path, id: &str) -> Result<Flock<File>> {
    let missing = |error: io::Error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoSuchContainer(id.to_owned()),
        _ => Error::file("open", folder, error),
    };
    let file = File::open(folder).map_err(missing)?;
    let lock = Flock::lock(file, FlockArg::LockExclusive)
        .map_err(|(_, errno)| Error::file("lock", folder, errno))?;
    if is_at(&lock, folder).map_err(missing)? {
        return Ok(lock);
    }
    Err(Error::NoSuchContainer(id.to_owned()))
}

pub(crate) fn make_folder(folder: &Path) -> Result<()> {
    fs::create_dir_all(folder).map_err(|source| Error::file("create", folder, source))
}

fn read_json<T: DeserializeOwned>(path: &Path, id: &str) -> Result<T> {
    let text = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::NoSuchContainer(id.to_owned()),
        _ => Error::file("read", path, error),
    })?;
    serde_json::from_slice(&text).map_err(|source| Error::Damaged { path: path.to_owned(), source })
}

fn write_json<T: Serialize>(path: &Path, value: &T) -> Result<()> {
    let text =
        serde_json::to_vec(value).map_err(|source| Error::Damaged { path: path.to_owned(), source })?;
    let aside = path.with_extension("new");
    fs::write(&aside, text)
        .and_then(|()| fs::rename(&aside, path))
        .map_err(|source| Error::file("write", path, source))
}

#[cfg(test)]
mod tests;
