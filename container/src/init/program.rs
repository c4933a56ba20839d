//! The user's program: found as a shell would find it, executed.

use std::ffi::CString;
use std::fs::File;
use std::io::Read;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::unistd::{AccessFlags, access};
use oci_spec::runtime::Process;
use rkvm_oci::{Error, ExecFailure, Result};

use rkvm_linux::sys;

/// Where programs are looked for when the environment has no PATH.
const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Largest /etc/passwd that is read for HOME, bytes: it comes from the image.
const MAX_PASSWD: u64 = 1 << 20;

/// A program that is ready to be executed: nothing more is allocated or looked up.
#[derive(Debug)]
pub struct Program {
    path: CString,
    arguments: Vec<CString>,
    environment: Vec<CString>,
}

impl Program {
    /// Finds `process.args[0]` in the container's root, as its user, from its working directory, with its PATH.
    ///
    /// # Errors
    /// [`Error::Exec`] when there is no such program or it may not be executed.
    pub fn find(process: &Process) -> Result<Self> {
        let arguments = process.args().as_deref().unwrap_or_default();
        let Some(name) = arguments.first().filter(|name| !name.is_empty()) else {
            return Err(Error::invalid_spec("process.args", "it is empty; name the program to run"));
        };
        let mut environment: Vec<&str> =
            process.env().iter().flatten().map(String::as_str).filter(|pair| pair.contains('=')).collect();
        let variable = |name: &str| {
            let is_it = |pair: &&&str| pair.split_once('=').is_some_and(|(known, _)| known == name);
            environment.iter().rev().find(is_it).and_then(|pair| pair.split_once('=')).map(|(_, value)| value)
        };
        let path = lookup(name, variable("PATH").unwrap_or(DEFAULT_PATH))?;
        let home = match variable("HOME") {
            Some(home) if !home.is_empty() => None,
            _ => Some(format!("HOME={}", home_of(process.user().uid()))),
        };
        environment.retain(|pair| home.is_none() || !pair.starts_with("HOME="));
        environment.extend(home.as_deref());
        let strings = |field: &str, list: &mut dyn Iterator<Item = &str>| -> Result<Vec<CString>> {
            list.map(|text| {
                sys::c_string(text).map_err(|_| Error::invalid_spec(field, "a string contains a NUL byte"))
            })
            .collect()
        };
        Ok(Self {
            path: sys::c_string(path.as_os_str().as_bytes())
                .map_err(|_| Error::invalid_spec("process.args", "a NUL byte"))?,
            arguments: strings("process.args", &mut arguments.iter().map(String::as_str))?,
            environment: strings("process.env", &mut environment.into_iter())?,
        })
    }

    /// Executes it; returns only when that failed.
    pub fn execute(&self) -> Error {
        let error = sys::process::execve(&self.path, &self.arguments, &self.environment);
        let program =
            self.arguments.first().map_or_else(String::new, |name| name.to_string_lossy().into_owned());
        Error::Exec { program, failure: failure(&error) }
    }
}

fn failure(error: &std::io::Error) -> ExecFailure {
    match error.raw_os_error() {
        // ENOENT of a file that was found is a missing interpreter or ELF loader, which is 127 in a shell too.
        Some(libc::ENOENT | libc::ENOTDIR) => ExecFailure::NotFound,
        Some(libc::ENOEXEC) => ExecFailure::NotExecutable(
            "exec format error: neither a program for this architecture nor a script with #!".to_owned(),
        ),
        Some(libc::EACCES) => ExecFailure::NotExecutable("permission denied".to_owned()),
        _ => ExecFailure::NotExecutable(error.to_string()),
    }
}

fn check(path: &Path) -> nix::Result<()> {
    let status = nix::sys::stat::stat(path)?;
    if status.st_mode & libc::S_IFMT == libc::S_IFDIR {
        return Err(nix::Error::EISDIR);
    }
    // No execute bit at all: even root may not.
    if status.st_mode & 0o111 == 0 {
        return Err(nix::Error::EACCES);
    }
    access(path, AccessFlags::X_OK)
}

fn lookup(name: &str, search: &str) -> Result<PathBuf> {
    let error = |failure| Error::Exec { program: name.to_owned(), failure };
    let denied = |errno| match errno {
        nix::Error::EISDIR => ExecFailure::NotExecutable("permission denied: it is a directory".to_owned()),
        errno => failure(&errno.into()),
    };
    if name.contains('/') {
        let path = PathBuf::from(name);
        return check(&path).map(|()| path).map_err(|errno| error(denied(errno)));
    }
    let mut reason = ExecFailure::NotFound;
    for folder in search.split(':') {
        let path = Path::new(if folder.is_empty() { "." } else { folder }).join(name);
        match check(&path) {
            Ok(()) => return Ok(path),
            Err(nix::Error::EACCES) => reason = denied(nix::Error::EACCES),
            Err(_) => {}
        }
    }
    Err(error(reason))
}

/// Home directory of a user by the container's /etc/passwd, `/` when it does not say.
fn home_of(uid: u32) -> String {
    let mut text = Vec::new();
    let read = File::open("/etc/passwd").and_then(|file| file.take(MAX_PASSWD).read_to_end(&mut text));
    if read.is_err() {
        return "/".to_owned();
    }
    String::from_utf8_lossy(&text)
        .lines()
        .find_map(|line| {
            let mut fields = line.split(':').skip(2);
            (fields.next()?.parse() == Ok(uid)).then(|| fields.nth(2).map(str::to_owned)).flatten()
        })
        .filter(|home| !home.is_empty())
        .unwrap_or_else(|| "/".to_owned())
}
