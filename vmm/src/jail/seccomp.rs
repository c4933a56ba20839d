//! Which system calls each thread of a machine's process may make: what its kind needs while the guest runs, and nothing else. Any other
//! call ends the process.
//!
//! The lists were taken from traces of whole lives of machines (start, files, network, disk, exec, pause, signals, end), plus what the C
//! library and the Rust runtime do now and then (memory, locks, a panic's message).

use std::collections::BTreeMap;
use std::io;

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

use crate::vm::ThreadKind;

/// What every thread does: memory, locks, its end, time.
const COMMON: &[i64] = &[
    libc::SYS_brk,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_close,
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_getpid,
    libc::SYS_getrandom,
    libc::SYS_gettid,
    libc::SYS_madvise,
    libc::SYS_mremap,
    libc::SYS_munmap,
    libc::SYS_nanosleep,
    libc::SYS_read,
    libc::SYS_restart_syscall,
    libc::SYS_rseq,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_set_robust_list,
    libc::SYS_sigaltstack,
    libc::SYS_write,
];

/// The loop that speaks to the guest, the container's streams and whoever sends commands.
const MAIN: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_lseek,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_recvfrom,
    libc::SYS_rt_sigaction,
    libc::SYS_sendto,
    libc::SYS_shutdown,
];

/// The devices' queues.
const DEVICES: &[i64] = &[
    libc::SYS_accept4,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_readv,
    libc::SYS_recvfrom,
    libc::SYS_sendto,
    libc::SYS_shutdown,
    libc::SYS_writev,
];

/// A disk that cannot be opened anew and does not grow.
const DISK: &[i64] = &[
    libc::SYS_clone3,
    libc::SYS_fallocate,
    libc::SYS_fdatasync,
    libc::SYS_fsync,
    libc::SYS_poll,
    libc::SYS_ppoll,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pread64,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_pwrite64,
];

/// A virtual processor.
const VCPU: &[i64] = &[libc::SYS_epoll_ctl, libc::SYS_eventfd2];

/// The file server; see [`crate::virtio::fs`].
const FILE_SERVER: &[i64] = &[
    libc::SYS_capget,
    libc::SYS_capset,
    libc::SYS_copy_file_range,
    libc::SYS_dup,
    libc::SYS_epoll_create1,
    libc::SYS_epoll_ctl,
    libc::SYS_epoll_pwait,
    libc::SYS_epoll_wait,
    libc::SYS_fallocate,
    libc::SYS_fchdir,
    libc::SYS_fchmod,
    libc::SYS_fchmodat,
    libc::SYS_fchmodat2,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_fcntl,
    libc::SYS_fdatasync,
    libc::SYS_fgetxattr,
    libc::SYS_flistxattr,
    libc::SYS_flock,
    libc::SYS_fremovexattr,
    libc::SYS_fsetxattr,
    libc::SYS_fstat,
    libc::SYS_fstatfs,
    libc::SYS_fsync,
    libc::SYS_ftruncate,
    libc::SYS_getdents64,
    libc::SYS_getegid,
    libc::SYS_geteuid,
    libc::SYS_getxattr,
    libc::SYS_lgetxattr,
    libc::SYS_linkat,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_lremovexattr,
    libc::SYS_lseek,
    libc::SYS_lsetxattr,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_newfstatat,
    libc::SYS_openat,
    libc::SYS_openat2,
    libc::SYS_preadv,
    libc::SYS_preadv2,
    libc::SYS_pwritev,
    libc::SYS_pwritev2,
    libc::SYS_readlinkat,
    libc::SYS_removexattr,
    libc::SYS_renameat2,
    libc::SYS_setgroups,
    libc::SYS_setresgid,
    libc::SYS_setresuid,
    libc::SYS_setxattr,
    libc::SYS_statx,
    libc::SYS_symlinkat,
    libc::SYS_sync_file_range,
    libc::SYS_syncfs,
    libc::SYS_umask,
    libc::SYS_unlinkat,
    libc::SYS_utimensat,
];

/// `_IO(KVMIO, 0x80)` and `_IO(KVMIO, 0xad)`: enter the guest; tell its clock that it was stopped.
const KVM_RUN: u64 = 0xae80;
const KVM_KVMCLOCK_CTRL: u64 = 0xaead;
/// `_IOR(KVMIO, 0x81, struct kvm_regs)`: where a guest is that KVM cannot run on.
const KVM_GET_REGS: u64 = 0x8090_ae81;
/// What is read of a machine for a template, with the sizes of the structures: interrupt controllers, the clock, and of a processor its state,
/// registers, local APIC, model-specific registers and pending exceptions.
const KVM_GET_IRQCHIP: u64 = 0xc208_ae62;
const KVM_GET_CLOCK: u64 = 0x8030_ae7c;
const KVM_GET_MP_STATE: u64 = 0x8004_ae98;
const KVM_GET_SREGS: u64 = 0x8138_ae83;
const KVM_GET_XSAVE: u64 = 0x9000_aea4;
const KVM_GET_XCRS: u64 = 0x8188_aea6;
const KVM_GET_DEBUGREGS: u64 = 0x8080_aea1;
const KVM_GET_LAPIC: u64 = 0x8400_ae8e;
const KVM_GET_MSRS: u64 = 0xc008_ae88;
const KVM_GET_VCPU_EVENTS: u64 = 0x8040_ae9f;
/// Offloads, header size: a network device that is being activated.
const TUNSETOFFLOAD: u64 = 0x4004_54d0;
const TUNSETVNETHDRSZ: u64 = 0x4004_54d8;

/// A thread to be confined: one of the machine's, or the main one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Thread {
    /// The one that holds the session.
    Main,
    /// One that the machine has started.
    Of(ThreadKind),
}

impl Thread {
    fn calls(self) -> &'static [i64] {
        match self {
            Self::Main => MAIN,
            Self::Of(ThreadKind::Vcpu | ThreadKind::RecordedVcpu) => VCPU,
            Self::Of(ThreadKind::Devices) => DEVICES,
            Self::Of(ThreadKind::Disk) => DISK,
            Self::Of(ThreadKind::FileServer) => FILE_SERVER,
        }
    }

    /// Requests of ioctl(2).
    fn requests(self) -> &'static [u64] {
        match self {
            Self::Main => &[libc::FIONBIO, libc::TIOCGWINSZ],
            Self::Of(ThreadKind::Vcpu | ThreadKind::RecordedVcpu) => {
                &[KVM_RUN, KVM_KVMCLOCK_CTRL, KVM_GET_REGS, TUNSETOFFLOAD, TUNSETVNETHDRSZ, libc::FIONBIO]
            }
            Self::Of(ThreadKind::Devices) => &[libc::FIONBIO, TUNSETOFFLOAD, TUNSETVNETHDRSZ],
            Self::Of(ThreadKind::Disk | ThreadKind::FileServer) => &[],
        }
    }

    /// Those of them that only a recorded machine makes.
    fn further_requests(self) -> &'static [u64] {
        match self {
            Self::Of(ThreadKind::RecordedVcpu) => &[
                KVM_GET_IRQCHIP,
                KVM_GET_CLOCK,
                KVM_GET_MP_STATE,
                KVM_GET_SREGS,
                KVM_GET_XSAVE,
                KVM_GET_XCRS,
                KVM_GET_DEBUGREGS,
                KVM_GET_LAPIC,
                KVM_GET_MSRS,
                KVM_GET_VCPU_EVENTS,
            ],
            _ => &[],
        }
    }

    /// Signals that it sends to threads of this process: the main one interrupts virtual processors, and any aborts in a panic.
    fn sends_signals(self) -> bool {
        matches!(
            self,
            Self::Main | Self::Of(ThreadKind::Devices | ThreadKind::Vcpu | ThreadKind::RecordedVcpu)
        )
    }
}

fn failed(error: impl std::error::Error + Send + Sync + 'static) -> io::Error {
    io::Error::other(error)
}

fn condition(
    index: u8,
    length: SeccompCmpArgLen,
    operator: SeccompCmpOp,
    value: u64,
) -> io::Result<SeccompRule> {
    let condition = SeccompCondition::new(index, length, operator, value).map_err(failed)?;
    SeccompRule::new(vec![condition]).map_err(failed)
}

/// The filter for `thread` of process `pid`.
fn program(thread: Thread, pid: u32) -> io::Result<BpfProgram> {
    use SeccompCmpArgLen::{Dword, Qword};
    let all = COMMON.iter().chain(thread.calls());
    let mut rules: BTreeMap<i64, Vec<SeccompRule>> = all.map(|call| (*call, vec![])).collect();
    // Memory that can be written is never executed.
    let prot_exec = SeccompCmpOp::MaskedEq(libc::PROT_EXEC as u64);
    for call in [libc::SYS_mmap, libc::SYS_mprotect] {
        rules.insert(call, vec![condition(2, Dword, prot_exec.clone(), 0)?]);
    }
    let requests = thread.requests().iter().chain(thread.further_requests());
    let requests = requests.map(|request| condition(1, Dword, SeccompCmpOp::Eq, *request));
    let requests: Vec<_> = requests.collect::<io::Result<_>>()?;
    if !requests.is_empty() {
        rules.insert(libc::SYS_ioctl, requests);
    }
    // Copies of descriptors, and their flags; the file server locks besides.
    if thread != Thread::Of(ThreadKind::FileServer) {
        let commands = [libc::F_DUPFD_CLOEXEC, libc::F_GETFD, libc::F_SETFD, libc::F_GETFL, libc::F_SETFL];
        let commands = commands.map(|command| condition(1, Dword, SeccompCmpOp::Eq, command as u64));
        rules.insert(libc::SYS_fcntl, commands.into_iter().collect::<io::Result<_>>()?);
    }
    if thread.sends_signals() {
        rules.insert(libc::SYS_tgkill, vec![condition(0, Dword, SeccompCmpOp::Eq, pid.into())?]);
    }
    if thread == Thread::Main {
        // It ends as the guest's process ended.
        let undumpable = condition(0, Qword, SeccompCmpOp::Eq, libc::PR_SET_DUMPABLE as u64)?;
        rules.insert(libc::SYS_prctl, vec![undumpable]);
    }
    let filter =
        SeccompFilter::new(rules, SeccompAction::KillProcess, SeccompAction::Allow, TargetArch::x86_64);
    filter.and_then(BpfProgram::try_from).map_err(failed)
}

/// Confines the calling thread, for good.
///
/// # Errors
/// The kernel has no seccomp.
pub fn confine(thread: Thread) -> io::Result<()> {
    seccompiler::apply_filter(&program(thread, std::process::id())?).map_err(failed)
}

#[cfg(test)]
mod tests {
    use std::os::unix::process::ExitStatusExt;
    use std::process::Command;

    use super::*;

    const KINDS: [Thread; 6] = [
        Thread::Main,
        Thread::Of(ThreadKind::Vcpu),
        Thread::Of(ThreadKind::RecordedVcpu),
        Thread::Of(ThreadKind::Devices),
        Thread::Of(ThreadKind::Disk),
        Thread::Of(ThreadKind::FileServer),
    ];

    /// Set in the process of a test that is confined and then does what it may not.
    const VICTIM: &str = "RKVM_TEST_CONFINED";

    #[test]
    fn a_forbidden_call_ends_the_process() {
        if let Ok(index) = std::env::var(VICTIM) {
            confine(KINDS[index.parse::<usize>().unwrap()]).unwrap();
            // Nothing that a guest could want of this process.
            let _ = std::net::UdpSocket::bind("127.0.0.1:0");
            std::process::exit(0);
        }
        for (index, kind) in KINDS.iter().enumerate() {
            let name = "jail::seccomp::tests::a_forbidden_call_ends_the_process";
            let status = Command::new(std::env::current_exe().unwrap())
                .args(["--exact", name, "--test-threads=1"])
                .env(VICTIM, index.to_string())
                .output()
                .unwrap()
                .status;
            assert_eq!(status.signal(), Some(libc::SIGSYS), "{kind:?}: {status}");
        }
    }

    #[test]
    fn no_kind_may_make_sockets_programs_namespaces_or_mounts() {
        let never = [
            libc::SYS_socket,
            libc::SYS_connect,
            libc::SYS_execve,
            libc::SYS_execveat,
            libc::SYS_fork,
            libc::SYS_kill,
            libc::SYS_unshare,
            libc::SYS_setns,
            libc::SYS_mount,
            libc::SYS_move_mount,
            libc::SYS_ptrace,
            libc::SYS_bpf,
            libc::SYS_process_vm_writev,
        ];
        for kind in KINDS {
            for call in never {
                assert!(!COMMON.contains(&call) && !kind.calls().contains(&call), "{kind:?} may call {call}");
            }
        }
    }
}
