//! Attributes of the calling process.

use std::ffi::CString;
use std::io;
use std::os::fd::AsRawFd;

use super::check;

/// The three capability sets of capset(2), as bit masks.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CapabilitySets {
    /// Checked by the kernel.
    pub effective: u64,
    /// May be made effective.
    pub permitted: u64,
    /// Kept over execve of a file that inherits them.
    pub inheritable: u64,
}

#[repr(C)]
struct CapHeader {
    version: u32,
    pid: i32,
}

#[repr(C)]
#[derive(Default, Clone, Copy)]
struct CapData {
    effective: u32,
    permitted: u32,
    inheritable: u32,
}

/// _LINUX_CAPABILITY_VERSION_3
const CAP_VERSION_3: u32 = 0x2008_0522;

/// capset(2).
///
/// # Errors
/// A capability that is not permitted would be added.
pub fn set_capabilities(sets: CapabilitySets) -> io::Result<()> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let half = |shift: u32| CapData {
        effective: (sets.effective >> shift) as u32,
        permitted: (sets.permitted >> shift) as u32,
        inheritable: (sets.inheritable >> shift) as u32,
    };
    let data = [half(0), half(32)];
    // SAFETY: version 3 takes a header and two data structures.
    check(unsafe { libc::syscall(libc::SYS_capset, &raw const header, data.as_ptr()) }).map(drop)
}

/// capget(2).
///
/// # Errors
/// None in practice.
pub fn capabilities() -> io::Result<CapabilitySets> {
    let header = CapHeader { version: CAP_VERSION_3, pid: 0 };
    let mut data = [CapData::default(); 2];
    // SAFETY: version 3 takes a header and two data structures.
    check(unsafe { libc::syscall(libc::SYS_capget, &raw const header, data.as_mut_ptr()) })?;
    let join = |low: u32, high: u32| u64::from(low) | u64::from(high) << 32;
    Ok(CapabilitySets {
        effective: join(data[0].effective, data[1].effective),
        permitted: join(data[0].permitted, data[1].permitted),
        inheritable: join(data[0].inheritable, data[1].inheritable),
    })
}

fn prctl(option: libc::c_int, a: u64, b: u64) -> io::Result<libc::c_long> {
    // SAFETY: every option used in this file takes integers only.
    check(libc::c_long::from(unsafe { libc::prctl(option, a, b, 0, 0) }))
}

/// Whether capability number `capability` is in the bounding set; an error when the kernel does not know it.
///
/// # Errors
/// `EINVAL` beyond the kernel's last capability.
pub fn in_bounding_set(capability: u8) -> io::Result<bool> {
    prctl(libc::PR_CAPBSET_READ, u64::from(capability), 0).map(|set| set == 1)
}

/// Drops capability number `capability` from the bounding set.
///
/// # Errors
/// CAP_SETPCAP is missing.
pub fn drop_bounding(capability: u8) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, u64::from(capability), 0).map(drop)
}

/// Drops from the bounding set all that are not in the mask `kept`, by the one call that the kernel of our microVMs has for it.
///
/// # Errors
/// `EINVAL` of every other kernel; CAP_SETPCAP is missing.
pub fn keep_bounding(kept: u64) -> io::Result<()> {
    prctl(libc::PR_CAPBSET_DROP, u64::MAX, kept).map(drop)
}

/// Empties the ambient set.
///
/// # Errors
/// A kernel before 4.3.
pub fn clear_ambient() -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_CLEAR_ALL as u64, 0).map(drop)
}

/// Adds capability number `capability` to the ambient set.
///
/// # Errors
/// It is not both permitted and inheritable.
pub fn raise_ambient(capability: u8) -> io::Result<()> {
    prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE as u64, u64::from(capability)).map(drop)
}

/// Keeps the permitted set over the next change of user id.
///
/// # Errors
/// None in practice.
pub fn keep_capabilities() -> io::Result<()> {
    prctl(libc::PR_SET_KEEPCAPS, 1, 0).map(drop)
}

/// Gives up gaining privileges by execve, for good.
///
/// # Errors
/// None in practice.
pub fn no_new_privileges() -> io::Result<()> {
    prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0).map(drop)
}

/// Closes this process to ptrace(2) and to `/proc/PID/{exe,fd,mem}` for everybody without CAP_SYS_PTRACE over the user namespace that
/// its program was started in.
///
/// # Errors
/// None in practice.
pub fn not_dumpable() -> io::Result<()> {
    prctl(libc::PR_SET_DUMPABLE, 0, 0).map(drop)
}

/// setgroups(2), by system call: the C library's wrapper synchronises threads, of which there are none.
///
/// # Errors
/// CAP_SETGID is missing, or the user namespace denies it.
pub fn set_groups(groups: &[u32]) -> io::Result<()> {
    // SAFETY: pointer and length belong to one slice.
    check(unsafe { libc::syscall(libc::SYS_setgroups, groups.len(), groups.as_ptr()) }).map(drop)
}

/// setresgid(2), all three ids.
///
/// # Errors
/// CAP_SETGID is missing, or the id is not mapped.
pub fn set_gid(gid: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresgid, gid, gid, gid) }).map(drop)
}

/// setresuid(2), all three ids.
///
/// # Errors
/// CAP_SETUID is missing, or the id is not mapped.
pub fn set_uid(uid: u32) -> io::Result<()> {
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_setresuid, uid, uid, uid) }).map(drop)
}

/// umask(2); returns the mask before.
pub fn set_umask(mask: u32) -> u32 {
    // SAFETY: cannot fail.
    unsafe { libc::umask(mask as libc::mode_t) }
}

/// prlimit(2) on process `pid` (0: the caller).
///
/// # Errors
/// `EPERM` when the hard limit would be raised without CAP_SYS_RESOURCE.
pub fn set_rlimit(pid: i32, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    // SAFETY: reads one rlimit; the old value is not asked for.
    check(libc::c_long::from(unsafe {
        libc::prlimit(pid, resource as _, &raw const limit, std::ptr::null_mut())
    }))
    .map(drop)
}

/// getrlimit(2): soft and hard limit of the caller.
///
/// # Errors
/// None in practice.
pub fn rlimit(resource: u32) -> io::Result<(u64, u64)> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    // SAFETY: writes one rlimit.
    check(libc::c_long::from(unsafe { libc::getrlimit(resource as _, &raw mut limit) }))?;
    Ok((limit.rlim_cur, limit.rlim_max))
}

/// personality(2).
///
/// # Errors
/// The kernel does not know it.
pub fn set_personality(value: u64) -> io::Result<()> {
    // SAFETY: no pointers.
    check(libc::c_long::from(unsafe { libc::personality(value) })).map(drop)
}

/// ioprio_set(2) on the caller: class (1 real time, 2 best effort, 3 idle) and level 0 to 7.
///
/// # Errors
/// The class needs CAP_SYS_ADMIN or CAP_SYS_NICE.
pub fn set_io_priority(class: u32, level: u32) -> io::Result<()> {
    const WHO_PROCESS: libc::c_int = 1;
    const CLASS_SHIFT: u32 = 13;
    // SAFETY: no pointers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, WHO_PROCESS, 0, class << CLASS_SHIFT | level) })
        .map(drop)
}

/// `struct sched_attr` of sched_setattr(2), version 1.
#[repr(C)]
#[derive(Debug, Default, Clone, Copy)]
pub struct SchedAttr {
    /// Size of this structure, bytes; [`set_scheduler`] fills it in.
    pub size: u32,
    /// SCHED_OTHER and so on.
    pub policy: u32,
    /// SCHED_FLAG_*.
    pub flags: u64,
    /// Nice value, -20 to 19.
    pub nice: i32,
    /// Real-time priority, 1 to 99.
    pub priority: u32,
    /// SCHED_DEADLINE, nanoseconds.
    pub runtime: u64,
    /// SCHED_DEADLINE, nanoseconds.
    pub deadline: u64,
    /// SCHED_DEADLINE, nanoseconds.
    pub period: u64,
    /// Utilisation clamp, 0 to 1024.
    pub util_min: u32,
    /// Utilisation clamp, 0 to 1024.
    pub util_max: u32,
}

/// sched_setattr(2) on the caller.
///
/// # Errors
/// The policy needs CAP_SYS_NICE, or a parameter is out of range.
pub fn set_scheduler(mut attributes: SchedAttr) -> io::Result<()> {
    attributes.size = size_of::<SchedAttr>() as u32;
    // SAFETY: the structure says its own size.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, &raw const attributes, 0) }).map(drop)
}

/// set_mempolicy(2) on the caller: `mode` with its flags, `nodes` as a bit mask of any length.
///
/// # Errors
/// The mode is unknown or a node does not exist.
pub fn set_memory_policy(mode: i32, nodes: &[u64]) -> io::Result<()> {
    let (pointer, bits) = if nodes.is_empty() {
        (std::ptr::null(), 0)
    } else {
        // The kernel reads one bit less than it is told.
        (nodes.as_ptr(), nodes.len() * 64 + 1)
    };
    // SAFETY: pointer and length belong to one slice.
    check(unsafe { libc::syscall(libc::SYS_set_mempolicy, mode, pointer, bits) }).map(drop)
}

/// sched_setaffinity(2) on process `pid` (0: the caller), `cpus` as a bit mask of any length.
///
/// # Errors
/// No CPU of the mask exists or is allowed by the cpuset.
pub fn set_affinity(pid: i32, cpus: &[u64]) -> io::Result<()> {
    // SAFETY: pointer and length in bytes belong to one slice.
    check(unsafe { libc::syscall(libc::SYS_sched_setaffinity, pid, size_of_val(cpus), cpus.as_ptr()) })
        .map(drop)
}

/// Joins a new session keyring with this name (keyctl(2), `KEYCTL_JOIN_SESSION_KEYRING`).
///
/// # Errors
/// `ENOSYS` without keyrings in the kernel; a quota of keys is used up.
pub fn new_session_keyring(name: &str) -> io::Result<()> {
    let name = super::c_string(name)?;
    const KEYCTL_JOIN_SESSION_KEYRING: libc::c_int = 1;
    // SAFETY: the name is NUL-terminated.
    check(unsafe { libc::syscall(libc::SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, name.as_ptr()) }).map(drop)
}

/// execveat(2) of the file itself or execve(2) of `path`; returns only when it failed.
pub fn execve(path: &CString, arguments: &[CString], environment: &[CString]) -> io::Error {
    let pointers = |strings: &[CString]| -> Vec<*const libc::c_char> {
        strings.iter().map(|text| text.as_ptr()).chain([std::ptr::null()]).collect()
    };
    let (arguments, environment) = (pointers(arguments), pointers(environment));
    // SAFETY: path and both arrays are NUL-terminated and outlive the call.
    unsafe { libc::execve(path.as_ptr(), arguments.as_ptr(), environment.as_ptr()) };
    io::Error::last_os_error()
}

/// Every signal has its default action and none is blocked, as a new program expects: Rust ignores SIGPIPE, and the
/// caller may have blocked or ignored others.
pub fn reset_signals() {
    for signal in 1..=64 {
        // SAFETY: the default handler; the call only fails for signals that cannot be changed.
        unsafe { libc::signal(signal, libc::SIG_DFL) };
    }
    unblock_signals();
}

/// As [`reset_signals`], for the children of a program that has no handlers of its own and ignores nothing but what the Rust runtime
/// ignores: execve resets the runtime's handlers, so one call does for sixty-four. In a PVM guest they would take 14 ms.
pub fn reset_runtime_signals() {
    // SAFETY: as in `reset_signals`.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_DFL) };
    unblock_signals();
}

fn unblock_signals() {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut none: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&raw mut none);
        libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
    }
}

/// Brings network interface `lo` of the caller's network namespace up.
///
/// # Errors
/// CAP_NET_ADMIN over the namespace is missing.
pub fn loopback_up() -> io::Result<()> {
    // SAFETY: a plain socket; the descriptor is owned below.
    let socket = check(libc::c_long::from(unsafe {
        libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0)
    }))?;
    // SAFETY: the kernel has just given us this descriptor.
    let socket = unsafe { <std::os::fd::OwnedFd as std::os::fd::FromRawFd>::from_raw_fd(socket as i32) };
    // SAFETY: ifreq is plain data for which zero is valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq.
    check(libc::c_long::from(unsafe {
        libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request)
    }))
    .map(drop)
}

/// setdomainname(2).
///
/// # Errors
/// The name is longer than 64 bytes, or CAP_SYS_ADMIN over the uts namespace is missing.
pub fn set_domain_name(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length belong to one string.
    check(unsafe { libc::syscall(libc::SYS_setdomainname, name.as_ptr(), name.len()) }).map(drop)
}
