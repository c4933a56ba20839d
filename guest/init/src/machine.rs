//! The machine as a whole: first mounts, cgroups, power.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rkvm_guest_protocol::{Own, marker};
use rkvm_oci::{Error, Result};

use crate::sys;

/// Modules of the kernel, if it needs any (vmm/src/initramfs/modules.rs).
const MODULES: &str = "/modules";
const PROCESSORS: &str = "/sys/devices/system/cpu";
const CGROUPS: &str = "/sys/fs/cgroup";
/// The cgroup of a container that does not see its name, below [`CGROUPS`]: made before the machine is recorded.
pub const CONTAINERS_CGROUP: &str = "/container";
/// Which clock the kernel goes by.
const CLOCK: &str = "/sys/devices/system/clocksource/clocksource0/current_clocksource";
/// The one that goes on where it was in a machine that goes on from a template: KVM is told what it shows.
const KVM_CLOCK: &str = "kvm-clock";
/// The one that is read fastest. On some hosts (PVM) guests see the processor's own, which nobody can set.
const COUNTER: &str = "tsc";
/// What every file system of init is mounted with.
const STRICT: u64 = libc::MS_NOSUID | libc::MS_NODEV | libc::MS_NOEXEC;

/// Mounts /dev, which the marker and the devices of the container need, before anything else.
///
/// # Errors
/// The kernel lacks the file system.
pub fn first_mounts() -> Result<()> {
    mount("devtmpfs", "/dev", libc::MS_NOSUID | libc::MS_NOEXEC, "mode=0755")
}

/// Loads the modules that the VMM has put into the initramfs for a distribution's kernel, in the order of their names.
///
/// # Errors
/// One does not fit the kernel.
pub fn load_modules() -> Result<()> {
    let Ok(folder) = fs::read_dir(MODULES) else { return Ok(()) };
    let mut paths: Vec<PathBuf> = folder.flatten().map(|entry| entry.path()).collect();
    paths.sort();
    for path in paths {
        let packed = path.extension().is_some_and(|suffix| suffix != "ko");
        let loaded = fs::File::open(&path).and_then(|file| sys::load_module(&file, packed));
        match loaded {
            Err(error) if error.raw_os_error() != Some(libc::EEXIST) => {
                return Err(Error::failed("load the module", path.display(), error));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Mounts what init needs to make a container, and puts a mount under everything that can be pivoted away from: the initramfs itself
/// cannot, and a container that only had its root moved could leave it with a second chroot(2).
///
/// # Errors
/// The kernel lacks a file system.
pub fn further_mounts() -> Result<()> {
    mount("proc", "/proc", STRICT, "")?;
    mount("sysfs", "/sys", STRICT, "")?;
    mount("cgroup2", CGROUPS, STRICT, "")?;
    rkvm_cgroup::offer_controllers(Path::new(CGROUPS))?;
    let container = format!("{CGROUPS}{CONTAINERS_CGROUP}");
    fs::create_dir(&container).map_err(|source| Error::failed("make cgroup", &container, source))?;
    mount("tmpfs", "/run", libc::MS_NOSUID | libc::MS_NODEV, "mode=0755")?;
    sys::cover_root().map_err(|source| Error::failed("put a mount under", "/", source))
}

/// Has the kernel go by a clock that can be set: to be called before the machine becomes a template. Whether it does.
pub fn take_settable_clock() -> bool {
    fs::write(CLOCK, KVM_CLOCK).is_ok()
}

/// Becomes another machine than those that go on from the same template.
///
/// # Errors
/// The kernel does not take the seed or the time.
pub fn become_own(own: &Own) -> Result<()> {
    sys::seed(&own.seed).map_err(|source| Error::failed("seed", "the random numbers", source))?;
    if own.behind != 0 {
        sys::shift_time(own.behind).map_err(|source| Error::failed("set", "the time of day", source))?;
    }
    // Without it the clock is only slower to read.
    let _ = fs::write(CLOCK, COUNTER);
    Ok(())
}

/// Processors that are being started, in a process of their own: each takes the kernel milliseconds, and the machine can be set up
/// meanwhile.
pub struct Processors(Option<i32>);

impl Processors {
    /// Begins to start every processor that the kernel has not: the VMM lets it start one, so that it boots faster.
    ///
    /// # Errors
    /// No process can be made.
    pub fn start() -> Result<Self> {
        let paths: Vec<PathBuf> = (1..)
            .map(|index| Path::new(PROCESSORS).join(format!("cpu{index}/online")))
            .take_while(|path| path.exists())
            .collect();
        if paths.is_empty() {
            return Ok(Self(None));
        }
        let start = move || paths.iter().all(|path| fs::write(path, "1").is_ok());
        let pid = sys::spawn(start).map_err(|source| Error::failed("start", "the processors", source))?;
        Ok(Self(Some(pid)))
    }

    /// Waits until they run.
    ///
    /// # Errors
    /// One does not start.
    pub fn wait(self) -> Result<()> {
        let failed = |source| Error::failed("start", "every processor", source);
        match self.0.map(sys::wait_for).transpose().map_err(failed)? {
            Some(false) => Err(failed(io::Error::from_raw_os_error(libc::EIO))
                .hint("the host may have too few processors free: give the machine fewer with --cpus")),
            _ => Ok(()),
        }
    }
}

fn mount(kind: &str, target: &str, flags: u64, data: &str) -> Result<()> {
    let failed = |source: io::Error| Error::failed("mount", target, source);
    let mount = || sys::mount(kind, Path::new(target), kind, flags, data);
    let mounted = match mount() {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(target).map_err(failed)?;
            mount()
        }
        other => other,
    };
    match mounted {
        // The kernel may have mounted /dev already.
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Ok(()),
        other => other.map_err(failed),
    }
}

/// Says why the machine ends on the console, the last way to say anything, and waits until the console has sent it: a serial line sends
/// what it has when its interrupts come, which after [`power_off`] they do not.
pub fn tell(reason: &str) {
    eprintln!("rkvm-init: {reason}");
    sys::drain_console();
}

/// Ends the machine. What is to be written has been ([`crate::root::take_apart`]).
pub fn power_off() -> ! {
    sys::Marker::open().mark(marker::POWER_OFF);
    // Where nothing listens to the marker port (a run of this kernel in another machine).
    sys::reboot()
}
