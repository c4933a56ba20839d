//! Where this host's templates are, and which of them is for which machine.

use std::fs::{self, DirBuilder, File, Metadata};
use std::hash::{DefaultHasher, Hash as _, Hasher as _};
use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::{DirBuilderExt as _, MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::sys::statvfs::statvfs;
use nix::unistd::linkat;
use rkvm_linux::sys::fs::is_trusted;
use rkvm_oci::{Error, Result};

use super::spec::Size;
use crate::artifacts::{self, Artifacts};
use crate::template::{self, Snapshot};

/// Environment variable that names another folder for templates.
pub const FOLDER_VARIABLE: &str = "RKVM_TEMPLATES";
/// In memory, and gone when the host boots again, as the templates must be.
const FOLDER: &str = "/run/rkvm-templates";
/// Most templates that are kept, each some 20 MiB: those that were used last.
const MAX_TEMPLATES: usize = 8;
/// Another boot of the host is another host.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What machines of one template have in common.
#[derive(Debug)]
pub struct Shape<'a> {
    /// What the machine's process executes.
    pub program: &'a File,
    /// What is booted.
    pub artifacts: &'a Artifacts,
    /// How large it is.
    pub size: Size,
    /// The image: the guest's kernel has asked for the size of its device.
    pub image: Option<&'a Path>,
    /// Whether it has a network link.
    pub link: bool,
}

impl Shape<'_> {
    /// In words that differ wherever two machines do.
    fn key(&self) -> io::Result<String> {
        let Artifacts { kernel, initrd, cmdline, .. } = self.artifacts;
        let Size { vcpus, memory_mib } = self.size;
        let image = self.image.map(fs::metadata).transpose()?.map(|image| image.len());
        let parts = [
            fs::read_to_string(BOOT_ID)?.trim().to_owned(),
            stamp(&self.program.metadata()?),
            stamp(&fs::metadata(kernel)?),
            stamp(&fs::metadata(initrd)?),
            format!("{vcpus} {memory_mib} {image:?} {}", self.link),
            cmdline.clone(),
        ];
        Ok(parts.join("\n"))
    }
}

/// Another stamp is another file, or other content.
fn stamp(file: &Metadata) -> String {
    let changed = (file.ctime(), file.ctime_nsec());
    format!("{} {} {} {changed:?}", file.dev(), file.ino(), file.size())
}

/// What there is for a machine.
#[derive(Debug)]
pub enum Found {
    /// No template, and none is to be made.
    Nothing,
    /// This one.
    Template {
        /// Its file.
        file: File,
        /// Where that is.
        path: PathBuf,
        /// What it is for.
        key: String,
    },
    /// None yet: the machine can become one.
    Missing {
        /// Where it is to be.
        path: PathBuf,
        /// What it is for.
        key: String,
        /// How much memory such machines have, bytes.
        memory: u64,
    },
}

impl Found {
    /// What there is for machines of `shape`.
    pub fn find(shape: &Shape<'_>) -> Self {
        // Without a place for templates machines boot.
        let memory = u64::from(shape.size.memory_mib) << 20;
        let found = folder(&place()).and_then(|folder| Self::find_in(&folder, shape.key()?, memory));
        found.unwrap_or(Self::Nothing)
    }

    fn find_in(folder: &Path, key: String, memory: u64) -> io::Result<Self> {
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        let path = folder.join(format!("{:016x}", hasher.finish()));
        match File::open(&path) {
            Ok(file) if file.metadata()?.len() == 0 => Ok(Self::Nothing),
            Ok(file) => {
                // The ones that were used last are kept.
                let _ = file.set_modified(SystemTime::now());
                Ok(Self::Template { file, path, key })
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Self::Missing { path, key, memory }),
            Err(error) => Err(error),
        }
    }

    /// Whether the machine begins with a template or can become one.
    pub fn is_some(&self) -> bool {
        !matches!(self, Self::Nothing)
    }

    /// Records the machine of process `pid`, which stands still. Without success the next machine boots as well.
    pub fn record(&self, snapshot: Snapshot, pid: i32) {
        if let Self::Missing { path, key, memory } = self {
            let _ = write(path, |file| template::write(file, key, snapshot, *memory, pid));
        }
    }

    /// The machine could not go on from its template: the next ones boot. An empty file says so, until the host boots again.
    pub fn give_up(&self) {
        if let Self::Template { path, .. } = self {
            // Others may be reading it.
            let _ = fs::remove_file(path);
            let _ = File::options().write(true).create_new(true).mode(0o600).open(path);
        }
    }
}

fn place() -> PathBuf {
    std::env::var_os(FOLDER_VARIABLE).filter(|value| !value.is_empty()).unwrap_or(FOLDER.into()).into()
}

/// `path` as a folder that nobody else can write to; made if it is missing.
fn folder(path: &Path) -> io::Result<PathBuf> {
    match DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    if is_trusted(&fs::symlink_metadata(path)?, libc::S_IFDIR) {
        Ok(path.to_owned())
    } else {
        Err(io::ErrorKind::PermissionDenied.into())
    }
}

/// Makes the file `path` with what `content` writes to it.
fn write(path: &Path, content: impl FnOnce(&mut File) -> io::Result<()>) -> io::Result<()> {
    let folder = path.parent().unwrap_or(path);
    make_room(folder)?;
    let space = statvfs(folder)?;
    let [all, left] = [space.blocks(), space.blocks_available()].map(|blocks| blocks * space.fragment_size());
    if left < needed_space(all) {
        return Err(io::ErrorKind::StorageFull.into());
    }
    // Without a name until it is complete: an interruption leaves nothing.
    let mut options = File::options();
    let mut file = options.read(true).write(true).mode(0o600).custom_flags(libc::O_TMPFILE).open(folder)?;
    content(&mut file)?;
    let nameless = format!("/proc/self/fd/{}", file.as_raw_fd());
    // Another machine of this shape may have been faster.
    Ok(linkat(AT_FDCWD, nameless.as_str(), AT_FDCWD, path, AtFlags::AT_SYMLINK_FOLLOW)?)
}

/// What of a file system of `all` bytes must be free for a template to be added: others need /run more than machines need a faster start.
fn needed_space(all: u64) -> u64 {
    /// As much is always enough.
    const ENOUGH: u64 = 1 << 30;
    (all / 4).min(ENOUGH)
}

/// Removes what was used least lately, until one more may come.
fn make_room(folder: &Path) -> io::Result<()> {
    let mut all = vec![];
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        // Somebody else may be doing this too.
        if let Ok(about) = entry.metadata()
            && about.len() > 0
        {
            all.push((about.modified()?, entry.path()));
        }
    }
    all.sort();
    let surplus = (all.len() + 1).saturating_sub(MAX_TEMPLATES);
    for (_, path) in &all[..surplus] {
        let _ = fs::remove_file(path);
    }
    Ok(())
}

/// Removes every template of this host; how many bytes that gave back. Machines that are about to begin with one are not disturbed.
pub fn remove_all() -> u64 {
    // A folder of somebody else is none of ours.
    folder(&place()).map_or(0, |folder| remove_all_in(&folder))
}

fn remove_all_in(folder: &Path) -> u64 {
    let mut bytes = 0;
    for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
        let about = entry.metadata();
        if fs::remove_file(entry.path()).is_ok() {
            bytes += about.map_or(0, |about| about.len());
        }
    }
    bytes
}

/// Whether templates may be used, as `annotations` say.
///
/// # Errors
/// The annotation says something else.
pub fn are_allowed(annotations: &std::collections::HashMap<String, String>) -> Result<bool> {
    match annotations.get(artifacts::TEMPLATE).map(String::as_str) {
        None | Some("auto") => Ok(true),
        Some("never") => Ok(false),
        Some(other) => Err(Error::invalid_spec(
            format!("annotations[{}]", artifacts::TEMPLATE),
            format!("{other:?} is neither auto nor never"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn find(folder: &Path, key: &str) -> Found {
        Found::find_in(folder, key.to_owned(), 1 << 30).unwrap()
    }

    #[test]
    fn a_template_is_found_by_its_key_and_given_up_for_good() {
        let folder = tempfile::tempdir().unwrap();
        let Found::Missing { path, .. } = find(folder.path(), "one") else { panic!("it is there") };
        fs::write(&path, "template").unwrap();
        let found = find(folder.path(), "one");
        assert!(matches!(&found, Found::Template { key, .. } if key == "one"), "{found:?}");
        assert!(matches!(find(folder.path(), "two"), Found::Missing { .. }));
        found.give_up();
        assert!(matches!(find(folder.path(), "one"), Found::Nothing));
    }

    #[test]
    fn the_least_used_make_room() {
        let folder = tempfile::tempdir().unwrap();
        for index in 0..MAX_TEMPLATES as u64 + 2 {
            let file = File::create(folder.path().join(index.to_string())).unwrap();
            file.set_len(1).unwrap();
            file.set_modified(SystemTime::UNIX_EPOCH + std::time::Duration::from_secs(1000 - index)).unwrap();
        }
        // Says that one is of no use, which must stay known.
        File::create(folder.path().join("empty")).unwrap();
        make_room(folder.path()).unwrap();
        let mut left: Vec<_> =
            fs::read_dir(folder.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        left.sort();
        assert_eq!(left, ["0", "1", "2", "3", "4", "5", "6", "empty"]);
    }

    #[test]
    fn a_small_run_is_not_filled() {
        assert_eq!(needed_space(100 << 20), 25 << 20);
        assert_eq!(needed_space(1 << 40), 1 << 30);
    }

    #[test]
    fn all_can_be_removed() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("one"), "12345").unwrap();
        fs::write(folder.path().join("empty"), "").unwrap();
        assert_eq!(remove_all_in(folder.path()), 5);
        assert_eq!(remove_all_in(folder.path()), 0);
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_folder_of_somebody_else_is_refused() {
        use std::os::unix::fs::PermissionsExt as _;
        let work = tempfile::tempdir().unwrap();
        let path = work.path().join("templates");
        assert_eq!(folder(&path).unwrap(), path);
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, 0o700);
        assert!(folder(&path).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o770)).unwrap();
        assert!(folder(&path).is_err());
        let link = work.path().join("link");
        std::os::unix::fs::symlink(work.path(), &link).unwrap();
        assert!(folder(&link).is_err());
    }

    #[test]
    fn the_annotation_is_auto_or_never() {
        let of = |text: &str| are_allowed(&[(artifacts::TEMPLATE.to_owned(), text.to_owned())].into());
        assert!(are_allowed(&[].into()).unwrap() && of("auto").unwrap() && !of("never").unwrap());
        assert!(of("yes").unwrap_err().to_string().contains(artifacts::TEMPLATE));
    }
}
