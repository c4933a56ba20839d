//! `linux.cgroupsPath`: where in every hierarchy the container's cgroup lies.

use std::path::{Component, Path, PathBuf};

use rkvm_oci::{Error, Result};

/// The cgroup's path below the mount point of every hierarchy, without a leading slash.
///
/// - absent or empty: `rkvm-<id>`; one level, so that a container costs one `mkdir` per hierarchy and its removal leaves
///   no folder of ours behind
/// - absolute: below the hierarchy's root, as runc's cgroupfs driver does
/// - relative: below `rkvm`, as runtime-spec leaves to the runtime
///
/// `..` never climbs above the root.
///
/// # Errors
/// The root cgroup itself, and systemd's `slice:prefix:name` form: there is no systemd driver.
pub fn resolve(cgroups_path: Option<&Path>, id: &str) -> Result<PathBuf> {
    let Some(path) = cgroups_path.filter(|path| !path.as_os_str().is_empty()) else {
        return Ok(PathBuf::from(format!("rkvm-{id}")));
    };
    let text = path.to_string_lossy();
    if !path.is_absolute() && text.matches(':').count() == 2 && !text.contains('/') {
        return Err(Error::unsupported(
            "linux.cgroupsPath",
            format!(
                "{text:?} is in systemd's form slice:prefix:name, and there is no systemd cgroup driver; \
                 set the caller's cgroup driver to cgroupfs"
            ),
        ));
    }
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            Component::RootDir | Component::CurDir | Component::Prefix(_) => {}
        }
    }
    if clean.as_os_str().is_empty() || text.contains('\n') {
        return Err(Error::invalid_spec("linux.cgroupsPath", format!("{text:?} names no cgroup")));
    }
    Ok(if path.is_absolute() { clean } else { Path::new("rkvm").join(clean) })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn resolved(path: &str) -> PathBuf {
        resolve(Some(Path::new(path)), "web").unwrap()
    }

    #[test]
    fn every_form_of_path_lands_below_the_root() {
        assert_eq!(resolve(None, "web").unwrap(), Path::new("rkvm-web"));
        assert_eq!(resolved(""), Path::new("rkvm-web"));
        assert_eq!(resolved("/kubepods/pod1/c"), Path::new("kubepods/pod1/c"));
        assert_eq!(resolved("/a/../../b"), Path::new("b"));
        assert_eq!(resolved("a/./b"), Path::new("rkvm/a/b"));
        assert_eq!(resolved("../../b"), Path::new("rkvm/b"));
    }

    #[test]
    fn the_root_and_systemd_paths_are_refused_by_name() {
        for path in ["/", "/..", "/a/.."] {
            assert!(
                matches!(resolve(Some(Path::new(path)), "web"), Err(Error::InvalidSpec { .. })),
                "{path}"
            );
        }
        let error = resolve(Some(Path::new("system.slice:docker:web")), "web").unwrap_err().to_string();
        assert!(error.contains("linux.cgroupsPath") && error.contains("systemd"), "{error}");
    }
}
