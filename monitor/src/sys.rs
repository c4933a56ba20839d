//! System calls that neither std nor nix wraps.

use std::os::unix::process::CommandExt;
use std::process::Command;

/// Closes every descriptor from 3 on: whatever the caller of `rkvm` left open is not the container's business.
pub fn close_inherited() {
    // SAFETY: called before anything has been opened, so no owned descriptor is closed behind its owner's back.
    unsafe {
        libc::close_range(3, libc::c_uint::MAX, 0);
    }
}

/// How soon the kernel has this process run once there is something for it to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// As soon as any other.
    Equal,
    /// When a processor is free, or by turns (SCHED_BATCH of sched(7)). What this process has to do beside a program that has just been
    /// started would otherwise take the program's processor from it, even where another one is idle.
    Later,
}

/// Changes it, unless the user has had it start in another way (chrt(1)). Processes that this one makes are not concerned.
pub fn take(turn: Turn) {
    let policy = match turn {
        Turn::Equal => libc::SCHED_OTHER,
        Turn::Later => libc::SCHED_BATCH,
    };
    let parameters = libc::sched_param { sched_priority: 0 };
    // SAFETY: sched_getscheduler takes no pointer, and the other call reads one structure. An error changes nothing.
    unsafe {
        let now = libc::sched_getscheduler(0) & !libc::SCHED_RESET_ON_FORK;
        if now == libc::SCHED_OTHER || now == libc::SCHED_BATCH {
            libc::sched_setscheduler(0, policy | libc::SCHED_RESET_ON_FORK, &raw const parameters);
        }
    }
}

/// Gives memory back to the kernel that starting a container needed and watching it does not: unused heap, and the pages of the
/// program itself, which come back from the page cache as they are used.
pub fn trim_memory() {
    // SAFETY: malloc_trim may be called at any time; the callback fits its type and the null data is not used by it.
    unsafe {
        libc::malloc_trim(0);
        libc::dl_iterate_phdr(Some(drop_read_only_segments), std::ptr::null_mut());
    }
}

unsafe extern "C" fn drop_read_only_segments(
    info: *mut libc::dl_phdr_info,
    _size: usize,
    _data: *mut libc::c_void,
) -> libc::c_int {
    // SAFETY: dl_iterate_phdr passes a valid description of a loaded object for the time of this call.
    let info = unsafe { &*info };
    // SAFETY: the headers are dlpi_phnum entries from dlpi_phdr on, and stay mapped as long as the object.
    let headers = unsafe { std::slice::from_raw_parts(info.dlpi_phdr, usize::from(info.dlpi_phnum)) };
    let page = 4096;
    for header in headers {
        // Relocations change only segments that are writable when loaded.
        let unchanged = header.p_type == libc::PT_LOAD && header.p_flags & libc::PF_W == 0;
        // No address: the kernel's vdso, or this program not being position independent.
        if !unchanged || info.dlpi_addr == 0 {
            continue;
        }
        let first = (info.dlpi_addr + header.p_vaddr) as usize & !(page - 1);
        let length = header.p_memsz as usize & !(page - 1);
        // SAFETY: the range is a private mapping of a file that is never written through, so dropped pages are read from the
        // file again as they were. An error changes nothing.
        unsafe {
            libc::madvise(first as *mut libc::c_void, length, libc::MADV_DONTNEED);
        }
    }
    0
}

/// Makes the program of `command` the leader of a process group of its own, in the foreground of its terminal if it has one,
/// and unblocks all signals for it.
pub fn in_foreground_group(command: &mut Command) {
    let enter = || {
        // SAFETY: all of these are async-signal-safe, which is what is allowed between fork and exec; `none` is initialised by
        // sigemptyset. tcsetpgrp from a background group sends SIGTTOU, which the init has blocked; std passes the mask on
        // to children, so it is cleared last.
        unsafe {
            libc::setpgid(0, 0);
            libc::tcsetpgrp(0, libc::getpid());
            let mut none: libc::sigset_t = std::mem::zeroed();
            libc::sigemptyset(&raw mut none);
            libc::sigprocmask(libc::SIG_SETMASK, &raw const none, std::ptr::null_mut());
        }
        Ok(())
    };
    // SAFETY: `enter` allocates nothing, takes no lock and touches no memory of the parent.
    unsafe {
        command.pre_exec(enter);
    }
}
