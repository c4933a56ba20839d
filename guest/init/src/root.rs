//! The container's root filesystem: a folder of the host, or image and write layer joined.

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxCapabilities, Process};
use rkvm_guest_protocol::{GuestSetup, Root, WriteLayer};
use rkvm_linux::sys::fs::open_in_root;
use rkvm_oci::{Error, Result};

use crate::sys;

const SHARE: &str = "/run/host";
const IMAGE: &str = "/run/image";
const WRITE: &str = "/run/write";
const ROOT: &str = "/run/root";

const BLOCK_DEVICES: &str = "/sys/class/block";
/// A number, as the kernel takes it.
const FAR_AHEAD_KIB: &str = "512";
/// The same, bytes: more is not read for one piece of advice.
const READ_AT_ONCE: u64 = 512 << 10;
/// Most bytes of a program that are read before it is executed: others are slower for other reasons.
const PROGRAM_AHEAD: u64 = 2 << 20;
/// Bytes of an image's beginning that are read at once: superblock, and the folders of most images.
const READ_AHEAD: u64 = 1 << 20;

/// Has the beginning of the image read while other things are done: the file system would ask for one block after the other, and wait for
/// each. To be kept until the image is mounted, because a device that nobody has open is forgotten.
pub fn read_ahead(root: &Root) -> Option<File> {
    let Root::Layers { image, .. } = root else { return None };
    let device = File::open(image).ok()?;
    sys::will_need(&device, 0..READ_AHEAD);
    Some(device)
}

/// Has file systems on `device` read more at once than the kernel's 128 KiB: each request is an exit and an interrupt, and the host has the
/// image in memory, so that what is read in vain costs little.
fn read_far_ahead(device: &str) {
    let name = Path::new(device).file_name().unwrap_or_default();
    let path = Path::new(BLOCK_DEVICES).join(name).join("queue/read_ahead_kb");
    // Without it the start takes longer.
    let _ = fs::write(path, FAR_AHEAD_KIB);
}

/// Mounts what the host shares and the root filesystem; the path of the latter.
///
/// # Errors
/// A device is missing or holds something else than was said.
pub fn assemble(setup: &GuestSetup) -> Result<PathBuf> {
    if let Some(tag) = &setup.share {
        // nosuid and the like are up to the mounts made of it.
        mount(tag, SHARE, "virtiofs", 0, "", "share the host's folders by tag")?;
    }
    match &setup.root {
        Root::Shared(name) => Ok(shared(name)),
        Root::Layers { image, write } => {
            read_far_ahead(image);
            // The container's own mount says what devices are.
            let flags = libc::MS_RDONLY | libc::MS_NODEV;
            mount(image, IMAGE, "erofs", flags, "", "mount the image on device")?;
            if let (Some(process), Ok(root)) = (setup.spec.process(), File::open(IMAGE)) {
                read_program_ahead(&root, process);
            }
            make_folder(Path::new(ROOT))?;
            match write {
                WriteLayer::Memory => {
                    mount("tmpfs", WRITE, "tmpfs", 0, "mode=0755", "mount a write layer in memory, a")?;
                    make_folders(Path::new(WRITE))?;
                    join(Path::new(WRITE), "").map_err(not_joined)?;
                }
                WriteLayer::Shared(name) => join_shared(&shared(name))?,
            }
            Ok(ROOT.into())
        }
    }
}

/// Has the program read while the container is made: executed, it would have one part of it read after the other, and wait for each.
fn read_program_ahead(root: &File, process: &Process) {
    let Some(program) = program(root, process) else { return };
    let bytes = program.metadata().map_or(0, |about| about.len()).min(PROGRAM_AHEAD);
    for start in (0..bytes).step_by(READ_AT_ONCE as usize) {
        sys::will_need(&program, start..start + READ_AT_ONCE);
    }
}

/// The file that `process` will execute, if that is in the image.
fn program(root: &File, process: &Process) -> Option<File> {
    let name = process.args().as_ref()?.first()?;
    let paths: Vec<PathBuf> = match name.contains('/') {
        true => vec![process.cwd().join(name)],
        false => {
            let search = process.env().iter().flatten().find_map(|pair| pair.strip_prefix("PATH="));
            search?.split(':').map(|folder| Path::new(folder).join(name)).collect()
        }
    };
    // The image chooses what is there: opened in this way, a fifo keeps nobody waiting.
    let flags = libc::O_RDONLY | libc::O_NONBLOCK;
    let found = paths.iter().find_map(|path| open_in_root(root.as_fd(), path, flags).ok());
    found.map(File::from).filter(|file| file.metadata().is_ok_and(|about| about.is_file()))
}

/// Joins the image and a write layer that the host shares.
fn join_shared(folder: &Path) -> Result<()> {
    // What the share can do is known, and that nobody writes to the layer but overlayfs, here or on the host; only a kernel of ours lets it
    // be said.
    let join_known = || join(folder, ",userxattr,known_upper,private_upper");
    let joined = match join_known() {
        // The engine makes the folders. Asking for them first would be two requests to the host.
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folders(folder)?;
            join_known()
        }
        other => other,
    };
    // The server of the host may not set trusted.*.
    joined.or_else(|_| join(folder, ",userxattr")).map_err(not_joined)
}

fn make_folders(write: &Path) -> Result<()> {
    ["upper", "work"].iter().try_for_each(|name| make_folder(&write.join(name)))
}

fn join(write: &Path, options: &str) -> io::Result<()> {
    let write = write.display();
    let data = format!("lowerdir={IMAGE},upperdir={write}/upper,workdir={write}/work{options}");
    sys::mount("overlay", Path::new(ROOT), "overlay", 0, &data)
}

fn not_joined(source: io::Error) -> Error {
    Error::failed("join image and write layer by", "overlay", source)
}

/// Whether `capabilities` let a process mount file systems.
pub fn lets_mount(capabilities: Option<&LinuxCapabilities>) -> bool {
    let sets = capabilities
        .map(|all| [all.bounding(), all.permitted(), all.effective(), all.inheritable(), all.ambient()]);
    sets.into_iter().flatten().flatten().any(|set| set.contains(&Capability::SysAdmin))
}

/// Takes the mounts apart, so that nothing of a file system is left in memory. What is still in use (it cannot be, for every process
/// of the container has ended) at least has been written by `sync`.
///
/// Only where there are disks, or after processes that could mount file systems of their own. The host's folders are written through: write(2) waits for the
/// host, and so does the unmapping of a shared mapping, at the latest when its process ends. `sync` and the unmounting would have the
/// host write everything to its disk, which a container's end does not either.
pub fn take_apart() {
    sys::sync();
    for target in [ROOT, WRITE, SHARE] {
        sys::unmount(Path::new(target));
    }
}

/// An entry of the share; the name is one component.
fn shared(name: &str) -> PathBuf {
    Path::new(SHARE).join(Path::new(name).file_name().unwrap_or_default())
}

fn make_folder(path: &Path) -> Result<()> {
    match fs::create_dir(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => {
            Err(Error::failed("make folder", path.display(), error))
        }
        _ => Ok(()),
    }
}

fn mount(source: &str, target: &str, kind: &str, flags: u64, data: &str, action: &'static str) -> Result<()> {
    make_folder(Path::new(target))?;
    sys::mount(source, Path::new(target), kind, flags, data)
        .map_err(|error| Error::failed(action, source, error))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn the_program_is_found_in_the_image_as_it_will_be_in_the_container() {
        let image = tempfile::tempdir().unwrap();
        let path = |name: &str| image.path().join(name);
        for folder in ["bin", "usr", "usr/bin"] {
            fs::create_dir(path(folder)).unwrap();
        }
        fs::write(path("bin/busybox"), "first").unwrap();
        fs::write(path("usr/bin/other"), "second").unwrap();
        symlink("/bin/busybox", path("usr/bin/true")).unwrap();
        symlink("/etc/passwd", path("bin/outside")).unwrap();
        nix::unistd::mkfifo(&path("bin/pipe"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        let root = File::open(image.path()).unwrap();
        let find = |name: &str, path: &str| {
            let mut process = Process::default();
            process.set_args(Some(vec![name.to_owned()])).set_cwd("/usr".into());
            process.set_env(Some(vec![path.to_owned()]));
            program(&root, &process).map(|file| io::read_to_string(file).unwrap())
        };
        assert_eq!(find("true", "PATH=/none:/usr/bin:/bin").as_deref(), Some("first"));
        assert_eq!(find("/usr/bin/other", "").as_deref(), Some("second"));
        assert_eq!(find("bin/other", "").as_deref(), Some("second"));
        for nothing in ["outside", "pipe", "bin", "missing"] {
            assert_eq!(find(nothing, "PATH=/bin:/"), None, "{nothing}");
        }
        assert_eq!(find("true", "HOME=/"), None);
    }
}
