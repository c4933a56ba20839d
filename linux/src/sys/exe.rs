//! Letting go of the runtime's own binary (CVE-2019-5736).
//!
//! A process that enters a container is, until execve, an instance of a file of the host's: through `/proc/PID/exe`, or by having the
//! runtime execute `/proc/self/exe`, what runs in the container could open that file and, once nobody executes it any
//! more, overwrite it. So the process names an empty memfd as its executable (prctl(2), `PR_SET_MM_MAP`), and nothing that it
//! could be asked for leads to the host's file any more; no second execve and no copy of the file are needed. The kernel
//! allows that once nothing of the old executable is mapped, and tells files apart by mount and file: code and constants are
//! mapped again, at the same addresses, through another mount of the file, and data is replaced by anonymous memory.
//! Where there is no other mount, everything is replaced.

use std::fs;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::{check, mount};

/// `struct prctl_mm_map` of linux/prctl.h.
#[repr(C)]
#[derive(Debug, Default)]
struct MemoryMap {
    start_code: u64,
    end_code: u64,
    start_data: u64,
    end_data: u64,
    start_brk: u64,
    brk: u64,
    start_stack: u64,
    arg_start: u64,
    arg_end: u64,
    env_start: u64,
    env_end: u64,
    auxv: u64,
    auxv_size: u32,
    exe_fd: u32,
}

/// A mapping of the binary.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Mapping {
    start: usize,
    length: usize,
    protection: i32,
    offset: i64,
}

/// What must be known of this process before it can let go; read while its own procfs is still there.
#[derive(Debug)]
pub struct Image {
    mappings: Vec<Mapping>,
    map: MemoryMap,
    again: Option<fs::File>,
}

fn invalid(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("/proc/self/{what} cannot be understood"))
}

/// Mappings of files, from the text of /proc/self/maps. In a static program that is its binary, whatever the path says.
fn file_mappings(maps: &str) -> Option<Vec<Mapping>> {
    let mut found = vec![];
    for line in maps.lines() {
        let mut fields = line.split_ascii_whitespace();
        let (range, flags, offset) = (fields.next()?, fields.next()?, fields.next()?);
        if fields.nth(1)? == "0" {
            continue;
        }
        let (start, end) = range.split_once('-')?;
        let (start, end) = (usize::from_str_radix(start, 16).ok()?, usize::from_str_radix(end, 16).ok()?);
        let has = |letter: char, bit: i32| if flags.contains(letter) { bit } else { 0 };
        let protection = has('r', libc::PROT_READ) | has('w', libc::PROT_WRITE) | has('x', libc::PROT_EXEC);
        let offset = i64::from_str_radix(offset, 16).ok()?;
        found.push(Mapping { start, length: end - start, protection, offset });
    }
    Some(found)
}

impl Image {
    /// Reads /proc/self/maps and stat.
    ///
    /// # Errors
    /// procfs is missing.
    pub fn read(mounts: Mounts) -> io::Result<Self> {
        let maps = fs::read_to_string("/proc/self/maps")?;
        let mappings = file_mappings(&maps).ok_or_else(|| invalid("maps"))?;
        let stat = fs::read_to_string("/proc/self/stat")?;
        let after_name = stat.rfind(')').and_then(|at| stat.get(at + 2..)).ok_or_else(|| invalid("stat"))?;
        // proc_pid_stat(5) counts from 1, and the state behind the name is field 3.
        let fields: Vec<u64> = after_name.split_whitespace().map(|one| one.parse().unwrap_or(0)).collect();
        let field = |number: usize| fields.get(number - 3).copied().ok_or_else(|| invalid("stat"));
        let map = MemoryMap {
            start_code: field(26)?,
            end_code: field(27)?,
            start_stack: field(28)?,
            start_data: field(45)?,
            end_data: field(46)?,
            start_brk: field(47)?,
            arg_start: field(48)?,
            arg_end: field(49)?,
            env_start: field(50)?,
            env_end: field(51)?,
            ..MemoryMap::default()
        };
        // Not possible everywhere; then the constant parts are copied like the rest.
        Ok(Self { mappings, map, again: reopen(mounts).ok() })
    }

    /// Lets go of the binary. The caller must have no other thread.
    ///
    /// # Errors
    /// CAP_SYS_ADMIN or CAP_CHECKPOINT_RESTORE over the own user namespace is missing, or the kernel was built without
    /// CONFIG_CHECKPOINT_RESTORE.
    pub fn let_go(mut self) -> io::Result<()> {
        // Executable by mode, but there is nothing in it to execute.
        let empty = nix::sys::memfd::memfd_create(c"rkvm", nix::sys::memfd::MFdFlags::MFD_CLOEXEC)?;
        for mapping in &self.mappings {
            match &self.again {
                Some(file) if is_constant(mapping) => {
                    map_again(*mapping, file.as_fd())?;
                }
                _ => replace(*mapping)?,
            }
        }
        // SAFETY: sbrk(0) only tells.
        self.map.brk = unsafe { libc::sbrk(0) } as u64;
        self.map.exe_fd = empty.as_raw_fd() as u32;
        // SAFETY: the structure has the size that is passed; the addresses are those that the kernel itself reported.
        check(libc::c_long::from(unsafe {
            libc::prctl(
                libc::PR_SET_MM,
                libc::PR_SET_MM_MAP,
                &raw const self.map,
                size_of::<MemoryMap>() as libc::c_ulong,
                0,
            )
        }))
        .map(drop)
    }
}

/// Whether the bytes are those of the file for certain: code, and the segment with the ELF header and the constants. Other data that
/// is only readable now has been relocated before.
fn is_constant(mapping: &Mapping) -> bool {
    let writable = mapping.protection & libc::PROT_WRITE != 0;
    !writable && (mapping.protection & libc::PROT_EXEC != 0 || mapping.offset == 0)
}

/// Which mounts the caller sees.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mounts {
    /// Copies of its own, since it was made with CLONE_NEWNS: what it opens now has another mount than its executable.
    Own,
    /// Those that its executable was found in.
    Shared,
}

/// The binary, opened by another mount than the one that it is executed from.
fn reopen(mounts: Mounts) -> io::Result<fs::File> {
    let file = match mounts {
        Mounts::Own => fs::File::open(fs::read_link("/proc/self/exe")?)?,
        Mounts::Shared => {
            let flags = nix::fcntl::OFlag::O_PATH | nix::fcntl::OFlag::O_CLOEXEC;
            let exe = nix::fcntl::open("/proc/self/exe", flags, nix::sys::stat::Mode::empty())?;
            let tree = mount::clone_tree(exe.as_fd(), Path::new(""), mount::Depth::One)?;
            fs::File::open(format!("/proc/self/fd/{}", tree.as_raw_fd()))?
        }
    };
    // The path could lead to a newer file by now.
    let (found, executed) = (file.metadata()?, fs::metadata("/proc/self/exe")?);
    if (found.dev(), found.ino()) == (executed.dev(), executed.ino()) {
        Ok(file)
    } else {
        Err(io::Error::from_raw_os_error(libc::ESTALE))
    }
}

/// Maps the same part of the same file at the same address, by another path.
fn map_again(mapping: Mapping, file: BorrowedFd<'_>) -> io::Result<()> {
    let Mapping { start, length, protection, offset } = mapping;
    let flags = libc::MAP_PRIVATE | libc::MAP_FIXED;
    // SAFETY: the bytes are those that are mapped there already, since the file cannot be written while it is executed.
    let placed = unsafe {
        libc::mmap(start as *mut libc::c_void, length, protection, flags, file.as_raw_fd(), offset)
    };
    if placed == libc::MAP_FAILED { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Puts an anonymous copy in the place of a mapping.
fn replace(mapping: Mapping) -> io::Result<()> {
    let Mapping { start, length, protection, .. } = mapping;
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_POPULATE;
    // SAFETY: a new mapping anywhere.
    let copy =
        unsafe { libc::mmap(std::ptr::null_mut(), length, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if copy == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: both ranges are mapped for `length`, the old one readable (a loader makes no other of a file). Between the
    // copy and the move nothing is allocated and no static is written, so the copy of the data segment stays true; the
    // code that runs here finds the same bytes at the same address after the move.
    unsafe {
        std::ptr::copy_nonoverlapping(start as *const u8, copy.cast::<u8>(), length);
        check(libc::c_long::from(libc::mprotect(copy, length, protection)))?;
        let moved = libc::mremap(
            copy,
            length,
            length,
            libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED,
            start as *mut libc::c_void,
        );
        if moved == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sys::spawn;

    #[test]
    fn file_mappings_only() {
        let maps = "\
00400000-00401000 r--p 00000000 08:01 42    /usr/bin/rkvm oci
00401000-00403000 r-xp 00001000 08:01 42    /usr/bin/rkvm oci (deleted)
01000000-01021000 rw-p 00000000 00:00 0     [heap]
";
        let found = file_mappings(maps).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[1].length, 0x2000);
        assert_eq!(found[1].protection, libc::PROT_READ | libc::PROT_EXEC);
    }

    #[test]
    fn a_process_that_has_let_go_runs_on_and_its_binary_cannot_be_reached() {
        let child = spawn::fork().unwrap();
        let Some(pid) = child else {
            let done = Image::read(Mounts::Shared).and_then(Image::let_go);
            let link = fs::read_link("/proc/self/exe").unwrap_or_default();
            let gone = link.to_string_lossy().contains("memfd:rkvm");
            // EPERM where the test does not run as root.
            let denied = done.as_ref().is_err_and(|error| error.raw_os_error() == Some(libc::EPERM));
            spawn::exit_now(if denied || (done.is_ok() && gone) { 0 } else { 1 });
        };
        assert_eq!(
            crate::wait::wait_for(pid).unwrap(),
            rkvm_oci::ExitStatus::Exited(0),
            "see the child's own checks"
        );
    }
}
