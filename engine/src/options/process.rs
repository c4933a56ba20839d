//! Environment, labels, restart policy, sysctls.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use super::invalid;
use crate::error::{Error, Result};
use crate::record::{NamespaceMode, NetworkMode, RestartPolicy};

/// One `-e`: `NAME=value`, or `NAME` for the value that the client's environment has, if it has one.
///
/// # Errors
/// The name is empty.
pub fn env(text: &str) -> Result<Option<String>> {
    let name = text.split('=').next().unwrap_or_default();
    if name.is_empty() || name.contains(char::is_whitespace) || text.contains('\0') {
        return Err(invalid("environment variable", text, "the form is NAME=value or NAME"));
    }
    if text.contains('=') {
        return Ok(Some(text.to_owned()));
    }
    Ok(std::env::var(name).ok().map(|value| format!("{name}={value}")))
}

/// The lines of an `--env-file`; `#` begins a comment line.
///
/// # Errors
/// The file cannot be read, or a line has another form.
pub fn env_file(path: &Path) -> Result<Vec<String>> {
    let text = fs::read_to_string(path).map_err(|source| Error::file("read", path, source))?;
    let lines = text.trim_start_matches('\u{feff}').lines().map(str::trim_start);
    lines
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .filter_map(|line| env(line).transpose())
        .collect()
}

/// Several `NAME[=value]`.
///
/// # Errors
/// A name is empty.
pub fn labels(texts: &[String], what: &'static str) -> Result<BTreeMap<String, String>> {
    texts
        .iter()
        .map(|text| {
            let (name, value) = text.split_once('=').unwrap_or((text, ""));
            if name.is_empty() {
                return Err(invalid(what, text, "the form is NAME=value"));
            }
            Ok((name.to_owned(), value.to_owned()))
        })
        .collect()
}

/// `--restart`: `no`, `on-failure[:N]`, `always`, `unless-stopped`.
///
/// # Errors
/// The text has another form.
pub fn restart(text: &str) -> Result<RestartPolicy> {
    let (name, count) = match text.split_once(':') {
        Some((name, count)) => (name, Some(count)),
        None => (text, None),
    };
    let error = |reason: &str| invalid("restart policy", text, reason);
    match (name, count) {
        ("no" | "", None) => Ok(RestartPolicy::No),
        ("always", None) => Ok(RestartPolicy::Always),
        ("unless-stopped", None) => Ok(RestartPolicy::UnlessStopped),
        ("on-failure", count) => {
            let max_retries = count
                .unwrap_or("0")
                .parse()
                .map_err(|_| error("the number after on-failure: must be a number, 0 or more"))?;
            Ok(RestartPolicy::OnFailure { max_retries })
        }
        _ => Err(error("there are no, on-failure[:N], always and unless-stopped")),
    }
}

/// One `--sysctl`: `NAME=value`, only of those that belong to a namespace of the container's own.
///
/// # Errors
/// The parameter is the host's.
pub fn sysctl(text: &str, network: &NetworkMode, ipc: &NamespaceMode) -> Result<(String, String)> {
    const IPC: [&str; 8] = [
        "kernel.msgmax",
        "kernel.msgmnb",
        "kernel.msgmni",
        "kernel.sem",
        "kernel.shmall",
        "kernel.shmmax",
        "kernel.shmmni",
        "kernel.shm_rmid_forced",
    ];
    let error = |reason: &str| invalid("sysctl", text, reason);
    let (name, value) = text.split_once('=').ok_or_else(|| error("the form is NAME=value"))?;
    let name = name.replace('/', ".");
    if name.starts_with("net.") {
        if *network == NetworkMode::Host {
            return Err(error("with --network host it would change the host"));
        }
    } else if IPC.contains(&name.as_str()) || name.starts_with("fs.mqueue.") {
        if *ipc == NamespaceMode::Host {
            return Err(error("with --ipc host it would change the host"));
        }
    } else {
        return Err(error(
            "it is not a parameter of a container; there are net.*, fs.mqueue.* and kernel.shm*, kernel.msg*, kernel.sem",
        ));
    }
    Ok((name, value.to_owned()))
}
