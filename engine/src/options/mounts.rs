//! `-v`, `--mount` and `--tmpfs`.

use std::path::{Component, Path, PathBuf};

use super::{invalid, size};
use crate::error::{Error, Result};
use crate::record::{MountConfig, MountKind};
use crate::volume;

const PROPAGATIONS: [&str; 4] = ["private", "rprivate", "slave", "rslave"];

fn target(text: &str, whole: &str) -> Result<String> {
    let error = |reason: &str| invalid("mount", whole, reason);
    let path = Path::new(text);
    if !path.is_absolute() {
        return Err(error("the place in the container must be an absolute path"));
    }
    if path.components().any(|part| part == Component::ParentDir) {
        return Err(error("the place in the container may not have `..` in it"));
    }
    if path == Path::new("/") {
        return Err(error("the place in the container cannot be `/`"));
    }
    Ok(path.components().collect::<PathBuf>().to_string_lossy().into_owned())
}

fn propagation(text: &str) -> Result<String> {
    match text {
        _ if PROPAGATIONS.contains(&text) => Ok(text.to_owned()),
        "shared" | "rshared" => Err(Error::Runtime(rkvm_oci::Error::unsupported(
            format!("mount propagation {text:?}"),
            "containers live in a mount namespace that shows the host nothing; mounts of the host do reach \
             the container with `rslave`",
        ))),
        _ => Err(invalid("mount propagation", text, "there are private, rprivate, slave and rslave")),
    }
}

/// One `-v`: `[SOURCE:]TARGET[:OPTIONS]`. An absolute source, or one that begins with `.`, is a host path; another one names a
/// volume; without a source there is an anonymous volume, whose name is empty until it is made.
///
/// # Errors
/// The text has another form.
pub fn volume(text: &str) -> Result<MountConfig> {
    let error = |reason: &str| invalid("volume", text, reason);
    let parts: Vec<&str> = text.split(':').collect();
    let (source, place, options) = match parts[..] {
        [place] => (None, place, ""),
        // `-v /data:ro` is a mistake that would become a bind of /data to `ro`; target() refuses it.
        [source, place] => (Some(source), place, ""),
        [source, place, options] => (Some(source), place, options),
        _ => return Err(error("the form is [SOURCE:]TARGET[:OPTIONS]")),
    };
    let mut read_only = false;
    let mut spread = None;
    let mut no_copy = false;
    for option in options.split(',').filter(|option| !option.is_empty()) {
        match option {
            "ro" => read_only = true,
            // Labels are for SELinux hosts, and there they are already right; the others are hints for macOS.
            "rw" | "z" | "Z" | "consistent" | "cached" | "delegated" => {}
            "nocopy" => no_copy = true,
            other => {
                spread = Some(propagation(other).map_err(|failure| match failure {
                    Error::Invalid { .. } => {
                        error("the options are ro, rw, z, Z, nocopy, private, rprivate, slave and rslave")
                    }
                    other => other,
                })?);
            }
        }
    }
    let place = target(place, text)?;
    let kind = match source {
        Some("") => return Err(error("the source is empty")),
        Some(source) if source.starts_with('/') || source.starts_with('.') => {
            if no_copy {
                return Err(error("nocopy is for volumes, and this is a host path"));
            }
            bind(source, spread, true)?
        }
        Some(name) => {
            volume::validate_name(name)?;
            named(name, no_copy, spread, text)?
        }
        None => named("", no_copy, spread, text)?,
    };
    Ok(MountConfig { kind, target: place, read_only })
}

fn bind(source: &str, spread: Option<String>, recursive: bool) -> Result<MountKind> {
    let source = std::path::absolute(source).map_err(|cause| Error::file("find", source, cause))?;
    let propagation = spread.unwrap_or_else(|| "rprivate".to_owned());
    Ok(MountKind::Bind { source, propagation, recursive })
}

fn named(name: &str, no_copy: bool, spread: Option<String>, whole: &str) -> Result<MountKind> {
    if spread.is_some() {
        return Err(invalid("volume", whole, "mount propagation is for host paths"));
    }
    Ok(MountKind::Volume {
        name: name.to_owned(),
        anonymous: name.is_empty(),
        no_copy,
        subpath: String::new(),
    })
}

/// One `--tmpfs`: `TARGET[:OPTIONS]`.
///
/// # Errors
/// The text has another form.
pub fn tmpfs(text: &str) -> Result<MountConfig> {
    let (place, options) = text.split_once(':').unwrap_or((text, ""));
    let options: Vec<String> =
        options.split(',').filter(|option| !option.is_empty()).map(str::to_owned).collect();
    for option in &options {
        check_tmpfs_option(option, text)?;
    }
    Ok(MountConfig { kind: MountKind::Tmpfs { options }, target: target(place, text)?, read_only: false })
}

fn check_tmpfs_option(option: &str, whole: &str) -> Result<()> {
    let (name, value) = option.split_once('=').unwrap_or((option, ""));
    let fits = match name {
        "size" => size(value).is_ok() || value.ends_with('%'),
        "mode" => u32::from_str_radix(value, 8).is_ok(),
        "uid" | "gid" | "nr_inodes" | "nr_blocks" => value.parse::<u32>().is_ok(),
        "ro" | "rw" | "exec" | "noexec" | "suid" | "nosuid" | "dev" | "nodev" | "sync" | "async"
        | "atime" | "noatime" | "diratime" | "nodiratime" | "relatime" | "norelatime" | "strictatime"
        | "nostrictatime" => value.is_empty(),
        _ => false,
    };
    if fits { Ok(()) } else { Err(invalid("tmpfs", whole, format!("{option:?} is not an option of tmpfs"))) }
}

/// One `--mount`: `type=bind|volume|tmpfs,source=...,target=...,...`.
///
/// # Errors
/// An unknown or missing field, or a value that does not fit.
pub fn mount(text: &str) -> Result<MountConfig> {
    let error = |reason: String| invalid("mount", text, reason);
    let mut kind = "volume";
    let (mut source, mut place, mut read_only) = (None, None, false);
    let (mut spread, mut recursive, mut no_copy, mut subpath) = (None, true, false, "");
    let mut tmpfs_options = Vec::new();
    let mut seen = Vec::new();
    for field in text.split(',') {
        let (name, value) = match field.split_once('=') {
            Some((name, value)) => (name, Some(value)),
            None => (field, None),
        };
        let flag = || match value {
            None | Some("true" | "1") => Ok(true),
            Some("false" | "0") => Ok(false),
            Some(other) => Err(error(format!("{name} is true or false, not {other:?}"))),
        };
        let text = || value.ok_or_else(|| error(format!("{name} needs a value")));
        match name {
            "type" => kind = text()?,
            "source" | "src" => source = Some(text()?),
            "target" | "destination" | "dst" => place = Some(text()?),
            "readonly" | "ro" => read_only = flag()?,
            "bind-propagation" => spread = Some(propagation(text()?)?),
            "bind-nonrecursive" => recursive = !flag()?,
            "bind-recursive" => match text()? {
                "enabled" | "writable" | "readonly" => {}
                "disabled" => recursive = false,
                other => return Err(error(format!("bind-recursive is enabled or disabled, not {other:?}"))),
            },
            "volume-nocopy" => no_copy = flag()?,
            "volume-subpath" => subpath = text()?,
            "tmpfs-size" => tmpfs_options.push(format!("size={}", size(text()?)?)),
            "tmpfs-mode" => tmpfs_options.push(format!("mode={}", text()?)),
            "consistency" => {}
            _ => return Err(error(format!("there is no field {name:?}"))),
        }
        seen.push(name);
    }
    for (prefix, owner) in [("bind-", "bind"), ("volume-", "volume"), ("tmpfs-", "tmpfs")] {
        if let Some(name) = seen.iter().find(|name| name.starts_with(prefix) && kind != owner) {
            return Err(error(format!("{name} is for type={owner}, and this is type={kind}")));
        }
    }
    let place = place.ok_or_else(|| error("it needs a target".to_owned()))?;
    let kind = match kind {
        "bind" => {
            let source = source.ok_or_else(|| error("type=bind needs a source".to_owned()))?;
            if !source.starts_with('/') && !source.starts_with('.') {
                return Err(error("the source of type=bind must be an absolute path".to_owned()));
            }
            bind(source, spread, recursive)?
        }
        "volume" => {
            let name = source.unwrap_or_default();
            if !name.is_empty() {
                volume::validate_name(name)?;
            }
            if Path::new(subpath).components().any(|part| !matches!(part, Component::Normal(_))) {
                return Err(error("volume-subpath must stay within the volume".to_owned()));
            }
            let mut kind = named(name, no_copy, spread, text)?;
            if let MountKind::Volume { subpath: own, .. } = &mut kind {
                subpath.clone_into(own);
            }
            kind
        }
        "tmpfs" => {
            if source.is_some() {
                return Err(error("type=tmpfs has no source".to_owned()));
            }
            for option in &tmpfs_options {
                check_tmpfs_option(option, text)?;
            }
            MountKind::Tmpfs { options: tmpfs_options }
        }
        other => return Err(error(format!("the types are bind, volume and tmpfs, not {other:?}"))),
    };
    Ok(MountConfig { kind, target: target(place, text)?, read_only })
}

/// Refuses two mounts at one place.
///
/// # Errors
/// The place that is used twice.
pub fn check_targets(mounts: &[MountConfig]) -> Result<()> {
    for (index, mount) in mounts.iter().enumerate() {
        if mounts[..index].iter().any(|other| other.target == mount.target) {
            return Err(invalid("mount", &mount.target, "this place is asked for twice"));
        }
    }
    Ok(())
}
