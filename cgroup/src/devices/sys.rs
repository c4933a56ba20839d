//! bpf(2) for device programs.

use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};

use nix::errno::Errno;

use super::program::Instruction;

/// Commands, types and flags of linux/bpf.h.
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const BPF_PROG_DETACH: libc::c_long = 9;
const BPF_PROG_GET_FD_BY_ID: libc::c_long = 13;
const BPF_PROG_QUERY: libc::c_long = 16;
const BPF_PROG_TYPE_CGROUP_DEVICE: u32 = 15;
const BPF_CGROUP_DEVICE: u32 = 6;
const BPF_F_ALLOW_MULTI: u32 = 2;

/// Most programs that one cgroup can carry (BPF_CGROUP_MAX_PROGS).
const MAX_PROGRAMS: usize = 64;

/// The members of `union bpf_attr` that [`load`] uses; the kernel takes what follows for zero.
#[repr(C)]
struct LoadAttr {
    prog_type: u32,
    insn_cnt: u32,
    insns: u64,
    license: u64,
}

#[repr(C)]
struct AttachAttr {
    target_fd: u32,
    attach_bpf_fd: u32,
    attach_type: u32,
    attach_flags: u32,
}

#[repr(C)]
struct QueryAttr {
    target_fd: u32,
    attach_type: u32,
    query_flags: u32,
    attach_flags: u32,
    prog_ids: u64,
    prog_cnt: u32,
    reserved: u32,
}

#[repr(C)]
struct IdAttr {
    prog_id: u32,
    next_id: u32,
    open_flags: u32,
}

/// A command whose attribute is a structure of this file.
///
/// # Safety
/// Addresses inside `attr` must be valid for what `command` does with them.
unsafe fn bpf<T>(command: libc::c_long, attr: &mut T) -> nix::Result<RawFd> {
    // SAFETY: `attr` is a live structure of exactly the given size; what it points to is the caller's promise.
    let result = unsafe { libc::syscall(libc::SYS_bpf, command, std::ptr::from_mut(attr), size_of::<T>()) };
    Errno::result(result).map(|result| result as RawFd)
}

/// Loads a program; the kernel's verifier checks it.
pub(super) fn load(program: &[Instruction]) -> nix::Result<OwnedFd> {
    let mut attr = LoadAttr {
        prog_type: BPF_PROG_TYPE_CGROUP_DEVICE,
        insn_cnt: u32::try_from(program.len()).map_err(|_| Errno::E2BIG)?,
        insns: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
    };
    // SAFETY: `insns` points to `insn_cnt` instructions laid out as the kernel's, `license` to a string with its NUL; both
    // outlive the call and are only read.
    let fd = unsafe { bpf(BPF_PROG_LOAD, &mut attr) }?;
    // SAFETY: a successful load returns a new descriptor (close-on-exec) that nobody else owns.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// Attaches a program beside those of the cgroup and of its ancestors: all of them must allow.
pub(super) fn attach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> nix::Result<()> {
    let mut attr = attach_attr(cgroup, program, BPF_F_ALLOW_MULTI);
    // SAFETY: the structure has no addresses.
    unsafe { bpf(BPF_PROG_ATTACH, &mut attr) }.map(|_| ())
}

/// Detaches a program.
pub(super) fn detach(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>) -> nix::Result<()> {
    let mut attr = attach_attr(cgroup, program, 0);
    // SAFETY: the structure has no addresses.
    unsafe { bpf(BPF_PROG_DETACH, &mut attr) }.map(|_| ())
}

fn attach_attr(cgroup: BorrowedFd<'_>, program: BorrowedFd<'_>, flags: u32) -> AttachAttr {
    AttachAttr {
        // Descriptors of this process are not negative.
        target_fd: cgroup.as_raw_fd() as u32,
        attach_bpf_fd: program.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        attach_flags: flags,
    }
}

/// The device programs attached to the cgroup itself.
pub(super) fn attached(cgroup: BorrowedFd<'_>) -> nix::Result<Vec<OwnedFd>> {
    let mut ids = [0_u32; MAX_PROGRAMS];
    let mut attr = QueryAttr {
        target_fd: cgroup.as_raw_fd() as u32,
        attach_type: BPF_CGROUP_DEVICE,
        query_flags: 0,
        attach_flags: 0,
        prog_ids: ids.as_mut_ptr() as u64,
        prog_cnt: MAX_PROGRAMS as u32,
        reserved: 0,
    };
    // SAFETY: `prog_ids` points to `prog_cnt` numbers that outlive the call.
    unsafe { bpf(BPF_PROG_QUERY, &mut attr) }?;
    let mut programs = vec![];
    for id in ids.iter().take(attr.prog_cnt as usize) {
        let mut attr = IdAttr { prog_id: *id, next_id: 0, open_flags: 0 };
        // SAFETY: the structure has no addresses.
        let fd = unsafe { bpf(BPF_PROG_GET_FD_BY_ID, &mut attr) }?;
        // SAFETY: success returns a new descriptor (close-on-exec) that nobody else owns.
        programs.push(unsafe { OwnedFd::from_raw_fd(fd) });
    }
    Ok(programs)
}
