//! Where the guest's kernel and initramfs are.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::Write as _;
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::memfd::{MFdFlags, memfd_create};
use rkvm_oci::{Error, Result};

use crate::config::Image;
use crate::host::{KvmKind, Vendor};
use crate::initramfs::modules;
use crate::kernel::{self, Form};

/// Annotation of config.json: path of a guest kernel to use in place of ours.
pub const KERNEL: &str = "io.rkvm.vm.kernel";
/// Annotation: path of an initramfs to use in place of ours.
pub const INITRD: &str = "io.rkvm.vm.initrd";
/// Annotation: words for the kernel's command line, behind our own.
pub const CMDLINE: &str = "io.rkvm.vm.cmdline";

/// Annotation: seconds that the guest has to become ready, 1 to 3600.
pub const BOOT_TIMEOUT: &str = "io.rkvm.vm.boot-timeout";

/// Annotation: `auto`, the default, for a machine that begins with a template of its like, or becomes one where there is none; `never` for one
/// that boots and is not recorded.
pub const TEMPLATE: &str = "io.rkvm.vm.template";

/// Annotation: file, FIFO or terminal of the host that the guest's console `hvc0` is connected to.
pub const CONSOLE: &str = "io.rkvm.vm.console";

/// Environment variable that names the folder of the artifacts.
pub const FOLDER_VARIABLE: &str = "RKVM_GUEST";
/// Folder of the artifacts of an installed rkvm.
const INSTALLED: &str = "/var/lib/rkvm/guest";
/// Where the modules of distributions' kernels are, by version.
const MODULES: &str = "/lib/modules";
/// The initramfs: our init and nothing else.
const INITRAMFS: &str = "initramfs.cpio";

/// What a guest boots from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Artifacts {
    /// The kernel.
    pub kernel: PathBuf,
    /// The initramfs.
    pub initrd: PathBuf,
    /// Further words of the command line.
    pub cmdline: String,
    /// Whether our initramfs is to work with a kernel that is not ours.
    foreign_kernel: bool,
    /// What runs it.
    kind: KvmKind,
}

impl Artifacts {
    /// Opens the initramfs. A distribution's kernel (a bzImage) has its drivers as modules: those that a machine needs are put behind our
    /// init, from this host's `/lib/modules/VERSION`.
    ///
    /// # Errors
    /// A file cannot be read, or the kernel's modules are not installed here.
    pub fn open_initramfs(&self) -> Result<OwnedFd> {
        let failed = |source| Error::failed("open the guest initramfs", self.initrd.display(), source);
        let kernel = |source| Error::failed("prepare the guest kernel", self.kernel.display(), source);
        if self.foreign_kernel {
            let image = Image::open(&self.kernel).map_err(kernel)?;
            let info = kernel::inspect(&image).map_err(kernel)?;
            // Before its modules are looked for: they would not help.
            kernel::check_fit(&info, &image, self.kind).map_err(kernel)?;
            if let (Form::BzImage, Some(version)) = (info.form, info.version) {
                let base = fs::read(&self.initrd).map_err(failed)?;
                let joined = modules::append(&base, &Path::new(MODULES).join(version)).map_err(kernel)?;
                let memory = memfd_create("initramfs", MFdFlags::MFD_CLOEXEC);
                let mut file = File::from(memory.map_err(|errno| failed(errno.into()))?);
                file.write_all(&joined).map_err(failed)?;
                return Ok(file.into());
            }
        }
        File::open(&self.initrd).map(OwnedFd::from).map_err(failed)
    }
}

/// Name of the kernel built for `kind`.
pub fn kernel_name(kind: KvmKind) -> &'static str {
    match kind {
        KvmKind::Hardware(_) => "vmlinux-plain",
        KvmKind::Pvm => "vmlinux-pvm",
    }
}

/// Finds kernel and initramfs: those that `annotations` name, and otherwise those of the first folder that has them of
/// `RKVM_GUEST`, `guest/` beside this program, and `/var/lib/rkvm/guest`.
///
/// # Errors
/// One is nowhere; the message names the places.
pub fn find(kind: KvmKind, annotations: &HashMap<String, String>) -> Result<Artifacts> {
    let named = |key: &str| annotations.get(key).filter(|path| !path.is_empty()).map(PathBuf::from);
    let folders = folders();
    let of = |given: Option<PathBuf>, name: &str, what: &str| match given {
        Some(path) => Ok(path),
        None => search(&folders, name).ok_or_else(|| missing(what, name, &folders)),
    };
    Ok(Artifacts {
        kernel: of(named(KERNEL), kernel_name(kind), "guest kernel")?,
        initrd: of(named(INITRD), INITRAMFS, "guest initramfs")?,
        cmdline: annotations.get(CMDLINE).cloned().unwrap_or_default(),
        foreign_kernel: named(KERNEL).is_some() && named(INITRD).is_none(),
        kind,
    })
}

/// How long a guest may take to become ready: what `annotations` say, and otherwise a hundred times what it takes on an idle host.
///
/// # Errors
/// The annotation is no number of seconds.
pub fn boot_timeout(annotations: &HashMap<String, String>) -> Result<Duration> {
    let Some(text) = annotations.get(BOOT_TIMEOUT) else { return Ok(Duration::from_secs(30)) };
    match text.parse() {
        Ok(seconds @ 1..=3600) => Ok(Duration::from_secs(seconds)),
        _ => Err(Error::invalid_spec(
            format!("annotations[{BOOT_TIMEOUT}]"),
            format!("{text:?} is no number of seconds from 1 to 3600"),
        )),
    }
}

/// What `annotations` say that the guest's console is to be connected to.
pub fn console(annotations: &HashMap<String, String>) -> Option<&String> {
    annotations.get(CONSOLE)
}

/// Opens what the guest's console is to be connected to, if `annotations` name something; a file that is not there is made.
///
/// # Errors
/// It cannot be opened.
pub fn open_console(annotations: &HashMap<String, String>) -> Result<Option<OwnedFd>> {
    let Some(path) = console(annotations) else { return Ok(None) };
    let failed = |source| Error::failed(format!("open the console of annotation {CONSOLE},"), path, source);
    let mut options = File::options();
    // Both ways, so that a FIFO without a reader or writer can be opened.
    options.read(true).append(true).create(true).mode(0o600).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY);
    let file = options.open(path).map_err(failed)?;
    if file.metadata().map_err(failed)?.is_file() {
        // Nothing is to be read from it.
        return File::options().append(true).open(path).map(|file| Some(file.into())).map_err(failed);
    }
    Ok(Some(file.into()))
}

fn folders() -> Vec<PathBuf> {
    if let Some(folder) = std::env::var_os(FOLDER_VARIABLE).filter(|value| !value.is_empty()) {
        return vec![folder.into()];
    }
    let beside = std::env::current_exe().ok().and_then(|path| Some(path.parent()?.join("guest")));
    beside.into_iter().chain([PathBuf::from(INSTALLED)]).collect()
}

fn search(folders: &[PathBuf], name: &str) -> Option<PathBuf> {
    folders.iter().map(|folder| folder.join(name)).find(|path| path.exists())
}

fn missing(what: &str, name: &str, folders: &[PathBuf]) -> Error {
    let places: Vec<String> = folders.iter().map(|folder| folder.display().to_string()).collect();
    Error::failed("find", format!("the {what} {name}"), format!("it is not in {}", places.join(" nor in ")))
        .hint("build it with `./x guest`, or name the folder that has it with RKVM_GUEST")
}

/// How this host's KVM runs guests, without making a machine to find out where the loaded modules say it.
///
/// # Errors
/// The modules do not say it, and no machine can be made.
pub fn kvm_kind(ask: impl FnOnce() -> crate::Result<KvmKind>) -> Result<KvmKind> {
    let loaded = |module: &str| Path::new("/sys/module").join(module).exists();
    match (loaded("kvm_pvm"), loaded("kvm_intel"), loaded("kvm_amd")) {
        (true, false, false) => Ok(KvmKind::Pvm),
        (false, true, false) => Ok(KvmKind::Hardware(Vendor::Intel)),
        (false, false, true) => Ok(KvmKind::Hardware(Vendor::Amd)),
        _ => ask().map_err(|source| Error::failed("use", "/dev/kvm", source)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_named_wins_and_what_is_missing_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let folders = vec![folder.path().join("a"), folder.path().join("b")];
        assert_eq!(search(&folders, "vmlinux-pvm"), None);
        std::fs::create_dir(&folders[1]).unwrap();
        std::fs::write(folders[1].join("vmlinux-pvm"), "").unwrap();
        assert_eq!(search(&folders, "vmlinux-pvm"), Some(folders[1].join("vmlinux-pvm")));
        let error = missing("guest kernel", "vmlinux-plain", &folders).to_string();
        assert!(error.contains("vmlinux-plain") && error.contains("./x guest"), "{error}");
        let given = HashMap::from([KERNEL, INITRD].map(|key| (key.to_owned(), format!("/given/{key}"))));
        let found = find(KvmKind::Pvm, &given).unwrap();
        assert_eq!(found.kernel, Path::new("/given/io.rkvm.vm.kernel"));
    }

    #[test]
    fn a_boot_may_be_given_more_time() {
        let of = |text: &str| boot_timeout(&HashMap::from([(BOOT_TIMEOUT.to_owned(), text.to_owned())]));
        assert_eq!(boot_timeout(&HashMap::new()).unwrap(), Duration::from_secs(30));
        assert_eq!(of("2").unwrap(), Duration::from_secs(2));
        for text in ["", "0", "-1", "3601", "1m"] {
            assert!(of(text).unwrap_err().to_string().contains(BOOT_TIMEOUT), "{text:?}");
        }
    }

    #[test]
    fn a_distribution_kernel_asks_for_its_modules_and_any_other_for_none() {
        let folder = tempfile::tempdir().unwrap();
        let (kernel, initrd) = (folder.path().join("kernel"), folder.path().join("initrd"));
        let mut image = vec![0; 1024];
        image[0x202..0x206].copy_from_slice(b"HdrS");
        image[0x20e..0x210].copy_from_slice(&0x100_u16.to_le_bytes());
        image[0x300..0x310].copy_from_slice(b"9.9-nowhere (x) ");
        std::fs::write(&kernel, &image).unwrap();
        std::fs::write(&initrd, "init").unwrap();
        let mut artifacts = Artifacts {
            kernel,
            initrd,
            cmdline: String::new(),
            foreign_kernel: true,
            kind: KvmKind::Hardware(Vendor::Intel),
        };
        let error = artifacts.open_initramfs().unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(text.contains("/lib/modules/9.9-nowhere/modules.dep"), "{text}");
        artifacts.kind = KvmKind::Pvm;
        let error = artifacts.open_initramfs().unwrap_err();
        let text = format!("{error}: {}", std::error::Error::source(&error).unwrap());
        assert!(text.contains("9.9-nowhere") && text.contains("needs hardware virtualization"), "{text}");
        artifacts.foreign_kernel = false;
        assert!(artifacts.open_initramfs().is_ok());
    }
}
