//! Isolation backend: namespaces, cgroups, capabilities and seccomp.

mod create;
mod exec;
#[cfg(feature = "seccomp-compiler")]
mod features;
mod init;
mod memory_policy;
mod mounts;
mod process;
mod sync;
mod validate;
mod workload;

use std::path::Path;

use oci_spec::runtime::Features;
use rkvm_oci::{
    Backend, Bundle, CreateRequest, Isolation, Kernel, LinkForm, Needs, Record, Result, RootfsForm, Workload,
};

pub use init::kernel::sysctl_path;
use workload::Container;

/// The container backend.
#[derive(Debug, Default)]
pub struct ContainerBackend {
    binary: Binary,
}

/// What keeps a container's processes from writing to the file that this program is executed from (CVE-2019-5736).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Binary {
    /// Nothing does: a process lets go of it before it enters the container.
    #[default]
    LetGo,
    /// It is executed outside of the container as long as the container lives (the init of a machine), and a file that is executed
    /// cannot be written.
    InUse,
}

impl ContainerBackend {
    /// The backend; nothing is done on the host until it is used.
    pub fn new() -> Self {
        Self::default()
    }

    /// The backend inside a process that outlives its containers.
    pub fn with_binary(binary: Binary) -> Self {
        Self { binary }
    }
}

impl Backend for ContainerBackend {
    fn isolation(&self) -> Isolation {
        Isolation::Container
    }

    fn check_host(&self) -> Result<()> {
        // mount_setattr(2) is the newest call that is used unconditionally.
        if rkvm_linux::sys::mount::is_supported() {
            return Ok(());
        }
        Err(rkvm_oci::Error::unsupported("this host's kernel", "containers need Linux 5.12 or newer"))
    }

    fn needs(&self) -> Needs {
        Needs { rootfs: RootfsForm::Mounted, link: LinkForm::Veth, kernel: Kernel::Host }
    }

    #[cfg(feature = "seccomp-compiler")]
    fn features(&self) -> Features {
        features::features()
    }

    #[cfg(not(feature = "seccomp-compiler"))]
    fn features(&self) -> Features {
        Features::default()
    }

    fn create(&self, request: CreateRequest<'_>) -> Result<Box<dyn Workload>> {
        let (id, bundle, state_dir) = (request.id, request.bundle, request.state_dir);
        let created = create::create(request, self.binary)?;
        Ok(Box::new(Container::created(id, &bundle.path, state_dir, created, self.binary)))
    }

    fn clean(&self, id: &str, bundle: &Bundle) -> Result<()> {
        // Its processes are in its cgroup, or wait for a runtime that is gone and end by themselves.
        let path = bundle.spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref());
        let Some(cgroup) = rkvm_cgroup::Cgroup::locate(path, id)? else { return Ok(()) };
        cgroup.kill_all()?;
        cgroup.remove()
    }

    fn open(&self, record: &Record, state_dir: &Path) -> Result<Box<dyn Workload>> {
        Ok(Box::new(Container::open(record, state_dir, self.binary)?))
    }
}

/// A pidfd of process `pid`.
///
/// # Errors
/// There is no such process.
pub fn pidfd(pid: i32) -> std::io::Result<std::os::fd::OwnedFd> {
    rkvm_linux::sys::spawn::pidfd_open(pid)
}

/// Receives the descriptor that comes over a socket (SCM_RIGHTS), such as a terminal's master.
///
/// # Errors
/// The socket is closed, or the message has no descriptor.
pub fn receive_fd(socket: std::os::fd::BorrowedFd<'_>) -> std::io::Result<std::os::fd::OwnedFd> {
    rkvm_linux::sys::fs::receive(socket)
}

/// Gives a terminal the size of another.
///
/// # Errors
/// One of the two is no terminal.
pub fn copy_terminal_size(
    from: std::os::fd::BorrowedFd<'_>,
    to: std::os::fd::BorrowedFd<'_>,
) -> std::io::Result<()> {
    let (rows, columns) = rkvm_linux::sys::pty::size(from)?;
    rkvm_linux::sys::pty::set_size(to, rows, columns)
}
