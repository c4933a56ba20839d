//! Instructions in front of libseccomp's program, for system calls that are newer than the profile or than libseccomp.
//!
//! A profile that lists what is allowed answers everything else with, usually, EPERM. A C library that tries a new call
//! first and falls back on ENOSYS would take that for a real refusal and fail. So calls with a number above the highest
//! one that the profile mentions return ENOSYS: its author cannot have meant them. runc does the same.

use std::collections::BTreeMap;

use libseccomp::{ScmpAction, ScmpArch, ScmpSyscall};
use oci_spec::runtime::LinuxSeccomp;
use rkvm_oci::{Error, Result};

/// Calls that libseccomp may be too old to know. From 424 on, a call has the same number on all architectures of this
/// list (with bit 30 set on x32).
const RECENT: [(&str, u32); 22] = [
    ("futex_waitv", 449),
    ("set_mempolicy_home_node", 450),
    ("cachestat", 451),
    ("fchmodat2", 452),
    ("map_shadow_stack", 453),
    ("futex_wake", 454),
    ("futex_wait", 455),
    ("futex_requeue", 456),
    ("statmount", 457),
    ("listmount", 458),
    ("lsm_get_self_attr", 459),
    ("lsm_set_self_attr", 460),
    ("lsm_list_modules", 461),
    ("mseal", 462),
    ("setxattrat", 463),
    ("getxattrat", 464),
    ("listxattrat", 465),
    ("removexattrat", 466),
    ("open_tree_attr", 467),
    ("file_getattr", 468),
    ("file_setattr", 469),
    ("listns", 470),
];

/// Bit that marks an x32 call among those of x86_64.
const X32_BIT: u32 = 1 << 30;

/// Number of a recent call.
pub(super) fn recent_number(name: &str) -> Option<u32> {
    RECENT.iter().find(|(known, _)| *known == name).map(|(_, number)| *number)
}

/// The prologue for a profile; empty when there is nothing to decide. `recent` are the return values of recent calls that
/// libseccomp does not know and the profile mentions.
///
/// # Errors
/// More recent calls than a BPF jump can span.
pub(super) fn build(
    profile: &LinuxSeccomp,
    default: ScmpAction,
    arches: &[ScmpArch],
    recent: &BTreeMap<u32, u32>,
) -> Result<Vec<libc::sock_filter>> {
    // Where unknown calls are let through anyway, or get ENOSYS already, they need no answer of their own.
    let stub = !matches!(default, ScmpAction::Allow | ScmpAction::Log | ScmpAction::Trace(_))
        && default != ScmpAction::Errno(libc::ENOSYS);
    if !stub && recent.is_empty() {
        return Ok(vec![]);
    }
    let mut program = vec![load(SECCOMP_DATA_ARCH)];
    for (token, sections) in by_token(arches) {
        let mut body = vec![load(SECCOMP_DATA_NR)];
        for arch in sections {
            body.extend(section(profile, arch, stub, recent)?);
        }
        // The next architecture's test, or libseccomp's program, reads what it needs itself; only the comparison of the
        // architecture expects it in the accumulator.
        body.push(load(SECCOMP_DATA_ARCH));
        program.push(jump(libc::BPF_JEQ, token, 0, distance(body.len())?));
        program.extend(body);
    }
    Ok(program)
}

/// AUDIT_ARCH token of each architecture, with x32 beside x86_64, whose token it shares.
fn by_token(arches: &[ScmpArch]) -> BTreeMap<u32, Vec<ScmpArch>> {
    let mut tokens: BTreeMap<u32, Vec<ScmpArch>> = BTreeMap::new();
    for arch in arches {
        if let Some(token) = audit_token(*arch) {
            tokens.entry(token).or_default().push(*arch);
        }
    }
    tokens
}

/// Token of linux/audit.h; `None` for architectures whose numbers do not follow the common scheme (MIPS adds its ABI's
/// base) or that this program cannot run on.
fn audit_token(arch: ScmpArch) -> Option<u32> {
    Some(match arch {
        ScmpArch::X86 => 0x4000_0003,
        ScmpArch::X8664 | ScmpArch::X32 => 0xc000_003e,
        ScmpArch::Arm => 0x4000_0028,
        ScmpArch::Aarch64 => 0xc000_00b7,
        ScmpArch::Riscv64 => 0xc000_00f3,
        ScmpArch::Loongarch64 => 0xc000_0102,
        ScmpArch::Ppc64Le => 0xc000_0015,
        ScmpArch::S390X => 0x8000_0016,
        _ => return None,
    })
}

/// Decides the recent calls of one architecture; the number is in the accumulator before and after.
fn section(
    profile: &LinuxSeccomp,
    arch: ScmpArch,
    stub: bool,
    recent: &BTreeMap<u32, u32>,
) -> Result<Vec<libc::sock_filter>> {
    let base = if arch == ScmpArch::X32 { X32_BIT } else { 0 };
    let names = || profile.syscalls().iter().flatten().flat_map(|rule| rule.names());
    let highest = names()
        .filter_map(|name| match ScmpSyscall::from_name_by_arch(name, arch) {
            // Negative numbers are libseccomp's own, for calls that this architecture does not have.
            Ok(syscall) => u32::try_from(syscall.as_raw_syscall()).ok().map(|number| number & !X32_BIT),
            Err(_) => recent_number(name),
        })
        .max();
    let Some(highest) = highest else { return Ok(vec![]) };
    let first = recent.keys().next().copied().unwrap_or(highest + 1).min(highest + 1);
    let mut body = vec![];
    for (number, value) in recent {
        body.push(jump(libc::BPF_JEQ, base | number, 0, 1));
        body.push(ret(*value));
    }
    if stub {
        body.push(jump(libc::BPF_JGT, base | highest, 0, 1));
        body.push(ret(libc::SECCOMP_RET_ERRNO | libc::ENOSYS as u32));
    }
    let over = distance(body.len())?;
    let mut section = vec![];
    match arch {
        // Numbers of x32 lie above all of x86_64's; -1, which a tracer sets to skip a call, above those.
        ScmpArch::X8664 => section.push(jump(libc::BPF_JGE, X32_BIT, distance(body.len() + 1)?, 0)),
        ScmpArch::X32 => {
            section.push(jump(libc::BPF_JGE, X32_BIT, 0, distance(body.len() + 2)?));
            section.push(jump(libc::BPF_JGE, X32_BIT << 1, distance(body.len() + 1)?, 0));
        }
        _ => section.push(jump(libc::BPF_JGE, X32_BIT, distance(body.len() + 1)?, 0)),
    }
    section.push(jump(libc::BPF_JGE, base | first, 0, over));
    section.extend(body);
    Ok(section)
}

/// Offsets in `struct seccomp_data`.
const SECCOMP_DATA_NR: u32 = 0;
const SECCOMP_DATA_ARCH: u32 = 4;

fn load(offset: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16, jt: 0, jf: 0, k: offset }
}

fn jump(comparison: u32, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_JMP | comparison | libc::BPF_K) as u16, jt, jf, k }
}

fn ret(value: u32) -> libc::sock_filter {
    libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: value }
}

/// Conditional jumps carry their distance in a byte.
fn distance(instructions: usize) -> Result<u8> {
    u8::try_from(instructions).map_err(|_| {
        Error::unsupported(
            "linux.seccomp",
            "the profile mentions more new system calls than a filter can decide",
        )
    })
}
