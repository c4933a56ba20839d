//! The default profile: what Docker's allows, grouped by what the calls are about.
//!
//! What is missing from the groups is refused on purpose: io_uring (a second way past every filter), userfaultfd, keyrings,
//! kexec, swap, quota, kernel modules, clocks, mounts, and namespaces, unless a capability brings them.

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompOperator,
    LinuxSyscall,
};

use super::{KernelVersion, Target};

/// Namespaces that clone(2) could make: CLONE_NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET.
const CLONE_NEW: u64 = 0x7e02_0000;

/// Allowed to everybody, with any arguments.
const ALLOWED: [&str; 12] =
    [FILES, ATTRIBUTES, EVENTS, MEMORY, PROCESSES, IDENTITY, SCHEDULING, SIGNALS, SOCKETS, IPC, TIME, OTHERS];

const FILES: &str = "\
    access chdir chmod chown chown32 close close_range copy_file_range creat dup dup2 dup3 faccessat \
    faccessat2 fadvise64 fadvise64_64 fallocate fchdir fchmod fchmodat fchmodat2 fchown fchown32 fchownat \
    fcntl fcntl64 fdatasync flock fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 \
    futimesat getcwd getdents getdents64 ioctl lchown lchown32 link linkat _llseek lseek lstat lstat64 mkdir \
    mkdirat mknod mknodat name_to_handle_at newfstatat open openat openat2 pipe pipe2 pread64 preadv preadv2 \
    pwrite64 pwritev pwritev2 read readahead readlink readlinkat readv rename renameat renameat2 rmdir \
    sendfile sendfile64 splice stat stat64 statfs statfs64 statx symlink symlinkat sync sync_file_range \
    syncfs tee truncate truncate64 umask unlink unlinkat utime utimensat utimensat_time64 utimes vmsplice \
    write writev listmount statmount";

const ATTRIBUTES: &str = "\
    fgetxattr flistxattr fremovexattr fsetxattr getxattr getxattrat lgetxattr listxattr listxattrat \
    llistxattr lremovexattr lsetxattr removexattr removexattrat setxattr setxattrat";

const EVENTS: &str = "\
    epoll_create epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old \
    eventfd eventfd2 fanotify_mark inotify_add_watch inotify_init inotify_init1 inotify_rm_watch io_cancel \
    io_destroy io_getevents io_pgetevents io_pgetevents_time64 io_setup io_submit _newselect poll ppoll \
    ppoll_time64 pselect6 pselect6_time64 select signalfd signalfd4 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64";

const MEMORY: &str = "\
    brk cachestat madvise map_shadow_stack membarrier memfd_create memfd_secret mincore mlock mlock2 \
    mlockall mmap mmap2 mprotect mremap mseal msync munlock munlockall munmap pkey_alloc pkey_free \
    pkey_mprotect remap_file_pages";

const PROCESSES: &str = "\
    execve execveat exit exit_group fork futex futex_requeue futex_time64 futex_wait futex_waitv futex_wake \
    get_robust_list get_thread_area getpgid getpgrp getpid getppid getsid gettid pidfd_open prctl \
    process_mrelease restart_syscall rseq set_robust_list set_thread_area set_tid_address setpgid setsid \
    uretprobe vfork wait4 waitid waitpid";

const IDENTITY: &str = "\
    capget capset getegid getegid32 geteuid geteuid32 getgid getgid32 getgroups getgroups32 getresgid \
    getresgid32 getresuid getresuid32 getuid getuid32 landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self seccomp setfsgid setfsgid32 setfsuid setfsuid32 setgid setgid32 setgroups \
    setgroups32 setregid setregid32 setresgid setresgid32 setresuid setresuid32 setreuid setreuid32 setuid \
    setuid32";

const SCHEDULING: &str = "\
    getcpu getpriority getrlimit getrusage ioprio_get ioprio_set prlimit64 sched_get_priority_max \
    sched_get_priority_min sched_getaffinity sched_getattr sched_getparam sched_getscheduler \
    sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr sched_setparam \
    sched_setscheduler sched_yield setpriority setrlimit ugetrlimit";

const SIGNALS: &str = "\
    kill pause pidfd_send_signal rt_sigaction rt_sigpending rt_sigprocmask rt_sigqueueinfo rt_sigreturn \
    rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo sigaltstack sigprocmask sigreturn \
    tgkill tkill";

const SOCKETS: &str = "\
    accept accept4 bind connect getpeername getsockname getsockopt listen recv recvfrom recvmmsg \
    recvmmsg_time64 recvmsg send sendmmsg sendmsg sendto setsockopt shutdown socketcall socketpair";

const IPC: &str = "\
    ipc mq_getsetattr mq_notify mq_open mq_timedreceive mq_timedreceive_time64 mq_timedsend \
    mq_timedsend_time64 mq_unlink msgctl msgget msgrcv msgsnd semctl semget semop semtimedop \
    semtimedop_time64 shmat shmctl shmdt shmget";

const TIME: &str = "\
    adjtimex alarm clock_adjtime clock_adjtime64 clock_getres clock_getres_time64 clock_gettime \
    clock_gettime64 clock_nanosleep clock_nanosleep_time64 getitimer gettimeofday nanosleep setitimer time \
    timer_create timer_delete timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 \
    times";

const OTHERS: &str = "\
    getrandom riscv_hwprobe sysinfo uname";

/// Allowed only on some architectures.
const BY_ARCH: [(&[&str], &str); 6] = [
    (&["ppc64le"], "swapcontext sync_file_range2"),
    (
        &["arm", "arm64"],
        "\
         arm_fadvise64_64 arm_sync_file_range breakpoint cacheflush set_tls sync_file_range2",
    ),
    (&["amd64", "x32"], "arch_prctl"),
    (&["amd64", "x32", "x86"], "modify_ldt"),
    (&["s390", "s390x"], "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr"),
    (&["riscv64"], "riscv_flush_icache"),
];

/// Allowed with a capability, whose own checks in the kernel then hold.
const BY_CAPABILITY: [(&str, &str); 14] = [
    (
        SYS_ADMIN,
        "\
         bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie lsm_get_self_attr \
         lsm_list_modules lsm_set_self_attr mount mount_setattr move_mount open_tree perf_event_open \
         quotactl quotactl_fd setdomainname sethostname setns syslog umount umount2 unshare open_tree_attr",
    ),
    ("CAP_BPF", "bpf"),
    ("CAP_DAC_READ_SEARCH", "open_by_handle_at"),
    ("CAP_PERFMON", "perf_event_open"),
    ("CAP_SYSLOG", "syslog"),
    ("CAP_SYS_BOOT", "reboot"),
    ("CAP_SYS_CHROOT", "chroot"),
    ("CAP_SYS_MODULE", "delete_module finit_module init_module"),
    ("CAP_SYS_NICE", "get_mempolicy mbind set_mempolicy set_mempolicy_home_node"),
    ("CAP_SYS_PACCT", "acct"),
    ("CAP_SYS_PTRACE", "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    ("CAP_SYS_RAWIO", "ioperm iopl"),
    ("CAP_SYS_TIME", "clock_settime clock_settime64 settimeofday stime"),
    ("CAP_SYS_TTY_CONFIG", "vhangup"),
];

const SYS_ADMIN: &str = "CAP_SYS_ADMIN";

/// Before this kernel a process could leave its filter through ptrace.
const SAFE_PTRACE: KernelVersion = KernelVersion { major: 4, minor: 8 };

/// The kernel's crypto API as a socket family: much code, and nothing that a container needs.
const AF_ALG: u64 = 38;

/// Sockets to the hypervisor, past every network namespace.
const AF_VSOCK: u64 = 40;

/// Values of personality(2) that programs use: PER_LINUX, PER_LINUX32, both with UNAME26, and the query.
const PERSONALITIES: [u64; 5] = [0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// The profile for `target`.
pub(super) fn profile(target: &Target<'_>) -> LinuxSeccomp {
    let has = |capability: &str| target.capabilities.iter().any(|one| one == capability);
    let mut names: Vec<&str> = ALLOWED.iter().flat_map(|group| group.split_ascii_whitespace()).collect();
    if target.kernel >= SAFE_PTRACE {
        names.extend(["process_vm_readv", "process_vm_writev", "ptrace"]);
    }
    for (arches, calls) in BY_ARCH {
        if arches.contains(&target.arch) {
            names.extend(calls.split_ascii_whitespace());
        }
    }
    for (capability, calls) in BY_CAPABILITY {
        if has(capability) {
            names.extend(calls.split_ascii_whitespace());
        }
    }
    names.sort_unstable();
    names.dedup();
    let mut syscalls = vec![allow(&names, None)];
    // Every family but those two. socketcall, the old way of 32-bit programs, hides its arguments in memory.
    for (op, family) in [
        (LinuxSeccompOperator::ScmpCmpLt, AF_ALG),
        (LinuxSeccompOperator::ScmpCmpEq, AF_ALG + 1),
        (LinuxSeccompOperator::ScmpCmpGt, AF_VSOCK),
    ] {
        syscalls.push(allow(&["socket"], argument(0, op, family, None)));
    }
    for personality in PERSONALITIES {
        let value = argument(0, LinuxSeccompOperator::ScmpCmpEq, personality, None);
        syscalls.push(allow(&["personality"], value));
    }
    if !has(SYS_ADMIN) {
        // The flags are clone's first argument, on s390 its second.
        let index = usize::from(target.arch.starts_with("s390"));
        let none = argument(index, LinuxSeccompOperator::ScmpCmpMaskedEq, CLONE_NEW, Some(0));
        syscalls.push(allow(&["clone"], none));
        // clone3's flags lie in memory, where no filter can look: ENOSYS makes C libraries use clone.
        let mut clone3 = LinuxSyscall::default();
        clone3.set_names(vec!["clone3".to_owned()]).set_action(LinuxSeccompAction::ScmpActErrno);
        clone3.set_errno_ret(Some(libc::ENOSYS as u32));
        syscalls.push(clone3);
    }
    let mut seccomp = LinuxSeccomp::default();
    seccomp
        .set_default_action(LinuxSeccompAction::ScmpActErrno)
        .set_default_errno_ret(Some(libc::EPERM as u32));
    seccomp.set_architectures(architectures(target.arch)).set_syscalls(Some(syscalls));
    seccomp
}

/// The architecture with those whose programs its kernel also runs; `None` leaves it at the native one.
fn architectures(arch: &str) -> Option<Vec<Arch>> {
    Some(match arch {
        "amd64" => vec![Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32],
        "arm64" => vec![Arch::ScmpArchAarch64, Arch::ScmpArchArm],
        "s390x" => vec![Arch::ScmpArchS390x, Arch::ScmpArchS390],
        "riscv64" => vec![Arch::ScmpArchRiscv64],
        "loong64" => vec![Arch::ScmpArchLoongarch64],
        _ => return None,
    })
}

fn allow(names: &[&str], argument: Option<LinuxSeccompArg>) -> LinuxSyscall {
    let mut rule = LinuxSyscall::default();
    rule.set_names(names.iter().map(|name| (*name).to_owned()).collect());
    rule.set_action(LinuxSeccompAction::ScmpActAllow).set_args(argument.map(|one| vec![one]));
    rule
}

fn argument(
    index: usize,
    op: LinuxSeccompOperator,
    value: u64,
    value_two: Option<u64>,
) -> Option<LinuxSeccompArg> {
    let builder = LinuxSeccompArgBuilder::default().index(index).op(op).value(value);
    let builder = match value_two {
        Some(second) => builder.value_two(second),
        None => builder,
    };
    // Every field has a default, so building does not fail; were it to, a condition must not turn into none.
    Some(builder.build().unwrap_or_default())
}
