//! Makes the mounts of a plan, in the container's mount namespace, below the attached root.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::mount::MsFlags;
use nix::sys::stat::fstat;
use rkvm_oci::{Error, Result};

use super::cgroup;
use super::target::{self, Kind};
use crate::init::leftovers::Leftovers;
use rkvm_linux::mounts::bind;
use rkvm_linux::mounts::options::{Plan, Source};
use rkvm_linux::sys::fs::mount_id;
use rkvm_linux::sys::mount::{self, MountAttr, attr};

/// Longest value that fsconfig(2) takes, bytes.
const MAX_VALUE: usize = 255;

/// What mounts depend on.
#[derive(Debug, Clone, Copy)]
pub struct Place<'a> {
    /// The attached root.
    pub root: BorrowedFd<'a>,
    /// `linux.mountLabel`: the SELinux context of new file systems.
    pub label: Option<&'a str>,
    /// Whether the container has a cgroup namespace of its own.
    pub cgroup_namespace: bool,
    /// Id of the root's mount, where that is no procfs.
    mount: Option<u64>,
    /// Where descriptors go.
    left: &'a Leftovers,
}

impl<'a> Place<'a> {
    /// Mounts below `root`, with the given label.
    ///
    /// # Errors
    /// The root's file system does not say what it is.
    pub fn new(
        root: BorrowedFd<'a>,
        label: Option<&'a str>,
        cgroup_namespace: bool,
        left: &'a Leftovers,
    ) -> Result<Self> {
        let failed = |source: std::io::Error| Error::failed("look at", "the root filesystem", source);
        let mount = if is_proc(root).map_err(failed)? { None } else { mount_id(root).map_err(failed)? };
        Ok(Self { root, label, cgroup_namespace, mount, left })
    }

    /// Whether `target` lies in a procfs. In a microVM the answer of a shared file system is a request to the host, so it is asked
    /// only where `target` is on another mount than the root.
    fn is_proc(&self, target: BorrowedFd<'_>) -> std::io::Result<bool> {
        if self.mount.is_some() && self.mount == mount_id(target)? { Ok(false) } else { is_proc(target) }
    }

    /// Attaches `mount`, made for `plan`, on `target`.
    fn attach(&self, plan: &Plan, mount: OwnedFd, target: OwnedFd) -> Result<()> {
        mount::attach(mount.as_fd(), target.as_fd()).map_err(failed(plan))?;
        self.left.add(mount);
        self.left.add(target);
        Ok(())
    }
}

fn is_proc(file: BorrowedFd<'_>) -> std::io::Result<bool> {
    Ok(nix::sys::statfs::fstatfs(file)?.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC)
}

/// Makes one mount. `tree` is the opened source of a bind mount.
///
/// # Errors
/// Whatever is wrong, with the mount's place in `mounts` and its destination.
pub fn mount(plan: &Plan, tree: Option<OwnedFd>, place: Place<'_>) -> Result<()> {
    match &plan.source {
        Source::Bind(..) => {
            let tree = match tree {
                Some(tree) => tree,
                None => bind::open(plan, None)?.ok_or_else(|| failed(plan)(nix::Error::EINVAL.into()))?,
            };
            let mode = fstat(tree.as_fd()).map_err(|errno| failed(plan)(errno.into()))?.st_mode;
            let kind = if mode & libc::S_IFMT == libc::S_IFDIR { Kind::Folder } else { Kind::File };
            let target = target::ensure(place.root, &plan.destination, kind)?;
            protect_proc(plan, target.as_fd(), place)?;
            place.attach(plan, tree, target)
        }
        Source::Remount => {
            let target = target::ensure(place.root, &plan.destination, Kind::Folder)?;
            bind::apply(plan, target.as_fd()).map_err(failed(plan))
        }
        Source::Cgroup => cgroup::mount(plan, place),
        Source::Fs(kind, source) => file_system(plan, kind, source, place),
    }
}

fn failed(plan: &Plan) -> impl Fn(std::io::Error) -> Error {
    let action = format!("make mounts[{}]", plan.index);
    let target = plan.destination.display().to_string();
    move |error| {
        let hint = match error.raw_os_error() {
            Some(libc::EPERM) => {
                Some("the user namespace does not own the namespace that this file system shows")
            }
            Some(libc::ENODEV) => Some("this kernel does not have the file system"),
            Some(libc::ENOTDIR) => Some("source and destination must both be folders or both be files"),
            _ => None,
        };
        let error = Error::failed(action.clone(), &target, error);
        match hint {
            Some(hint) => error.hint(hint),
            None => error,
        }
    }
}

/// Files of /proc over which a mount is harmless: figures that lxcfs and the like replace. The list is runc's.
const PROC_FILES: &[&str] = &[
    "cpuinfo",
    "diskstats",
    "meminfo",
    "stat",
    "swaps",
    "uptime",
    "loadavg",
    "slabinfo",
    "net/dev",
    "sys/kernel/ns_last_pid",
    "sys/crypto/fips_enabled",
];

/// Only a real procfs may cover /proc, and nothing but a few files in it: with something else in their place, what the
/// runtime or the container's programs write below /proc would go where an image wants it to (CVE-2019-16884).
fn protect_proc(plan: &Plan, target: BorrowedFd<'_>, place: Place<'_>) -> Result<()> {
    let refuse =
        |reason: &str| Err(Error::invalid_spec(format!("mounts[{}].destination", plan.index), reason));
    let inside = plan.destination.strip_prefix("/proc").ok();
    if inside.is_some_and(|path| path.as_os_str().is_empty()) {
        let real = match &plan.source {
            Source::Bind(source, _) => nix::sys::statfs::statfs(source)
                .is_ok_and(|kind| kind.filesystem_type() == nix::sys::statfs::PROC_SUPER_MAGIC),
            Source::Fs(kind, _) => kind == "proc",
            Source::Remount => true,
            Source::Cgroup => false,
        };
        return if real { Ok(()) } else { refuse("only a procfs can be mounted on /proc") };
    }
    let allowed = inside.is_some_and(|path| PROC_FILES.iter().any(|known| path == Path::new(known)));
    // By the file system too: a symlink of the image could lead into it.
    let on_proc = place.is_proc(target).map_err(failed(plan))?;
    if allowed || (!on_proc && inside.is_none()) || plan.source == Source::Remount {
        return Ok(());
    }
    refuse("it is inside /proc")
}

fn file_system(plan: &Plan, kind: &str, source: &str, place: Place<'_>) -> Result<()> {
    if matches!(kind, "proc" | "sysfs") {
        refuse_symlink(plan, place.root)?;
    }
    let target = target::ensure(place.root, &plan.destination, Kind::Folder)?;
    protect_proc(plan, target.as_fd(), place)?;
    let label = place.label.filter(|_| !matches!(kind, "proc" | "sysfs" | "mqueue"));
    let label = label.map(|label| format!("context={label}"));
    let data: Vec<&str> = plan.data.iter().map(String::as_str).chain(label.as_deref()).collect();
    // A tmpfs that is filled first, or that devices are made in, becomes read-only afterwards.
    let later = plan.is_read_only()
        && kind == "tmpfs"
        && (plan.copy_up || plan.destination.components().eq(Path::new("/dev").components()));
    if data.iter().any(|option| option.split_once('=').is_some_and(|(_, value)| value.len() > MAX_VALUE)) {
        return by_mount_call(plan, kind, source, &data, place.root);
    }
    if !later && place.label.is_none() && by_one_call(plan, kind, source, &data, target.as_fd()) {
        place.left.add(target);
        return Ok(());
    }
    let mut attributes = plan.attributes;
    if later {
        attributes.set &= !attr::RDONLY;
    }
    let mount = create(plan, kind, source, &data, attributes.set, place.left)?;
    if plan.copy_up {
        copy_up(plan, target.as_fd(), mount.as_fd())?;
    }
    let rest = Plan {
        attributes: if plan.copy_up { plan.attributes } else { MountAttr::default() },
        ..plan.clone()
    };
    bind::apply(&rest, mount.as_fd()).map_err(failed(plan))?;
    place.attach(plan, mount, target)
}

/// What mount(2) calls the attributes of a new mount, which it knows all but these of: a read-only one could make the file system read-only,
/// of which there may be another mount.
const FLAGS: [(u64, MsFlags); 6] = [
    (attr::NOSUID, MsFlags::MS_NOSUID),
    (attr::NODEV, MsFlags::MS_NODEV),
    (attr::NOEXEC, MsFlags::MS_NOEXEC),
    (attr::NOATIME, MsFlags::MS_NOATIME),
    (attr::STRICTATIME, MsFlags::MS_STRICTATIME),
    (attr::NODIRATIME, MsFlags::MS_NODIRATIME),
];

/// Makes the mount on `target` by mount(2) alone, where that can do all that is asked for: in a microVM each of the system calls that it
/// stands for costs 0.01 ms. Whether it is there; if not, the others say what is wrong.
fn by_one_call(plan: &Plan, kind: &str, source: &str, data: &[&str], target: BorrowedFd<'_>) -> bool {
    let known = FLAGS.iter().fold(0, |known, (attribute, _)| known | attribute);
    let set = plan.attributes.set;
    let further = plan.recursive.set | plan.recursive.clear != 0 || !plan.propagation.is_empty();
    if set & !known != 0 || further || plan.copy_up {
        return false;
    }
    let flags = FLAGS.iter().filter(|(attribute, _)| set & attribute != 0);
    let flags = flags.fold(MsFlags::empty(), |flags, (_, flag)| flags | *flag);
    let source = if source.is_empty() { "none" } else { source };
    mount_call(kind, source, flags, data, target).is_ok()
}

/// mount(2) on the folder `target`.
fn mount_call(
    kind: &str,
    source: &str,
    flags: MsFlags,
    data: &[&str],
    target: BorrowedFd<'_>,
) -> nix::Result<()> {
    let target = format!("/proc/self/fd/{}", target.as_raw_fd());
    nix::mount::mount(Some(source), target.as_str(), Some(kind), flags, Some(data.join(",").as_str()))
}

/// A symlink in the place of /proc or /sys would have the runtime mount them elsewhere, and then trust what is found at the usual
/// place (CVE-2021-30465 and its kin).
fn refuse_symlink(plan: &Plan, root: BorrowedFd<'_>) -> Result<()> {
    let path = plan.destination.strip_prefix("/").unwrap_or(&plan.destination);
    let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
    match nix::sys::stat::fstatat(root, path, flags) {
        Ok(status) if status.st_mode & libc::S_IFMT == libc::S_IFLNK => Err(Error::invalid_spec(
            format!("mounts[{}].destination", plan.index),
            format!("{} is a symlink in the root filesystem", plan.destination.display()),
        )),
        _ => Ok(()),
    }
}

fn create(
    plan: &Plan,
    kind: &str,
    source: &str,
    data: &[&str],
    attributes: u64,
    left: &Leftovers,
) -> Result<OwnedFd> {
    let context = mount::fsopen(kind).map_err(failed(plan))?;
    let set = |option: &str| {
        let (key, value) = match option.split_once('=') {
            Some((key, value)) => (key, Some(value)),
            None => (option, None),
        };
        mount::fsconfig_set(context.as_fd(), key, value).map_err(|error| {
            let log = mount::fs_log(context.as_fd());
            Error::invalid_spec(
                format!("mounts[{}].options", plan.index),
                format!("{option:?} is refused by file system {kind} ({error}{}{log})", separator(&log)),
            )
        })
    };
    if source != "none" && !source.is_empty() {
        mount::fsconfig_set(context.as_fd(), "source", Some(source)).map_err(failed(plan))?;
    }
    for option in data {
        // devpts has always been a new instance since Linux 4.7; the option is gone from its new-style parser.
        for part in option.split(',').filter(|part| !part.is_empty()) {
            set(part)?;
        }
    }
    if attributes & attr::RDONLY != 0 && !matches!(kind, "proc" | "sysfs" | "mqueue") {
        set("ro")?;
    }
    let mount = mount::fsmount(context.as_fd(), attributes).map_err(|error| {
        let log = mount::fs_log(context.as_fd());
        if log.is_empty() {
            failed(plan)(error)
        } else {
            failed(plan)(std::io::Error::other(format!("{error}: {log}")))
        }
    })?;
    left.add(context);
    Ok(mount)
}

fn separator(log: &str) -> &'static str {
    if log.is_empty() { "" } else { ": " }
}

/// mount(2), for options that are longer than fsconfig(2) takes (overlay's lowerdir).
fn by_mount_call(plan: &Plan, kind: &str, source: &str, data: &[&str], root: BorrowedFd<'_>) -> Result<()> {
    let target = target::ensure(root, &plan.destination, Kind::Folder)?;
    let flags = if plan.is_read_only() { MsFlags::MS_RDONLY } else { MsFlags::empty() };
    mount_call(kind, source, flags, data, target.as_fd()).map_err(|errno| failed(plan)(errno.into()))?;
    // The descriptor still names what lies below: the mount on top is found by its path.
    let mounted = target::ensure(root, &plan.destination, Kind::Folder)?;
    bind::apply(plan, mounted.as_fd()).map_err(failed(plan))
}

/// Copies what the mount covers into it.
fn copy_up(plan: &Plan, from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> Result<()> {
    super::copy::tree(from, to).map_err(|error| {
        Error::failed(format!("copy into mounts[{}]", plan.index), plan.destination.display(), error)
    })
}
