//! File system device (virtio 1.2, section 5.11): a folder of the host in the guest.
//!
//! The FUSE protocol and the file server are virtiofsd's library; what is ours is the way to it: queues, threads, the checks that
//! the library leaves to its surroundings (`confined`), and limits on what a guest can make it do (`request`).
//!
//! # What users of a guest see
//! - A change on the host shows when a file is opened next, and in names and attributes after a second; a change in the guest is
//!   on the host at once (stores to a shared mapping after `msync` or when the kernel writes them back). inotify in the guest reports the
//!   guest's changes only.
//! - Locks (`flock`, `fcntl`) and named pipes are between processes of the guest: neither the host nor another guest takes part, and
//!   whoever waits for one waits in the guest's kernel, not in a thread here.
//! - No `O_TMPFILE` (EOPNOTSUPP; programs fall back to named files), no POSIX access control lists (EOPNOTSUPP), no device nodes
//!   (EPERM) but overlayfs' whiteouts; `O_DIRECT` bypasses the guest's page cache, not the host's.
//! - Each file that the guest's kernel remembers is a descriptor here: when the process's limit (`ulimit -n`, up to a million) is
//!   reached, new files are refused with ENFILE until the guest forgets some. A guest under memory pressure does so by itself.
//! - A jail in a user namespace writes as that namespace's root: a write to a set-user-id program takes the bit away even when the guest's
//!   root writes, as in a container.
//!
//! # Threads
//! [`WORKERS`] threads `fs-0`, `fs-1`, ... serve all queues, each one request at a time, so that a request that waits for the
//! host's storage (`fsync`, a file of a dead server) holds up neither the vCPUs nor the other devices nor, until all threads wait, other
//! requests. They are started before the guest can reach the device and live as long as the device: resetting it only ends a session.
//!
//! A thread first leaves the process's working directory and umask (`unshare(CLONE_FS)`, `umask`), and is then confined as
//! [`ThreadKind::FileServer`]. It takes on the user and group of the guest's process
//! while it makes a file, and so needs the capabilities `CHOWN`, `DAC_OVERRIDE`, `DAC_READ_SEARCH`, `FOWNER`, `FSETID`, `SETFCAP`,
//! `SETGID` and `SETUID` over the ids of the shared files, and no other. Its system calls:
//! - files: `openat` `openat2` `close` `dup` `preadv2` `pwritev2` `lseek` `getdents64` `statx` `newfstatat` `fstat` `fstatfs`
//!   `readlinkat` `mkdirat` `mknodat` `unlinkat` `renameat2` `linkat` `symlinkat` `fchmod` `fchmodat` `fchownat`
//!   `ftruncate` `utimensat` `fallocate` `fsync` `fdatasync` `syncfs` `copy_file_range` `fchdir` `fcntl` `{f,l,}{get,set,list,remove}xattr`
//! - credentials: `geteuid` `getegid` `setresuid` `setresgid` `setgroups` `capget` `capset`
//! - the rest: `epoll_create1` `epoll_ctl` `epoll_wait` `epoll_pwait` `read` `write` (event descriptors) `futex` `mmap` `munmap`
//!   `mremap` `mprotect` `brk` `madvise` `rt_sigprocmask` `sigaltstack` `rseq` `set_robust_list` `sched_getaffinity` `prctl` `gettid`
//!   `getpid` `clock_gettime` `exit`

mod confined;
mod pool;
mod privileges;
mod request;
mod session;
mod stamps;
mod sys;

use std::fs::File;
use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use event_manager::{EventOps, Events, MutEventSubscriber};
use virtio_bindings::virtio_ids::VIRTIO_ID_FS;
use virtio_bindings::virtio_ring::VIRTIO_RING_F_INDIRECT_DESC;
use virtiofsd::passthrough::{self, CachePolicy, InodeFileHandlesMode, PassthroughFs};

use super::{Activation, FEATURE_EVENT_IDX, FEATURE_VERSION_1, Handler, VirtioDevice, Works};
use crate::error::{Error, Result};
use crate::vm::{ThreadKind, ThreadSetup};
use confined::Confined;
use pool::Pool;
use session::Session;

/// The name by which the guest mounts the folder: `mount -t virtiofs rkvm /mnt`.
pub const TAG: &str = "rkvm";
/// Threads that serve requests.
pub const WORKERS: usize = 4;
/// How long the guest may answer from its cache which file a name is, and what its attributes are. The price of a change on the host
/// that shows late against that of a request for every step of every path. A file's content is checked whenever it is opened.
const METADATA_TTL: Duration = Duration::from_secs(1);
/// How long a reset waits for requests that have begun: the driver may use their memory for something else afterwards.
const QUIET_LIMIT: Duration = Duration::from_secs(5);
/// Descriptors that are left to the VMM itself.
const RESERVED_DESCRIPTORS: u64 = 128;

/// A folder for the guest.
#[derive(Debug, Clone)]
pub struct Share {
    /// The folder. In the jail it is `/`, and what is mounted below it appears in the guest as file systems of their own.
    pub root: PathBuf,
    /// `/proc/self/fd` of this process, opened with `O_PATH`, for a process whose root has no `/proc`; opened by path if not given.
    pub proc_self_fd: Option<Arc<File>>,
}

/// The device.
#[derive(Debug)]
pub struct Fs {
    config: [u8; CONFIG_BYTES],
    pool: Pool,
}

/// `struct virtio_fs_config`: tag, number of request queues.
const CONFIG_BYTES: usize = TAG_BYTES + 4;
const TAG_BYTES: usize = 36;

impl Fs {
    /// A device that shares `share`. The process may have as many open files as its limits allow from here on.
    ///
    /// # Errors
    /// `/proc/self/fd` or the working directory cannot be opened.
    pub fn open(share: &Share) -> Result<Self> {
        let pool = Pool::new(Confined::new(serve(share).map_err(Error::os("start the file server"))?));
        let mut config = [0; CONFIG_BYTES];
        config[..TAG.len()].copy_from_slice(TAG.as_bytes());
        config[TAG_BYTES..].copy_from_slice(&1_u32.to_le_bytes());
        Ok(Self { config, pool })
    }
}

/// A file server for `share`.
fn serve(share: &Share) -> io::Result<PassthroughFs> {
    let root = share.root.to_str().ok_or(io::ErrorKind::InvalidFilename)?;
    let proc_self_fd = share.proc_self_fd.as_ref().map(|file| file.try_clone()).transpose()?;
    let descriptors = sys::raise_descriptor_limit()?;
    let config = passthrough::Config {
        entry_timeout: METADATA_TTL,
        attr_timeout: METADATA_TTL,
        // The guest keeps what it has read; `Confined` says at each open whether it is still right.
        cache_policy: CachePolicy::Auto,
        writeback: false,
        root_dir: root.to_owned(),
        xattr: true,
        proc_sfd_rawfd: proc_self_fd,
        announce_submounts: true,
        // File handles need a capability over the whole host.
        inode_file_handles: InodeFileHandlesMode::Never,
        readdirplus: true,
        killpriv_v2: true,
        guest_fd_limit: descriptors.saturating_sub(RESERVED_DESCRIPTORS),
        ..passthrough::Config::default()
    };
    sys::keep_umask(|| PassthroughFs::new(config))
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> u32 {
        VIRTIO_ID_FS
    }

    fn queue_sizes(&self) -> &[u16] {
        // High priority, requests. Linux asks for at most as many pages at once as the request queue has descriptors.
        &[128, 1024]
    }

    fn features(&self) -> u64 {
        FEATURE_VERSION_1 | FEATURE_EVENT_IDX | 1 << VIRTIO_RING_F_INDIRECT_DESC
    }

    fn config(&self) -> &[u8] {
        &self.config
    }

    fn works(&self) -> Works {
        Works::WhenAsked
    }

    fn start(&mut self, setup: &ThreadSetup) -> Result<()> {
        let setup = setup.clone();
        self.pool
            .start(WORKERS, move || match sys::leave_process_directory() {
                Ok(()) => setup.call(ThreadKind::FileServer),
                Err(error) => {
                    setup.fail("take a thread of the file server out of the process's folder", &error)
                }
            })
            .map_err(Error::os("start the threads of the file server"))
    }

    fn activate(&mut self, activation: Activation) -> Result<Handler> {
        let session = Arc::new(Session::new(activation)?);
        self.pool.serve(Arc::clone(&session));
        Ok(Box::new(FsHandler { session }))
    }
}

/// Ends the session when the driver resets the device. Does nothing on the event loop: the queues are the threads'.
#[derive(Debug)]
struct FsHandler {
    session: Arc<Session>,
}

impl MutEventSubscriber for FsHandler {
    fn init(&mut self, _ops: &mut EventOps<'_>) {}

    fn process(&mut self, _events: Events, _ops: &mut EventOps<'_>) {}
}

impl Drop for FsHandler {
    fn drop(&mut self) {
        self.session.end();
        self.session.wait_quiet(QUIET_LIMIT);
    }
}

#[cfg(test)]
mod tests;
