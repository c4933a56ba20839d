//! The system calls that std has no function for.

mod first;
pub mod heap;
mod open;

use std::ffi::CString;
use std::fs::{File, OpenOptions};
use std::io;
use std::ops::Range;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::ptr;

use rkvm_guest_protocol::WindowSize;

/// I/O port of the machine's boot marker.
const MARKER_PORT: u64 = 0x5b0;

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

/// The boot marker port, written through /dev/port: on a host without hardware virtualization the guest kernel can write ports and
/// programs cannot. A distribution's kernel, which never runs on such a host, may lack the device, and init writes the port itself.
#[derive(Debug)]
pub enum Marker {
    /// /dev/port.
    Device(File),
    /// The processor's instruction.
    Instruction,
    /// Neither is possible.
    Nothing,
}

impl Marker {
    /// The port.
    pub fn open() -> Self {
        if let Ok(port) = OpenOptions::new().write(true).open("/dev/port") {
            return Self::Device(port);
        }
        // SAFETY: no pointer is passed.
        match unsafe { libc::ioperm(MARKER_PORT as libc::c_ulong, 1, 1) } {
            0 => Self::Instruction,
            _ => Self::Nothing,
        }
    }

    /// Writes `value` to the port.
    pub fn mark(&mut self, value: u8) {
        match self {
            Self::Device(port) => {
                // A mark that is lost only leaves a time out; the machine's end is also made by a reset.
                let _ = port.write_at(&[value], MARKER_PORT);
            }
            // SAFETY: `open` has made the port this process's own; the instruction has no memory operand.
            Self::Instruction => unsafe {
                std::arch::asm!("out dx, al", in("dx") MARKER_PORT as u16, in("al") value, options(nomem, nostack, preserves_flags));
            },
            Self::Nothing => {}
        }
    }
}

/// Waits until the console has sent all that standard error was given. Where standard error is no terminal there is nothing to wait for.
pub fn drain_console() {
    // SAFETY: no pointer is passed. An error means that it is no terminal.
    unsafe { libc::tcdrain(libc::STDERR_FILENO) };
}

/// Loads a kernel module, packed or not.
pub fn load_module(file: &File, packed: bool) -> io::Result<()> {
    // Not in the C library's headers (include/uapi/linux/module.h).
    const MODULE_INIT_COMPRESSED_FILE: libc::c_int = 4;
    let flags = if packed { MODULE_INIT_COMPRESSED_FILE } else { 0 };
    // SAFETY: the parameters are an empty string.
    match unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), flags) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Mixes `seed` into the kernel's random numbers, and has all that are given from now on depend on it.
pub fn seed(seed: &[u8]) -> io::Result<()> {
    // include/uapi/linux/random.h: RNDADDENTROPY takes the bits that the bytes count for, their number, and the bytes.
    const RNDADDENTROPY: libc::c_ulong = 0x4008_5203;
    const RNDRESEEDCRNG: libc::c_ulong = 0x5207;
    let random = File::options().write(true).open("/dev/urandom")?;
    let mut message = ((seed.len() * 8) as u32).to_ne_bytes().to_vec();
    message.extend((seed.len() as u32).to_ne_bytes());
    message.extend(seed);
    // SAFETY: the kernel reads as many bytes as the message says that it has.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDADDENTROPY as _, message.as_ptr()) })?;
    // SAFETY: no pointer is passed.
    check(unsafe { libc::ioctl(random.as_raw_fd(), RNDRESEEDCRNG as _) }).map(drop)
}

/// Sets the time of day forward, or back, by `ns` at once.
pub fn shift_time(ns: i64) -> io::Result<()> {
    // SAFETY: all zeros are a valid timex.
    let mut change: libc::timex = unsafe { std::mem::zeroed() };
    change.modes = libc::ADJ_SETOFFSET | libc::ADJ_NANO;
    change.time.tv_sec = ns.div_euclid(1_000_000_000);
    change.time.tv_usec = ns.rem_euclid(1_000_000_000);
    // SAFETY: the kernel reads and writes one timex.
    check(unsafe { libc::adjtimex(&raw mut change) }).map(drop)
}

/// Index of a network link, which any socket tells.
pub fn link_index(socket: &OwnedFd, name: &str) -> io::Result<u32> {
    // SAFETY: all zeros are a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // One byte is left for the end of the string.
    if name.len() >= request.ifr_name.len() {
        return Err(io::ErrorKind::InvalidInput.into());
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // SAFETY: the kernel reads and writes one ifreq.
    check(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCGIFINDEX as _, &raw mut request) })?;
    // SAFETY: the kernel has just written the index.
    Ok(unsafe { request.ifr_ifru.ifru_ifindex } as u32)
}

/// Binds `/` over itself, with everything below, and makes that the root: a mount that can be pivoted away from.
pub fn cover_root() -> io::Result<()> {
    let (slash, cover) = (c"/", c"/run");
    let flags = libc::MS_BIND | libc::MS_REC;
    // SAFETY: strings that live through the call; the others may be null with these flags.
    check(unsafe { libc::mount(slash.as_ptr(), cover.as_ptr(), ptr::null(), flags, ptr::null()) })?;
    std::env::set_current_dir("/run")?;
    // SAFETY: as above.
    check(unsafe { libc::mount(c".".as_ptr(), slash.as_ptr(), ptr::null(), libc::MS_MOVE, ptr::null()) })?;
    // SAFETY: a string that lives through the call.
    check(unsafe { libc::chroot(c".".as_ptr()) })?;
    std::env::set_current_dir("/")
}

/// Begins to read the first `bytes` of `file`; does not wait for them.
pub fn will_need(file: &File, bytes: Range<u64>) {
    let (start, length) = (bytes.start as libc::off_t, (bytes.end - bytes.start) as libc::off_t);
    // SAFETY: no pointer is passed.
    unsafe { libc::posix_fadvise(file.as_raw_fd(), start, length, libc::POSIX_FADV_WILLNEED) };
}

/// Unmounts what is at `path`; what is not mounted, or in use, stays.
pub fn unmount(path: &Path) {
    if let Ok(path) = c_path(path) {
        // SAFETY: a string that lives through the call.
        unsafe { libc::umount2(path.as_ptr(), libc::UMOUNT_NOFOLLOW) };
    }
}

/// Closes a stream once the host has taken everything that was written to it, at most after `seconds`: writing only queues it, and a
/// machine that is switched off sends nothing any more.
pub fn close_and_wait(stream: OwnedFd, seconds: libc::c_int) {
    // SAFETY: no pointer is passed. The loop's streams do not block, and a close that does not block does not wait either.
    let flags = unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_GETFL) };
    // SAFETY: as above.
    unsafe { libc::fcntl(stream.as_raw_fd(), libc::F_SETFL, flags & !libc::O_NONBLOCK) };
    let linger = libc::linger { l_onoff: 1, l_linger: seconds };
    // SAFETY: pointer and length are those of one structure. An error leaves the close as it is without.
    unsafe {
        libc::setsockopt(
            stream.as_raw_fd(),
            libc::SOL_SOCKET,
            libc::SO_LINGER,
            (&raw const linger).cast(),
            size_of::<libc::linger>() as libc::socklen_t,
        );
    }
}

/// Signals a child that has not been reaped.
pub fn kill(pid: i32, signal: libc::c_int) {
    // SAFETY: no pointer is passed. The process is a child that has not been reaped, so the number is still its own.
    unsafe { libc::kill(pid, signal) };
}

pub fn sync() {
    // SAFETY: no arguments.
    unsafe { libc::sync() }
}

pub fn reboot() -> ! {
    // SAFETY: no pointer is passed.
    unsafe { libc::reboot(libc::RB_AUTOBOOT) };
    // Not allowed: this program was started by somebody else than a machine's kernel.
    std::process::exit(125)
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
    let on: libc::c_int = 1;
    // SAFETY: the kernel reads one int. Unlike fcntl(2), this need not be told the other flags.
    check(unsafe { libc::ioctl(descriptor.as_raw_fd(), libc::FIONBIO as _, &raw const on) }).map(drop)
}

/// A pipe, close-on-exec: (read end, write end).
pub fn pipe() -> io::Result<(OwnedFd, OwnedFd)> {
    let mut ends = [0; 2];
    // SAFETY: the kernel writes two descriptors.
    check(unsafe { libc::pipe2(ends.as_mut_ptr(), libc::O_CLOEXEC) })?;
    Ok((owned(ends[0])?, owned(ends[1])?))
}

pub fn resize(terminal: &impl AsRawFd, size: WindowSize) -> io::Result<()> {
    let size = libc::winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the ioctl reads one winsize.
    check(unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) }).map(drop)
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

/// Does `work` in a process of its own, which ends with it; the process's id.
pub fn spawn(work: impl FnOnce() -> bool) -> io::Result<i32> {
    // SAFETY: init has one thread, so its copy may do whatever init itself may.
    let pid = check(unsafe { libc::fork() })?;
    if pid == 0 {
        let code = i32::from(!work());
        // SAFETY: ends the copy without running what init has registered.
        unsafe { libc::_exit(code) }
    }
    Ok(pid)
}

/// Waits for a process of [`spawn`]; whether its work succeeded.
pub fn wait_for(pid: i32) -> io::Result<bool> {
    let mut status = 0;
    loop {
        // SAFETY: the kernel writes one int.
        match check(unsafe { libc::waitpid(pid, &raw mut status, 0) }) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            other => return other.map(|_| status == 0),
        }
    }
}

/// The next child that has ended: its id and how.
pub fn reap() -> Option<(i32, libc::c_int)> {
    let mut status = 0;
    // SAFETY: the kernel writes one int.
    let pid = unsafe { libc::waitpid(-1, &raw mut status, libc::WNOHANG) };
    (pid > 0).then_some((pid, status))
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
