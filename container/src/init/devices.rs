//! Device files, the symlinks of /dev, and the terminal.

use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, SFlag, fstat, makedev, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};
use oci_spec::runtime::{LinuxDevice, LinuxDeviceType};
use rkvm_oci::{Error, Result};

use crate::mounts::target::{self, Kind};
use rkvm_linux::sys::mount::{self, Depth};
use rkvm_linux::sys::{fs, pty};

/// A device file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Device {
    /// Path in the container.
    pub path: PathBuf,
    /// `S_IFCHR`, `S_IFBLK` or `S_IFIFO`.
    pub kind: u32,
    /// Major number.
    pub major: u64,
    /// Minor number.
    pub minor: u64,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
}

/// Devices that every container has (runtime-spec, "Default Devices").
const DEFAULT: [(&str, u64, u64); 6] = [
    ("/dev/null", 1, 3),
    ("/dev/zero", 1, 5),
    ("/dev/full", 1, 7),
    ("/dev/random", 1, 8),
    ("/dev/urandom", 1, 9),
    ("/dev/tty", 5, 0),
];

/// Symlinks that every container has (runtime-spec, "Dev symbolic links").
const SYMLINKS: [(&str, &str); 6] = [
    ("/proc/self/fd", "fd"),
    ("/proc/self/fd/0", "stdin"),
    ("/proc/self/fd/1", "stdout"),
    ("/proc/self/fd/2", "stderr"),
    ("pts/ptmx", "ptmx"),
    ("/proc/kcore", "core"),
];

/// The default devices and those of `linux.devices`; a configured one replaces a default one of the same path.
///
/// # Errors
/// A device has no usable type or numbers.
pub fn plan(configured: &[LinuxDevice]) -> Result<Vec<Device>> {
    let mut devices: Vec<Device> = DEFAULT
        .iter()
        .map(|(path, major, minor)| Device {
            path: (*path).into(),
            kind: libc::S_IFCHR,
            major: *major,
            minor: *minor,
            mode: 0o666,
            owner: (0, 0),
        })
        .collect();
    for (index, device) in configured.iter().enumerate() {
        if device.path() == Path::new("/dev/ptmx") {
            // Every container has its own, of its own devpts; callers that list all of the host's devices name it too.
            continue;
        }
        let field = |name: &str| format!("linux.devices[{index}].{name}");
        let kind = match device.typ() {
            LinuxDeviceType::C | LinuxDeviceType::U => libc::S_IFCHR,
            LinuxDeviceType::B => libc::S_IFBLK,
            LinuxDeviceType::P => libc::S_IFIFO,
            LinuxDeviceType::A => {
                return Err(Error::invalid_spec(field("type"), "a file is one of `c`, `u`, `b` and `p`"));
            }
        };
        let number = |name: &str, value: i64| {
            u64::try_from(value).map_err(|_| Error::invalid_spec(field(name), format!("{value} is negative")))
        };
        let fifo = kind == libc::S_IFIFO;
        let device = Device {
            path: device.path().clone(),
            kind,
            major: if fifo { 0 } else { number("major", device.major())? },
            minor: if fifo { 0 } else { number("minor", device.minor())? },
            mode: device.file_mode().unwrap_or(0o666) & 0o7777,
            owner: (device.uid().unwrap_or(0), device.gid().unwrap_or(0)),
        };
        let earlier = configured[..index].iter().any(|one| one.path() == &device.path);
        if earlier && !devices.contains(&device) {
            return Err(Error::invalid_spec(
                field("path"),
                format!("{} is given twice, as different devices", device.path.display()),
            ));
        }
        devices.retain(|known| known.path != device.path);
        devices.push(device);
    }
    Ok(devices)
}

/// How device files come into being.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Making {
    /// By mknod(2).
    Mknod,
    /// The host's file is bind-mounted: mknod(2) is not allowed in a user namespace.
    Bind,
}

fn failed(path: &Path) -> impl Fn(nix::Error) -> Error {
    move |errno| Error::failed("make device", path.display(), errno)
}

/// Makes the devices and symlinks below `root`.
///
/// # Errors
/// A device cannot be made, or the host does not have it.
pub fn make(root: BorrowedFd<'_>, devices: &[Device], making: Making) -> Result<()> {
    let dev = target::ensure_folder(root, Path::new("/dev"))?;
    for (to, name) in SYMLINKS {
        if name == "core" && !Path::new("/proc/kcore").exists() {
            continue;
        }
        match symlinkat(to, dev.as_fd(), name) {
            Ok(()) => {}
            // The image or a bind-mounted /dev may have its own; only ptmx must be the container's, or terminals would be the host's.
            Err(nix::Error::EEXIST) if name == "ptmx" => replace_ptmx(dev.as_fd())?,
            Err(nix::Error::EEXIST) => {}
            Err(errno) => return Err(failed(&Path::new("/dev").join(name))(errno)),
        }
    }
    devices.iter().try_for_each(|device| one(root, dev.as_fd(), device, making))
}

fn replace_ptmx(dev: BorrowedFd<'_>) -> Result<()> {
    let path = Path::new("/dev/ptmx");
    nix::unistd::unlinkat(dev, "ptmx", nix::unistd::UnlinkatFlags::NoRemoveDir).map_err(failed(path))?;
    symlinkat("pts/ptmx", dev, "ptmx").map_err(failed(path))
}

fn one(root: BorrowedFd<'_>, dev: BorrowedFd<'_>, device: &Device, making: Making) -> Result<()> {
    let error = failed(&device.path);
    if making == Making::Bind && device.kind != libc::S_IFIFO {
        return bind(root, device);
    }
    let below;
    let name = device.path.file_name().ok_or_else(|| error(nix::Error::EINVAL))?;
    let folder = match device.path.parent() {
        Some(parent) if parent != Path::new("/dev") => {
            below = target::ensure_folder(root, parent)?;
            below.as_fd()
        }
        _ => dev,
    };
    let kind = SFlag::from_bits_truncate(device.kind);
    let mode = Mode::from_bits_truncate(device.mode);
    let numbers = makedev(device.major, device.minor);
    match mknodat(folder, name, kind, mode, numbers) {
        Ok(()) => {}
        Err(nix::Error::EEXIST) => {
            // Left by the image: kept when it is that device, refused otherwise, for the container's user would
            // write to something else.
            let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
            let there = nix::sys::stat::fstatat(folder, name, flags).map_err(&error)?;
            let same = there.st_mode & libc::S_IFMT == device.kind
                && (device.kind == libc::S_IFIFO || there.st_rdev == numbers);
            return match there.st_mode & libc::S_IFMT {
                _ if same => Ok(()),
                // Such as was made here before, where device files cannot be: to mount the device on.
                libc::S_IFREG => bind(root, device),
                _ => Err(error(nix::Error::EEXIST)),
            };
        }
        Err(nix::Error::EPERM) => return bind(root, device),
        Err(errno) => return Err(error(errno)),
    }
    if device.owner != (0, 0) {
        let (uid, gid) = (Uid::from_raw(device.owner.0), Gid::from_raw(device.owner.1));
        let flags = nix::fcntl::AtFlags::AT_SYMLINK_NOFOLLOW;
        fchownat(folder, name, Some(uid), Some(gid), flags).map_err(&error)?;
    }
    Ok(())
}

fn bind(root: BorrowedFd<'_>, device: &Device) -> Result<()> {
    let error = |source: std::io::Error| {
        Error::failed("bring device into the container", device.path.display(), source)
            .hint("with a user namespace the host must have the device at the same path")
    };
    let tree = mount::clone_tree(AT_FDCWD, &device.path, Depth::One).map_err(error)?;
    let there = fstat(tree.as_fd()).map_err(|errno| error(errno.into()))?;
    let numbers = makedev(device.major, device.minor);
    if there.st_mode & libc::S_IFMT != device.kind || there.st_rdev != numbers {
        return Err(Error::unsupported(
            format!(
                "device {} ({}:{}) in a user namespace",
                device.path.display(),
                device.major,
                device.minor
            ),
            "the host's file of that path is another device",
        ));
    }
    let target = target::ensure(root, &device.path, Kind::File)?;
    mount::attach(tree.as_fd(), target.as_fd()).map_err(error)
}

/// A terminal of the container's own devpts: its master and its slave.
///
/// # Errors
/// The container has no devpts.
pub fn terminal(root: BorrowedFd<'_>, size: Option<(u16, u16)>) -> Result<(OwnedFd, OwnedFd)> {
    let path = Path::new("/dev/pts/ptmx");
    let open = |source| {
        Error::failed("open", path.display(), source)
            .hint("`process.terminal` needs a mount of type devpts on /dev/pts")
    };
    let flags = libc::O_RDWR | libc::O_NOCTTY;
    let master = fs::open_in_root(root, path, flags).map_err(open)?;
    // An image's own file of that name must not be taken for a terminal.
    if !fs::is_ptmx(master.as_fd()).map_err(open)? {
        return Err(open(std::io::Error::from_raw_os_error(libc::ENODEV)));
    }
    let slave = pty::slave_of(master.as_fd()).map_err(open)?;
    if let Some((rows, columns)) = size {
        pty::set_size(slave.as_fd(), rows, columns).map_err(open)?;
    }
    Ok((master, slave))
}

/// Mounts the slave of the container's terminal on /dev/console.
///
/// # Errors
/// The mount point cannot be made.
pub fn console(root: BorrowedFd<'_>, slave: BorrowedFd<'_>) -> Result<()> {
    let console = Path::new("/dev/console");
    let error = |source| Error::failed("make", console.display(), source);
    let tree = mount::clone_tree(slave, Path::new(""), Depth::One).map_err(error)?;
    let target = target::ensure(root, console, Kind::File)?;
    mount::attach(tree.as_fd(), target.as_fd()).map_err(error)
}

/// Sends a terminal's master to the caller (runc's console socket protocol: the descriptor with its name as data).
///
/// # Errors
/// The socket is closed.
pub fn send_master(socket: BorrowedFd<'_>, master: BorrowedFd<'_>) -> Result<()> {
    use nix::sys::socket::{ControlMessage, MsgFlags, sendmsg};
    let name = b"/dev/ptmx";
    let fds = [master.as_raw_fd()];
    let control = [ControlMessage::ScmRights(&fds)];
    let data = [std::io::IoSlice::new(name)];
    sendmsg::<()>(socket.as_raw_fd(), &data, &control, MsgFlags::MSG_NOSIGNAL, None)
        .map(drop)
        .map_err(|source| Error::failed("send the terminal over", "the console socket", source))
}

/// Gives `fd` to the container's user where it is a stream that the caller made for it, so that `/dev/stdout` can be
/// opened again by name.
pub fn give_to(fd: BorrowedFd<'_>, uid: u32) {
    let Ok(status) = fstat(fd) else { return };
    let null = status.st_mode & libc::S_IFMT == libc::S_IFCHR && status.st_rdev == makedev(1, 3);
    if status.st_uid != uid && !null {
        // Not ours to give (another user's pipe, a read-only file system): the program can still use the descriptor itself.
        let _ = nix::unistd::fchown(fd, Some(Uid::from_raw(uid)), None);
    }
}
