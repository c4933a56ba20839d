//! The mount of type `cgroup`: what the container sees of its control groups.
//!
//! On a host with cgroup v2 alone it is that file system. On v1 and hybrid hosts it is a tmpfs with one folder a
//! hierarchy, named as on the host, and a symlink for each controller of a joint one, as runc makes it.

use std::collections::HashMap;
use std::fs;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use rkvm_oci::{Error, Result};

use super::make::Place;
use super::target::{self, Kind};
use rkvm_linux::mounts::options::Plan;
use rkvm_linux::sys::mount::{self, Depth, MountAttr, attr};

/// A cgroup hierarchy of the host.
#[derive(Debug, PartialEq, Eq)]
struct Hierarchy {
    /// Where the host mounts it.
    mount_point: PathBuf,
    /// Root of that mount within the hierarchy.
    root: PathBuf,
    /// Its controllers or `name=`; empty for v2.
    options: Vec<String>,
}

/// Hierarchies that the host has mounted, from /proc/self/mountinfo.
fn hierarchies(mountinfo: &str) -> Vec<Hierarchy> {
    let mut found: Vec<Hierarchy> = vec![];
    for line in mountinfo.lines() {
        let Some((left, right)) = line.split_once(" - ") else { continue };
        let mut right = right.split(' ');
        let kind = right.next().unwrap_or_default();
        if !matches!(kind, "cgroup" | "cgroup2") {
            continue;
        }
        let options = right.nth(1).unwrap_or_default();
        let mut left = left.split(' ').skip(3);
        let (Some(root), Some(mount_point)) = (left.next(), left.next()) else { continue };
        let options = options
            .split(',')
            .filter(|option| {
                kind == "cgroup" && !NOT_CONTROLLERS.contains(option) && !option.contains("release_agent")
            })
            .map(str::to_owned)
            .collect::<Vec<_>>();
        if found.iter().all(|known| known.options != options) {
            found.push(Hierarchy { mount_point: mount_point.into(), root: root.into(), options });
        }
    }
    found
}

/// Superblock options of a v1 hierarchy that name no controller.
const NOT_CONTROLLERS: &[&str] =
    &["rw", "ro", "xattr", "clone_children", "noprefix", "cpuset_v2_mode", "favordynmods", "none"];

/// Path of this process in each hierarchy, by its controllers (`""` for v2), from /proc/self/cgroup.
fn own_paths(text: &str) -> HashMap<String, String> {
    text.lines()
        .filter_map(|line| {
            let mut parts = line.splitn(3, ':').skip(1);
            Some((parts.next()?.to_owned(), parts.next()?.to_owned()))
        })
        .collect()
}

fn failed(plan: &Plan, what: &str) -> impl Fn(std::io::Error) -> Error {
    let action = format!("make mounts[{}] (cgroup)", plan.index);
    let target = format!("{} {what}", plan.destination.display());
    move |error| Error::failed(action.clone(), target.trim(), error)
}

/// Makes the mount.
///
/// # Errors
/// The host has no cgroups, or they cannot be mounted.
pub fn mount(plan: &Plan, place: Place<'_>) -> Result<()> {
    let read = |path: &str| fs::read_to_string(path).map_err(failed(plan, ""));
    // With a namespace of its own, a container sees a hierarchy from its root on, wherever the host has it.
    let (hierarchies, own) = if !place.cgroup_namespace {
        (hierarchies(&read("/proc/self/mountinfo")?), own_paths(&read("/proc/self/cgroup")?))
    } else if rkvm_cgroup::is_unified() {
        (
            vec![Hierarchy { mount_point: "/sys/fs/cgroup".into(), root: "/".into(), options: vec![] }],
            HashMap::new(),
        )
    } else {
        (hierarchies(&read("/proc/self/mountinfo")?), HashMap::new())
    };
    let target = target::ensure(place.root, &plan.destination, Kind::Folder)?;
    let v1: Vec<&Hierarchy> = hierarchies.iter().filter(|one| !one.options.is_empty()).collect();
    if v1.is_empty() {
        let Some(unified) = hierarchies.first() else {
            return Err(Error::unsupported(
                format!("mounts[{}] of type cgroup", plan.index),
                "this host has no cgroup mounted",
            ));
        };
        let tree = one(plan, unified, &own, place)?;
        return mount::attach(tree.as_fd(), target.as_fd()).map_err(failed(plan, ""));
    }
    let context = mount::fsopen("tmpfs").map_err(failed(plan, ""))?;
    mount::fsconfig_set(context.as_fd(), "mode", Some("755")).map_err(failed(plan, ""))?;
    let flags = attr::NOSUID | attr::NODEV | attr::NOEXEC;
    let tmpfs = mount::fsmount(context.as_fd(), flags).map_err(failed(plan, ""))?;
    mount::attach(tmpfs.as_fd(), target.as_fd()).map_err(failed(plan, ""))?;
    for hierarchy in v1 {
        let Some(name) = hierarchy.mount_point.file_name() else { continue };
        let what = name.to_string_lossy().into_owned();
        let error = failed(plan, &what);
        let tree = one(plan, hierarchy, &own, place)?;
        let mode = nix::sys::stat::Mode::from_bits_truncate(0o755);
        nix::sys::stat::mkdirat(tmpfs.as_fd(), Path::new(name), mode).map_err(|errno| error(errno.into()))?;
        let below = rkvm_linux::sys::fs::open_in_root(tmpfs.as_fd(), Path::new(name), libc::O_PATH)
            .map_err(&error)?;
        mount::attach(tree.as_fd(), below.as_fd()).map_err(&error)?;
        if hierarchy.options.len() > 1 {
            for controller in &hierarchy.options {
                match nix::unistd::symlinkat(Path::new(name), tmpfs.as_fd(), Path::new(controller)) {
                    Ok(()) | Err(nix::Error::EEXIST) => {}
                    Err(errno) => return Err(error(errno.into())),
                }
            }
        }
    }
    if plan.is_read_only() {
        let read_only = MountAttr { set: attr::RDONLY, ..MountAttr::default() };
        mount::set_attributes(tmpfs.as_fd(), Depth::One, &read_only).map_err(failed(plan, ""))?;
    }
    Ok(())
}

/// One hierarchy as the container sees it, not attached yet.
fn one(
    plan: &Plan,
    hierarchy: &Hierarchy,
    own: &HashMap<String, String>,
    place: Place<'_>,
) -> Result<OwnedFd> {
    let what = hierarchy.options.join(",");
    let tree = if place.cgroup_namespace {
        let v2 = hierarchy.options.is_empty();
        let context = mount::fsopen(if v2 { "cgroup2" } else { "cgroup" }).map_err(failed(plan, &what))?;
        for option in &hierarchy.options {
            let (key, value) =
                option.split_once('=').map_or((option.as_str(), None), |(key, value)| (key, Some(value)));
            mount::fsconfig_set(context.as_fd(), key, value).map_err(failed(plan, &what))?;
        }
        mount::fsmount(context.as_fd(), plan.attributes.set).map_err(failed(plan, &what))?
    } else {
        let path = own.get(&what).map_or("/", String::as_str);
        // Inside a container the host's mount may show only a part of the hierarchy.
        let below = Path::new(path).strip_prefix(&hierarchy.root).unwrap_or(Path::new(""));
        let source = hierarchy.mount_point.join(below.strip_prefix("/").unwrap_or(below));
        let tree = mount::clone_tree(AT_FDCWD, &source, Depth::One).map_err(failed(plan, &what))?;
        let slave = MountAttr { propagation: libc::MS_SLAVE, ..MountAttr::default() };
        mount::set_attributes(tree.as_fd(), Depth::One, &slave).map_err(failed(plan, &what))?;
        tree
    };
    apply(plan, tree.as_fd(), &what)?;
    Ok(tree)
}

fn apply(plan: &Plan, tree: BorrowedFd<'_>, what: &str) -> Result<()> {
    rkvm_linux::mounts::bind::apply(plan, tree).map_err(failed(plan, what))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hierarchies_of_a_hybrid_host() {
        let mountinfo = "\
30 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755
31 30 0:27 / /sys/fs/cgroup/unified rw shared:10 - cgroup2 cgroup2 rw,nsdelegate
32 30 0:28 / /sys/fs/cgroup/systemd rw shared:11 - cgroup cgroup rw,xattr,name=systemd
33 30 0:29 /part /sys/fs/cgroup/cpu,cpuacct rw shared:12 - cgroup cgroup rw,cpu,cpuacct
34 30 0:29 / /elsewhere rw shared:12 - cgroup cgroup rw,cpu,cpuacct
";
        let found = hierarchies(mountinfo);
        let options: Vec<_> = found.iter().map(|one| one.options.join(",")).collect();
        assert_eq!(options, ["", "name=systemd", "cpu,cpuacct"]);
        assert_eq!(found[2].root, Path::new("/part"));
        let own = own_paths("4:cpu,cpuacct:/a/b\n1:name=systemd:/c\n0::/d:e\n");
        assert_eq!(own["cpu,cpuacct"], "/a/b");
        assert_eq!(own[""], "/d:e");
    }
}
