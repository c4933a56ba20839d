//! Devices, namespaces, security options.

use std::fs;
use std::path::PathBuf;

use super::invalid;
use crate::error::{Error, Result};
use crate::record::{DeviceMapping, NamespaceMode, NetworkMode, Seccomp, Security};

/// One `--device`: `HOST[:CONTAINER][:PERMISSIONS]`.
///
/// # Errors
/// The text has another form, or the host has no such device.
pub fn device(text: &str) -> Result<DeviceMapping> {
    let error = |reason: &str| invalid("device", text, reason);
    let permissions =
        |text: &str| !text.is_empty() && text.chars().all(|c| "rwm".contains(c)) && text.len() <= 3;
    let parts: Vec<&str> = text.split(':').collect();
    let (host, inside, access) = match parts[..] {
        [host] => (host, host, "rwm"),
        [host, access] if permissions(access) => (host, host, access),
        [host, inside] => (host, inside, "rwm"),
        [host, inside, access] if permissions(access) => (host, inside, access),
        _ => return Err(error("the form is HOST[:CONTAINER][:rwm]")),
    };
    if !host.starts_with('/') || !inside.starts_with('/') {
        return Err(error("both paths must be absolute"));
    }
    if !fs::exists(host).unwrap_or(false) {
        return Err(error("the host has no such device"));
    }
    Ok(DeviceMapping {
        host: PathBuf::from(host),
        container: PathBuf::from(inside),
        permissions: access.to_owned(),
    })
}

/// `--network`; `resolve` turns a container's name into its full id.
///
/// # Errors
/// There is no such network or container.
pub fn network_mode(text: &str, resolve: impl FnOnce(&str) -> Result<String>) -> Result<NetworkMode> {
    match text {
        "bridge" | "default" => Ok(NetworkMode::Bridge),
        "none" => Ok(NetworkMode::None),
        "host" => Ok(NetworkMode::Host),
        _ => match text.strip_prefix("container:") {
            Some(name) => resolve(name).map(NetworkMode::Container),
            None => Err(invalid("network", text, "there are bridge, none, host and container:NAME")),
        },
    }
}

/// `--pid`, `--ipc`, `--uts`, `--userns`, `--cgroupns`.
///
/// # Errors
/// There is no such mode or container.
pub fn namespace_mode(
    what: &'static str,
    text: &str,
    resolve: impl FnOnce(&str) -> Result<String>,
) -> Result<NamespaceMode> {
    match text {
        "" | "private" => Ok(NamespaceMode::Private),
        "host" => Ok(NamespaceMode::Host),
        // What is shared of an IPC namespace is decided by who joins it.
        "shareable" if what == "ipc mode" => Ok(NamespaceMode::Private),
        _ => match text.strip_prefix("container:") {
            Some(name) if matches!(what, "pid mode" | "ipc mode") => {
                resolve(name).map(NamespaceMode::Container)
            }
            _ => Err(invalid(what, text, "there are private and host (for pid and ipc also container:NAME)")),
        },
    }
}

/// One `--security-opt`, applied to `security`.
///
/// # Errors
/// There is no such option, or a profile cannot be read.
pub fn security_option(text: &str, security: &mut Security) -> Result<()> {
    let error = |reason: &str| invalid("security option", text, reason);
    let (name, value) = match text.split_once(['=', ':']) {
        Some((name, value)) => (name, Some(value)),
        None => (text, None),
    };
    match (name, value) {
        ("no-new-privileges", None | Some("true")) => security.no_new_privileges = true,
        ("no-new-privileges", Some("false")) => security.no_new_privileges = false,
        ("seccomp", Some("unconfined")) => security.seccomp = Seccomp::Unconfined,
        ("seccomp", Some("default" | "builtin")) => security.seccomp = Seccomp::Default,
        ("seccomp", Some(path)) => {
            let profile = fs::read_to_string(path).map_err(|source| Error::file("read", path, source))?;
            serde_json::from_str::<serde_json::Value>(&profile)
                .map_err(|source| Error::Damaged { path: path.into(), source })?;
            security.seccomp = Seccomp::Profile(profile);
        }
        ("apparmor", Some(profile)) => {
            security.apparmor = Some(profile).filter(|name| *name != "unconfined").map(str::to_owned);
        }
        ("label", Some(label)) => security.selinux.push(label.to_owned()),
        ("systempaths", Some("unconfined")) => security.unmasked = true,
        _ => {
            return Err(error(
                "there are no-new-privileges, seccomp=FILE|unconfined, apparmor=PROFILE, label=... and \
                 systempaths=unconfined",
            ));
        }
    }
    Ok(())
}
