//! The agent that answers a workload's system calls.

mod sys;

use std::collections::HashMap;
use std::io::IoSliceMut;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::{self, JoinHandle};

use libseccomp::{ScmpArch, ScmpNotifReq, ScmpNotifResp, ScmpNotifRespFlags, ScmpSyscall};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::socket::{ControlMessageOwned, MsgFlags, recvmsg};
use rkvm_oci::timeline::MonotonicNs;
use serde_json::{Value, json};

use super::{Observed, Policy, memory};
use crate::error::{Error, Result};

/// Listens for one workload and answers its calls until it has ended.
#[derive(Debug)]
pub struct Agent {
    stop: Arc<AtomicBool>,
    thread: JoinHandle<Observed>,
}

/// Highest number of a system call that is asked for by name; there were 470 in Linux 6.18.
const HIGHEST: i32 = 600;
/// The one call that cannot wait: the runtime hands the listener over with it.
const NEVER: &str = "write";
/// How often an idle agent looks whether it is wanted any more.
const GLANCE: u16 = 100;

/// The profile that sends every call to the agent at `socket`, in Docker's form.
pub fn profile(socket: &Path) -> Value {
    let names: Vec<String> = (0..HIGHEST)
        .filter_map(|number| ScmpSyscall::from_raw_syscall(number).get_name().ok())
        .filter(|name| name != NEVER)
        .collect();
    json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "architectures": ["SCMP_ARCH_X86_64"],
        "listenerPath": socket,
        "syscalls": [
            { "names": names, "action": "SCMP_ACT_NOTIFY" },
            { "names": [NEVER], "action": "SCMP_ACT_ALLOW" },
        ],
    })
}

impl Agent {
    /// Listens on `socket` and decides as `policy` says.
    ///
    /// # Errors
    /// The socket cannot be made.
    pub fn listen(socket: &Path, policy: Policy) -> Result<Self> {
        let listener = UnixListener::bind(socket).map_err(|error| Error::file("listen on", socket, error))?;
        let stop = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&stop);
        let thread = thread::spawn(move || {
            let mut observed = Observed::default();
            let Some(fd) = accept(&listener, &until) else { return observed };
            drop(listener);
            answer(&fd, &policy, &until, &mut observed);
            observed
        });
        Ok(Self { stop, thread })
    }

    /// Waits until the workload has ended, which must have been seen to, and tells what it did.
    pub fn finish(self) -> Observed {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap_or_default()
    }
}

/// Waits for `fd`; false when the agent is to stop and nothing came.
fn wait(fd: &impl AsFd, stop: &AtomicBool) -> bool {
    loop {
        let mut fds = [PollFd::new(fd.as_fd(), PollFlags::POLLIN)];
        match poll(&mut fds, PollTimeout::from(GLANCE)) {
            Ok(0) if stop.load(Ordering::Relaxed) => return false,
            Ok(0) | Err(Errno::EINTR) => {}
            Ok(_) => return fds[0].revents().is_some_and(|events| events.contains(PollFlags::POLLIN)),
            Err(_) => return false,
        }
    }
}

/// Takes the listener's descriptor from the runtime.
fn accept(listener: &UnixListener, stop: &AtomicBool) -> Option<OwnedFd> {
    if !wait(listener, stop) {
        return None;
    }
    let (stream, _) = listener.accept().ok()?;
    receive(&stream)
}

fn receive(stream: &UnixStream) -> Option<OwnedFd> {
    let mut buffer = vec![0; 64 << 10];
    let mut parts = [IoSliceMut::new(&mut buffer)];
    let mut space = nix::cmsg_space!(std::os::fd::RawFd);
    let message =
        recvmsg::<()>(stream.as_raw_fd(), &mut parts, Some(&mut space), MsgFlags::MSG_CMSG_CLOEXEC).ok()?;
    let fds = message.cmsgs().ok()?.find_map(|message| match message {
        ControlMessageOwned::ScmRights(fds) => fds.first().copied(),
        _ => None,
    })?;
    Some(sys::own(fds))
}

fn answer(fd: &OwnedFd, policy: &Policy, stop: &AtomicBool, observed: &mut Observed) {
    let mut executing = HashMap::new();
    // POLLHUP without POLLIN: the last process is gone.
    while wait(fd, stop) {
        let request = match ScmpNotifReq::receive(fd.as_raw_fd()) {
            Ok(request) => request,
            // It was killed while it waited, or a signal interrupted it.
            Err(_) => continue,
        };
        let name = name(&request);
        let refusal = policy.refusal(&name, &request.data.args);
        note(observed, &request, &name, refusal);
        executed(observed, &mut executing, request.pid, &name);
        let response = match refusal {
            None => ScmpNotifResp::new_continue(request.id, ScmpNotifRespFlags::empty()),
            Some(errno) => ScmpNotifResp::new_error(request.id, -errno, ScmpNotifRespFlags::empty()),
        };
        // Fails when it was killed meanwhile.
        let _ = response.respond(fd.as_raw_fd());
    }
}

fn name(request: &ScmpNotifReq) -> String {
    let data = &request.data;
    let known = data.syscall.get_name_by_arch(data.arch);
    known.unwrap_or_else(|_| format!("number {}", data.syscall.as_raw_syscall()))
}

/// Flags of clone(2) and unshare(2) that ask for namespaces.
const NAMESPACES: [(u64, &str); 8] = [
    (0x80, "time"),
    (0x0002_0000, "mount"),
    (0x0200_0000, "cgroup"),
    (0x0400_0000, "uts"),
    (0x0800_0000, "ipc"),
    (0x1000_0000, "user"),
    (0x2000_0000, "pid"),
    (0x4000_0000, "network"),
];

fn note(observed: &mut Observed, request: &ScmpNotifReq, name: &str, refusal: Option<i32>) {
    let (pid, args) = (request.pid, &request.data.args);
    if observed.began_ns.is_none() {
        // Until then it is the runtime that works, with the filter already loaded.
        if !matches!(name, "execve" | "execveat") {
            return;
        }
        observed.began_ns = Some(MonotonicNs::now().0);
    }
    observed.tasks.insert(pid);
    let calls = observed.calls.entry(name.to_owned()).or_default();
    calls.made += 1;
    calls.refused += u64::from(refusal.is_some());
    // The arguments of other architectures lie elsewhere.
    if request.data.arch != ScmpArch::native() {
        return;
    }
    let text = |argument: usize| memory::string(pid, args[argument]);
    let address = || memory::address(&memory::bytes(pid, args[1], args[2].min(128) as usize));
    let mut namespaces = |flags: u64, mask: u64| {
        let asked = NAMESPACES.iter().filter(|(flag, _)| flags & mask & flag != 0);
        observed.namespaces.extend(asked.map(|(_, name)| (*name).to_owned()));
    };
    match name {
        "open" | "creat" => observed.devices.extend(text(0).filter(|path| is_device(path))),
        "openat" | "openat2" => observed.devices.extend(text(1).filter(|path| is_device(path))),
        "mount" => {
            let kind =
                text(2).filter(|kind| !kind.is_empty()).unwrap_or_else(|| "bind or remount".to_owned());
            observed.mounts.insert(format!("{kind} on {}", text(1).unwrap_or_default()));
        }
        "socket" | "socketpair" => {
            observed.families.insert(memory::family_name(args[0]));
        }
        "bind" => observed.bound.extend(address()),
        "connect" => observed.connected.extend(address()),
        // The time namespace's flag is one of clone's exit signal bits.
        "clone" => namespaces(args[0], !0xff),
        "unshare" => namespaces(args[0], !0),
        "clone3" => {
            let flags = memory::bytes(pid, args[0], 8);
            if let Ok(flags) = <[u8; 8]>::try_from(flags) {
                namespaces(u64::from_ne_bytes(flags), !0);
            }
        }
        _ => {}
    }
}

/// Notes which program a process executes, once that is known: no call's result comes here, and shells try each folder of PATH.
/// Whether the call before was an execve(2) that succeeded shows at the next one, by a program that is not the one before it.
fn executed(observed: &mut Observed, executing: &mut HashMap<u32, Vec<u8>>, pid: u32, name: &str) {
    if observed.began_ns.is_none() {
        return;
    }
    if let Some(before) = executing.remove(&pid) {
        let now = memory::program(pid);
        if now != before {
            observed.programs.extend(memory::program_path(pid, &now));
        }
    }
    if matches!(name, "execve" | "execveat") {
        executing.insert(pid, memory::program(pid));
    }
}

fn is_device(path: &str) -> bool {
    path.starts_with("/dev/")
}
