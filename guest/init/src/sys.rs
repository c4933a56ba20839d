//! The system calls that std has no function for.

use std::ffi::{CStr, CString};
use std::io;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;
use std::ptr;

use rkvm_guest_protocol::{Rlimit, User, WindowSize};

/// I/O port of the machine's boot marker.
const MARKER_PORT: libc::off_t = 0x5b0;
const LAST_CAPABILITY: u32 = 40;
const CAPABILITY_VERSION_3: u32 = 0x2008_0522;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

fn owned(result: libc::c_int) -> io::Result<OwnedFd> {
    // SAFETY: the call that gave `result` has just made this descriptor, so nobody else owns it.
    check(result).map(|descriptor| unsafe { OwnedFd::from_raw_fd(descriptor) })
}

fn c_path(path: &Path) -> io::Result<CString> {
    CString::new(path.as_os_str().as_encoded_bytes()).map_err(|_| io::ErrorKind::InvalidInput.into())
}

/// Writes `value` to the boot marker port; nothing where there is no such port.
pub fn mark(value: u8) {
    // SAFETY: ioperm and the port write have no memory operands. Without the permission the write would be a fault, so it is made
    // only with it.
    unsafe {
        if libc::ioperm(MARKER_PORT as libc::c_ulong, 1, 1) == 0 {
            std::arch::asm!("out dx, al", in("dx") MARKER_PORT as u16, in("al") value, options(nomem, nostack, preserves_flags));
        }
    }
}

pub fn sync() {
    // SAFETY: no arguments.
    unsafe { libc::sync() }
}

pub fn reboot() -> ! {
    loop {
        // SAFETY: no pointer is passed.
        unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    }
}

pub fn exit(code: i32) -> ! {
    // SAFETY: ends this process without running what the parent has registered.
    unsafe { libc::_exit(code) }
}

pub fn mount(source: &str, target: &Path, kind: &str, flags: u64, data: &str) -> io::Result<()> {
    let (source, kind, data) = (CString::new(source)?, CString::new(kind)?, CString::new(data)?);
    let target = c_path(target)?;
    // SAFETY: four strings that live through the call.
    check(unsafe {
        libc::mount(source.as_ptr(), target.as_ptr(), kind.as_ptr(), flags, data.as_ptr().cast())
    })
    .map(drop)
}

fn remount(path: &Path, flags: u64) -> io::Result<()> {
    let path = c_path(path)?;
    // SAFETY: one string that lives through the call; the others may be null with these flags.
    check(unsafe { libc::mount(ptr::null(), path.as_ptr(), ptr::null(), flags, ptr::null()) }).map(drop)
}

/// Keeps mounts from spreading to init's namespace.
pub fn mount_private() -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS | libc::CLONE_NEWIPC) })?;
    remount(Path::new("/"), libc::MS_REC | libc::MS_PRIVATE)
}

pub fn unshare_cgroup() -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWCGROUP) }).map(drop)
}

/// Processes that are forked from now on have a process id namespace of their own; the first of them is its PID 1.
pub fn unshare_pids() -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::unshare(libc::CLONE_NEWPID) }).map(drop)
}

/// Makes `root`, a mount point, the root of this mount namespace. Works from the initramfs too, which cannot be pivoted away from.
pub fn pivot_root(root: &Path) -> io::Result<()> {
    std::env::set_current_dir(root)?;
    let (here, top) = (c".", c"/");
    // SAFETY: two strings that live through the call.
    check(unsafe { libc::mount(here.as_ptr(), top.as_ptr(), ptr::null(), libc::MS_MOVE, ptr::null()) })?;
    // SAFETY: a string that lives through the call.
    check(unsafe { libc::chroot(here.as_ptr()) })?;
    std::env::set_current_dir("/")
}

/// Binds `path` onto itself, read-only.
pub fn make_readonly(path: &Path) -> io::Result<()> {
    std::fs::symlink_metadata(path)?;
    let c = c_path(path)?;
    let flags = libc::MS_BIND | libc::MS_REC;
    // SAFETY: strings that live through the call.
    check(unsafe { libc::mount(c.as_ptr(), c.as_ptr(), ptr::null(), flags, ptr::null()) })?;
    remount(path, libc::MS_REMOUNT | libc::MS_BIND | libc::MS_RDONLY)
}

/// Hides `path`: an empty folder or /dev/null in its place.
pub fn mask(path: &Path) -> io::Result<()> {
    if std::fs::metadata(path)?.is_dir() {
        return mount("tmpfs", path, "tmpfs", libc::MS_RDONLY, "size=0k");
    }
    let (null, target) = (c"/dev/null", c_path(path)?);
    // SAFETY: strings that live through the call.
    check(unsafe { libc::mount(null.as_ptr(), target.as_ptr(), ptr::null(), libc::MS_BIND, ptr::null()) })
        .map(drop)
}

pub fn set_hostname(name: &str) -> io::Result<()> {
    // SAFETY: pointer and length are those of one string.
    check(unsafe { libc::sethostname(name.as_ptr().cast(), name.len()) }).map(drop)
}

fn inet_socket() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    owned(unsafe { libc::socket(libc::AF_INET, libc::SOCK_DGRAM | libc::SOCK_CLOEXEC, 0) })
}

fn request(link: &str) -> libc::ifreq {
    // SAFETY: all zeros are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().take(libc::IFNAMSIZ - 1).zip(link.bytes()) {
        *to = from as libc::c_char;
    }
    request
}

fn socket_address(address: Ipv4Addr) -> libc::sockaddr {
    let inet = libc::sockaddr_in {
        sin_family: libc::AF_INET as libc::sa_family_t,
        sin_port: 0,
        sin_addr: libc::in_addr { s_addr: u32::from(address).to_be() },
        sin_zero: [0; 8],
    };
    // SAFETY: both are plain data of sixteen bytes.
    unsafe { std::mem::transmute(inet) }
}

pub fn link_up(link: &str) -> io::Result<()> {
    let socket = inet_socket()?;
    let mut request = request(link);
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the ioctl reads one ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS as _, &raw const request) }).map(drop)
}

pub fn set_address(link: &str, address: Ipv4Addr, prefix: u8) -> io::Result<()> {
    let socket = inet_socket()?;
    let mask = u32::MAX.checked_shl(32 - u32::from(prefix.min(32))).unwrap_or(0);
    for (code, value) in [(libc::SIOCSIFADDR, address), (libc::SIOCSIFNETMASK, Ipv4Addr::from(mask))] {
        let mut request = request(link);
        request.ifr_ifru.ifru_addr = socket_address(value);
        // SAFETY: the ioctl reads one ifreq.
        check(unsafe { libc::ioctl(socket.as_raw_fd(), code as _, &raw const request) })?;
    }
    Ok(())
}

pub fn add_default_route(gateway: Ipv4Addr) -> io::Result<()> {
    let socket = inet_socket()?;
    // SAFETY: all zeros are a valid rtentry.
    let mut route: libc::rtentry = unsafe { std::mem::zeroed() };
    route.rt_dst = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_genmask = socket_address(Ipv4Addr::UNSPECIFIED);
    route.rt_gateway = socket_address(gateway);
    route.rt_flags = libc::RTF_UP | libc::RTF_GATEWAY;
    // SAFETY: the ioctl reads one rtentry.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCADDRT as _, &raw const route) }).map(drop)
}

fn vsock() -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    owned(unsafe { libc::socket(libc::AF_VSOCK, libc::SOCK_STREAM | libc::SOCK_CLOEXEC, 0) })
}

fn vsock_address(cid: u32, port: u32) -> libc::sockaddr_vm {
    // SAFETY: all zeros are a valid sockaddr_vm.
    let mut address: libc::sockaddr_vm = unsafe { std::mem::zeroed() };
    (address.svm_family, address.svm_cid, address.svm_port) =
        (libc::AF_VSOCK as libc::sa_family_t, cid, port);
    address
}

const VSOCK_ADDRESS_BYTES: libc::socklen_t = size_of::<libc::sockaddr_vm>() as libc::socklen_t;

/// A stream to the host's `port`.
pub fn connect_to_host(port: u32) -> io::Result<OwnedFd> {
    let socket = vsock()?;
    let address = vsock_address(libc::VMADDR_CID_HOST, port);
    // SAFETY: address and length are those of one sockaddr_vm.
    check(unsafe { libc::connect(socket.as_raw_fd(), (&raw const address).cast(), VSOCK_ADDRESS_BYTES) })?;
    set_non_blocking(&socket)?;
    Ok(socket)
}

/// Listens for the host on `port`.
pub fn listen(port: u32) -> io::Result<OwnedFd> {
    let socket = vsock()?;
    let address = vsock_address(libc::VMADDR_CID_ANY, port);
    // SAFETY: address and length are those of one sockaddr_vm.
    check(unsafe { libc::bind(socket.as_raw_fd(), (&raw const address).cast(), VSOCK_ADDRESS_BYTES) })?;
    // SAFETY: no pointer is passed.
    check(unsafe { libc::listen(socket.as_raw_fd(), 64) })?;
    set_non_blocking(&socket)?;
    Ok(socket)
}

/// Accepts a stream; its peer's context id comes with it, because a program inside the machine can connect here too.
pub fn accept(listener: &OwnedFd) -> io::Result<(OwnedFd, u32)> {
    let mut address = vsock_address(0, 0);
    let mut length = VSOCK_ADDRESS_BYTES;
    let flags = libc::SOCK_CLOEXEC | libc::SOCK_NONBLOCK;
    // SAFETY: the kernel writes at most `length` bytes of the address.
    let stream = owned(unsafe {
        libc::accept4(listener.as_raw_fd(), (&raw mut address).cast(), &raw mut length, flags)
    })?;
    Ok((stream, address.svm_cid))
}

pub fn set_non_blocking(descriptor: &OwnedFd) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    let flags = check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_GETFL) })?;
    // SAFETY: no pointer is passed.
    check(unsafe { libc::fcntl(descriptor.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// A pipe, close-on-exec: (read end, write end).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((owned(ends[0])?, owned(ends[1])?))
}

/// A terminal: (master, slave).
pub fn open_terminal() -> io::Result<(OwnedFd, OwnedFd)> {
    let (mut master, mut slave) = (0, 0);
    // SAFETY: the call writes two descriptors; the other pointers may be null.
    check(unsafe {
        libc::openpty(&raw mut master, &raw mut slave, ptr::null_mut(), ptr::null(), ptr::null())
    })?;
    let pair = (owned(master)?, owned(slave)?);
    for end in [&pair.0, &pair.1] {
        // SAFETY: no pointer is passed.
        check(unsafe { libc::fcntl(end.as_raw_fd(), libc::F_SETFD, libc::FD_CLOEXEC) })?;
    }
    Ok(pair)
}

pub fn resize(terminal: &impl AsRawFd, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
}

/// Makes `slave` the controlling terminal and the standard streams.
pub fn take_terminal(slave: &OwnedFd) -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::setsid() })?;
    // SAFETY: this ioctl takes its argument by value.
    check(unsafe { libc::ioctl(slave.as_raw_fd(), libc::TIOCSCTTY, 0) })?;
    (0..3).try_for_each(|number| duplicate(slave, number))
}

pub fn duplicate(from: &OwnedFd, to: RawFd) -> io::Result<()> {
    // SAFETY: no pointer is passed; 0 to 2 are owned by nobody here.
    check(unsafe { libc::dup2(from.as_raw_fd(), to) }).map(drop)
}

/// Blocks SIGCHLD and gives a descriptor that tells of it.
pub fn child_signals() -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised before it is used.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        libc::sigaddset(&raw mut set, libc::SIGCHLD);
        check(libc::sigprocmask(libc::SIG_BLOCK, &raw const set, ptr::null_mut()))?;
        owned(libc::signalfd(-1, &raw const set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK))
    }
}

/// Undoes what a new program must not inherit: blocked and ignored signals.
pub fn reset_signals() -> io::Result<()> {
    // SAFETY: the set is initialised before it is used; default actions are valid for every signal that they are set for.
    unsafe {
        let mut set = std::mem::zeroed();
        libc::sigemptyset(&raw mut set);
        check(libc::sigprocmask(libc::SIG_SETMASK, &raw const set, ptr::null_mut()))?;
        libc::signal(libc::SIGPIPE, libc::SIG_DFL);
    }
    Ok(())
}

/// The next child that has ended: its id and how.
pub fn reap() -> Option<(i32, libc::c_int)> {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
}

pub fn kill(pid: i32, signal: u8) {
    // SAFETY: no pointer is passed. The process is a child that has not been reaped, so the number is still its own.
    unsafe { libc::kill(pid, signal.into()) };
}

/// Forks; `None` in the child.
pub fn fork() -> io::Result<Option<i32>> {
    // SAFETY: this process has one thread, so the child may go on with everything.
    let pid = check(unsafe { libc::fork() })?;
    Ok((pid > 0).then_some(pid))
}

/// A descriptor of process `pid`, a child that has not been reaped.
pub fn process_descriptor(pid: i32) -> io::Result<OwnedFd> {
    // SAFETY: no pointer is passed.
    owned(unsafe { libc::syscall(libc::SYS_pidfd_open, pid, 0) } as libc::c_int)
}

/// Joins the namespaces of `process` (all but its process ids, which children of init have already).
pub fn join_root(process: &OwnedFd) -> io::Result<()> {
    let which = libc::CLONE_NEWNS | libc::CLONE_NEWIPC | libc::CLONE_NEWCGROUP;
    // SAFETY: no pointer is passed.
    check(unsafe { libc::setns(process.as_raw_fd(), which) }).map(drop)
}

pub fn set_limit(limit: Rlimit) -> io::Result<()> {
    let value = libc::rlimit { rlim_cur: limit.soft, rlim_max: limit.hard };
    // SAFETY: the call reads one rlimit.
    check(unsafe { libc::setrlimit(limit.resource, &raw const value) }).map(drop)
}

pub fn no_new_privileges() -> io::Result<()> {
    // SAFETY: no pointer is passed.
    check(unsafe { libc::prctl(libc::PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }).map(drop)
}

/// Loads a filter program of eight bytes an instruction.
pub fn load_seccomp(program: &[u8]) -> io::Result<()> {
    let mut filter: Vec<libc::sock_filter> = program
        .chunks_exact(8)
        .map(|code| libc::sock_filter {
            code: u16::from_le_bytes([code[0], code[1]]),
            jt: code[2],
            jf: code[3],
            k: u32::from_le_bytes([code[4], code[5], code[6], code[7]]),
        })
        .collect();
    let length = u16::try_from(filter.len()).map_err(|_| io::ErrorKind::InvalidInput)?;
    let program = libc::sock_fprog { len: length, filter: filter.as_mut_ptr() };
    // SAFETY: the program's length is that of the vector, which lives through the call.
    check(unsafe { libc::prctl(libc::PR_SET_SECCOMP, libc::SECCOMP_MODE_FILTER, &raw const program) })
        .map(drop)
}

/// Takes ids and capabilities (bounding, effective, permitted, inheritable, ambient).
pub fn become_user(user: &User, capabilities: [u64; 5]) -> io::Result<()> {
    let [bounding, effective, permitted, inheritable, ambient] = capabilities;
    for capability in (0..=LAST_CAPABILITY).filter(|bit| bounding & (1 << bit) == 0) {
        // SAFETY: no pointer is passed. A kernel that does not know the capability says EINVAL, which is as good.
        unsafe { libc::prctl(libc::PR_CAPBSET_DROP, capability, 0, 0, 0) };
    }
    if let Some(mask) = user.umask {
        // SAFETY: no pointer is passed.
        unsafe { libc::umask(mask) };
    }
    // SAFETY: count and pointer are those of one vector; the rest are numbers.
    unsafe {
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 1, 0, 0, 0))?;
        check(libc::setgroups(user.groups.len(), user.groups.as_ptr()))?;
        check(libc::setresgid(user.gid, user.gid, user.gid))?;
        check(libc::setresuid(user.uid, user.uid, user.uid))?;
        check(libc::prctl(libc::PR_SET_KEEPCAPS, 0, 0, 0, 0))?;
    }
    let header = [CAPABILITY_VERSION_3, 0];
    let low = |set: u64| set as u32;
    let high = |set: u64| (set >> 32) as u32;
    let data = [
        low(effective),
        low(permitted),
        low(inheritable),
        high(effective),
        high(permitted),
        high(inheritable),
    ];
    // SAFETY: version 3 reads a header of two words and data of six.
    check(unsafe { libc::syscall(libc::SYS_capset, header.as_ptr(), data.as_ptr()) } as libc::c_int)?;
    for capability in (0..=LAST_CAPABILITY).filter(|bit| ambient & (1 << bit) != 0) {
        // SAFETY: no pointer is passed.
        check(unsafe { libc::prctl(libc::PR_CAP_AMBIENT, libc::PR_CAP_AMBIENT_RAISE, capability, 0, 0) })?;
    }
    Ok(())
}

/// Executes `path`; comes back only with the error.
pub fn execute(path: &CStr, args: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|text| text.as_ptr()).chain([ptr::null()]).collect()
    };
    let (args, env) = (pointers(args), pointers(env));
    // SAFETY: both vectors end in null and point to strings that live through the call.
    unsafe { libc::execve(path.as_ptr(), args.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Writes without allocating or failing: for the last words of a process.
pub fn write_all(descriptor: RawFd, mut bytes: &[u8]) {
    while !bytes.is_empty() {
        // SAFETY: pointer and length are those of one slice.
        let count = unsafe { libc::write(descriptor, bytes.as_ptr().cast(), bytes.len()) };
        match usize::try_from(count) {
            Ok(count) if count > 0 => bytes = &bytes[count..],
            _ => return,
        }
    }
}

/// Waits until one of `descriptors` is ready.
pub fn poll(descriptors: &mut [libc::pollfd]) -> io::Result<()> {
    loop {
        // SAFETY: pointer and length are those of one slice.
        match check(unsafe { libc::poll(descriptors.as_mut_ptr(), descriptors.len() as libc::nfds_t, -1) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(drop),
        }
    }
}
