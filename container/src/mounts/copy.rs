//! Copies a tree of files between two descriptors: for `tmpcopyup`.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, BorrowedFd};

use nix::dir::Dir;
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::sys::stat::{Mode, SFlag, fchmod, fstatat, mkdirat, mknodat};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

/// Copies everything below folder `from` into folder `to`: owners, modes, symlinks and special files too.
///
/// # Errors
/// Something cannot be read or made; what has been copied stays.
pub fn tree(from: BorrowedFd<'_>, to: BorrowedFd<'_>) -> io::Result<()> {
    // The descriptors may be O_PATH, which cannot be listed.
    let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
    let listed = openat(from, ".", flags, Mode::empty())?;
    let status = fstatat(from, ".", AtFlags::empty())?;
    let to = openat(to, ".", flags, Mode::empty())?;
    fchownat(
        to.as_fd(),
        ".",
        Some(Uid::from_raw(status.st_uid)),
        Some(Gid::from_raw(status.st_gid)),
        AtFlags::empty(),
    )?;
    fchmod(to.as_fd(), Mode::from_bits_truncate(status.st_mode & 0o7777))?;
    let mut folder = Dir::from_fd(listed)?;
    let names: Vec<_> = folder
        .iter()
        .map(|entry| entry.map(|entry| entry.file_name().to_owned()))
        .collect::<nix::Result<_>>()?;
    for name in names.iter().filter(|name| !matches!(name.to_bytes(), b"." | b"..")) {
        let name = name.as_c_str();
        let status = fstatat(from, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
        let mode = Mode::from_bits_truncate(status.st_mode & 0o7777);
        match status.st_mode & libc::S_IFMT {
            libc::S_IFDIR => {
                mkdirat(to.as_fd(), name, mode)?;
                let below = openat(from, name, flags, Mode::empty())?;
                let copy = openat(to.as_fd(), name, flags, Mode::empty())?;
                tree(below.as_fd(), copy.as_fd())?;
                continue;
            }
            libc::S_IFLNK => {
                symlinkat(readlinkat(from, name)?.as_os_str(), to.as_fd(), name)?;
            }
            libc::S_IFREG => {
                let read = OFlag::O_RDONLY | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
                let write = OFlag::O_WRONLY | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
                let mut source = File::from(openat(from, name, read, Mode::empty())?);
                let mut copy = File::from(openat(to.as_fd(), name, write, mode)?);
                io::copy(&mut source, &mut copy)?;
                fchmod(copy.as_fd(), mode)?;
            }
            special => {
                let kind = SFlag::from_bits_truncate(special);
                mknodat(to.as_fd(), name, kind, mode, status.st_rdev)?;
            }
        }
        let (uid, gid) = (Uid::from_raw(status.st_uid), Gid::from_raw(status.st_gid));
        fchownat(to.as_fd(), name, Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)?;
    }
    Ok(())
}
