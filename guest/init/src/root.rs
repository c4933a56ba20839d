//! The container's root filesystem: a folder of the host, or image and write layer joined.

use std::fs::{self, File};
use std::io;
use std::path::{Path, PathBuf};

use oci_spec::runtime::{Capability, LinuxCapabilities};
use rkvm_guest_protocol::{GuestSetup, Root, WriteLayer};
use rkvm_oci::{Error, Result};

use crate::sys;

const SHARE: &str = "/run/host";
const IMAGE: &str = "/run/image";
const WRITE: &str = "/run/write";
const ROOT: &str = "/run/root";

const BLOCK_DEVICES: &str = "/sys/class/block";
/// A number, as the kernel takes it.
const FAR_AHEAD_KIB: &str = "512";
/// Bytes of an image's beginning that are read at once: superblock, and the folders of most images.
const READ_AHEAD: u64 = 1 << 20;

/// Has the beginning of the image read while other things are done: the file system would ask for one block after the other, and wait for
/// each. To be kept until the image is mounted, because a device that nobody has open is forgotten.
pub fn read_ahead(root: &Root) -> Option<File> {
    let Root::Layers { image, .. } = root else { return None };
    let device = File::open(image).ok()?;
    sys::will_need(&device, READ_AHEAD);
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
            mount(image, IMAGE, "erofs", libc::MS_RDONLY, "", "mount the image on device")?;
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
