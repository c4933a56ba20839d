//! The file server with the checks that it leaves to its surroundings.
//!
//! The library trusts the names, offsets and flags of a message: it relies on a process that has nothing but the shared folder, and on
//! a guest whose kernel sends only what it should. Here a name is one step of a path, so that no message leaves the shared folder
//! even where the process's root is larger; numbers on which the library would panic are refused; a guest makes no device
//! node, and a file keeps what [`super::privileges`] says.

use std::ffi::CStr;
use std::io;
use std::time::Duration;

use virtiofsd::descriptor_utils::{Reader, Writer};
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse;
use virtiofsd::passthrough::PassthroughFs;
use virtiofsd::server::Server;
use virtiofsd::soft_idmap::Id as _;

use super::privileges::{Given, Privileges};
use super::stamps::Stamps;

type Inode = u64;
type Handle = u64;

/// What a guest's open flags may ask of the host's kernel; what to do about missing files, links and terminals was decided before.
const OPEN_FLAGS: u32 = (libc::O_ACCMODE
    | libc::O_TRUNC
    | libc::O_APPEND
    | libc::O_NONBLOCK
    | libc::O_DSYNC
    | libc::O_SYNC
    | libc::O_DIRECTORY
    | libc::O_NOATIME) as u32;

/// The extended attribute that holds file capabilities.
const CAPABILITY: &CStr = c"security.capability";

/// The FUSE protocol over the confined file server.
pub(super) struct Served(Server<Confined>);

impl Served {
    pub(super) fn new(fs: Confined) -> Self {
        Self(Server::new(fs))
    }

    /// Serves one message; the number of bytes of the reply.
    pub(super) fn handle(&self, message: Reader<'_>, reply: Writer<'_>) -> virtiofsd::Result<usize> {
        // No shared-memory window: nothing can be mapped.
        self.0.handle_message(message, reply, None::<&mut ()>)
    }

    /// Closes every file and forgets every inode.
    pub(super) fn forget_everything(&self) {
        self.0.destroy();
    }
}

/// A file server that can be shown to a hostile guest.
pub(super) struct Confined {
    inner: PassthroughFs,
    stamps: Stamps,
    privileges: Privileges,
}

impl Confined {
    pub(super) fn new(inner: PassthroughFs) -> Self {
        Self { inner, stamps: Stamps::new(), privileges: Privileges::default() }
    }

    /// Sets again what a change of owner, or a truncation that changes nothing, has taken away.
    fn give_back(&self, ctx: Context, inode: Inode, given: Given) -> io::Result<(fuse::Attr, Duration)> {
        if let Some(capability) = &given.capability {
            self.inner.setxattr(ctx, inode, CAPABILITY, capability, 0, SetxattrFlags::empty())?;
        }
        let Some(mode) = given.mode else { return self.inner.getattr(ctx, inode, None) };
        let attr = fuse::SetattrIn { mode, ..Default::default() };
        self.inner.setattr(ctx, inode, attr, None, SetattrValid::MODE)
    }
}

fn refused(errno: i32) -> io::Error {
    io::Error::from_raw_os_error(errno)
}

/// One step of a path, downwards.
fn step(name: &CStr) -> io::Result<&CStr> {
    match name.to_bytes() {
        b"" | b"." | b".." => Err(refused(libc::EINVAL)),
        bytes if bytes.contains(&b'/') => Err(refused(libc::EINVAL)),
        _ => Ok(name),
    }
}

/// An offset that the host's kernel can take.
fn position(offset: u64, bytes: u64) -> io::Result<u64> {
    let end = offset.checked_add(bytes).ok_or_else(|| refused(libc::EINVAL))?;
    i64::try_from(end).map(|_| offset).map_err(|_| refused(libc::EINVAL))
}

/// A kind of file that is safe in the host's folder: a device node there would open the host's devices to whoever can reach it.
/// Character device 0/0 is none; it is how overlayfs marks a deleted file.
fn kind(mode: u32, device: u32) -> io::Result<()> {
    match mode & libc::S_IFMT {
        0 | libc::S_IFREG | libc::S_IFIFO | libc::S_IFSOCK => Ok(()),
        libc::S_IFCHR if device == 0 => Ok(()),
        _ => Err(refused(libc::EPERM)),
    }
}

impl FileSystem for Confined {
    type Inode = Inode;
    type Handle = Handle;
    type DirIter = <PassthroughFs as FileSystem>::DirIter;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.inner.init(capable)
    }

    fn destroy(&self) {
        self.inner.destroy();
    }

    fn lookup(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<Entry> {
        self.inner.lookup(ctx, parent, step(name)?)
    }

    fn forget(&self, ctx: Context, inode: Inode, count: u64) {
        self.inner.forget(ctx, inode, count);
    }

    fn batch_forget(&self, ctx: Context, requests: Vec<(Inode, u64)>) {
        self.inner.batch_forget(ctx, requests);
    }

    fn getattr(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Option<Handle>,
    ) -> io::Result<(fuse::Attr, Duration)> {
        self.inner.getattr(ctx, inode, handle)
    }

    fn setattr(
        &self,
        ctx: Context,
        inode: Inode,
        attr: fuse::SetattrIn,
        handle: Option<Handle>,
        valid: SetattrValid,
    ) -> io::Result<(fuse::Attr, Duration)> {
        let root = ctx.uid.is_root();
        let resized = valid.contains(SetattrValid::SIZE)
            && self.privileges.given(inode).is_some()
            && self.inner.getattr(ctx, inode, None).is_ok_and(|(before, _)| before.size != attr.size);
        if !root || resized {
            self.privileges.lost(inode);
        }
        let done = self.inner.setattr(ctx, inode, attr, handle, valid)?;
        if root && valid.contains(SetattrValid::MODE) {
            self.privileges.mode(inode, attr.mode);
        }
        if valid.intersects(SetattrValid::UID | SetattrValid::GID | SetattrValid::SIZE)
            && let Some(given) = self.privileges.given(inode)
        {
            return self.give_back(ctx, inode, given);
        }
        Ok(done)
    }

    fn readlink(&self, ctx: Context, inode: Inode) -> io::Result<Vec<u8>> {
        self.inner.readlink(ctx, inode)
    }

    fn symlink(
        &self,
        ctx: Context,
        target: &CStr,
        parent: Inode,
        name: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.inner.symlink(ctx, target, parent, step(name)?, extensions)
    }

    fn mknod(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        device: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        kind(mode, device)?;
        let entry = self.inner.mknod(ctx, parent, step(name)?, mode, device, umask, extensions)?;
        if ctx.uid.is_root() {
            self.privileges.made(entry.inode, parent, name, mode);
        }
        Ok(entry)
    }

    fn mkdir(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        self.inner.mkdir(ctx, parent, step(name)?, mode, umask, extensions)
    }

    fn unlink(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        self.privileges.moved(parent, name);
        self.inner.unlink(ctx, parent, step(name)?)
    }

    fn rmdir(&self, ctx: Context, parent: Inode, name: &CStr) -> io::Result<()> {
        self.inner.rmdir(ctx, parent, step(name)?)
    }

    fn rename(
        &self,
        ctx: Context,
        from: Inode,
        old: &CStr,
        to: Inode,
        new: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        self.privileges.moved(from, old);
        self.inner.rename(ctx, from, step(old)?, to, step(new)?, flags)
    }

    fn link(&self, ctx: Context, inode: Inode, parent: Inode, name: &CStr) -> io::Result<Entry> {
        self.privileges.linked(inode);
        self.inner.link(ctx, inode, parent, step(name)?)
    }

    fn open(
        &self,
        ctx: Context,
        inode: Inode,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<Handle>, OpenOptions)> {
        if flags & libc::O_TRUNC as u32 != 0 {
            self.privileges.lost(inode);
        }
        let (handle, mut options) = self.inner.open(ctx, inode, kill_priv, flags & OPEN_FLAGS)?;
        // After the opening, which may have truncated it.
        if let Ok((attr, _)) = self.inner.getattr(ctx, inode, None) {
            if self.stamps.same_as_before(inode, &attr) {
                options |= OpenOptions::KEEP_CACHE;
            }
            if attr.size == 0 && self.inner.statfs(ctx, inode).is_ok_and(|space| space.f_blocks == 0) {
                // The host's `/proc` does not say how much there is to read, and the guest's kernel asks only up to the size.
                options |= OpenOptions::DIRECT_IO;
            }
        }
        Ok((handle, options))
    }

    fn create(
        &self,
        ctx: Context,
        parent: Inode,
        name: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<Handle>, OpenOptions)> {
        let flags = flags & (OPEN_FLAGS | libc::O_EXCL as u32);
        self.inner.create(ctx, parent, step(name)?, mode, kill_priv, flags, umask, extensions)
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        w: W,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        let offset = position(offset, size.into())?;
        self.inner.read(ctx, inode, handle, w, size, offset, lock_owner, flags)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        r: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        let offset = position(offset, size.into())?;
        self.inner.write(ctx, inode, handle, r, size, offset, lock_owner, delayed_write, kill_priv, flags)
    }

    /// Closing a descriptor is no message: the guest has sent what was written by then, and a third of the messages of a program
    /// that reads many small files would be these. The host's file is closed with RELEASE.
    fn flush(&self, _ctx: Context, _inode: Inode, _handle: Handle, _lock_owner: u64) -> io::Result<()> {
        Err(refused(libc::ENOSYS))
    }

    fn fsync(&self, ctx: Context, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()> {
        self.inner.fsync(ctx, inode, datasync, handle)
    }

    fn fallocate(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        let offset = position(offset, length)?;
        self.inner.fallocate(ctx, inode, handle, mode, offset, length)
    }

    fn release(
        &self,
        ctx: Context,
        inode: Inode,
        flags: u32,
        handle: Handle,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        self.inner.release(ctx, inode, flags, handle, flush, flock_release, lock_owner)
    }

    fn statfs(&self, ctx: Context, inode: Inode) -> io::Result<libc::statvfs64> {
        self.inner.statfs(ctx, inode)
    }

    fn setxattr(
        &self,
        ctx: Context,
        inode: Inode,
        name: &CStr,
        value: &[u8],
        flags: u32,
        extra_flags: SetxattrFlags,
    ) -> io::Result<()> {
        self.inner.setxattr(ctx, inode, name, value, flags, extra_flags)?;
        if name == CAPABILITY && ctx.uid.is_root() {
            self.privileges.capability(inode, value);
        }
        Ok(())
    }

    fn getxattr(&self, ctx: Context, inode: Inode, name: &CStr, size: u32) -> io::Result<GetxattrReply> {
        self.inner.getxattr(ctx, inode, name, size)
    }

    fn listxattr(&self, ctx: Context, inode: Inode, size: u32) -> io::Result<ListxattrReply> {
        self.inner.listxattr(ctx, inode, size)
    }

    fn removexattr(&self, ctx: Context, inode: Inode, name: &CStr) -> io::Result<()> {
        self.privileges.lost(inode);
        self.inner.removexattr(ctx, inode, name)
    }

    fn opendir(&self, ctx: Context, inode: Inode, flags: u32) -> io::Result<(Option<Handle>, OpenOptions)> {
        // Whatever the guest says, a folder is opened to be read.
        self.inner.opendir(ctx, inode, flags & libc::O_NOATIME as u32)
    }

    fn readdir(
        &self,
        ctx: Context,
        inode: Inode,
        handle: Handle,
        size: u32,
        offset: u64,
    ) -> io::Result<Self::DirIter> {
        self.inner.readdir(ctx, inode, handle, size, offset)
    }

    fn fsyncdir(&self, ctx: Context, inode: Inode, datasync: bool, handle: Handle) -> io::Result<()> {
        self.inner.fsyncdir(ctx, inode, datasync, handle)
    }

    fn releasedir(&self, ctx: Context, inode: Inode, flags: u32, handle: Handle) -> io::Result<()> {
        self.inner.releasedir(ctx, inode, flags, handle)
    }

    fn access(&self, ctx: Context, inode: Inode, mask: u32) -> io::Result<()> {
        self.inner.access(ctx, inode, mask)
    }

    fn lseek(&self, ctx: Context, inode: Inode, handle: Handle, offset: u64, whence: u32) -> io::Result<u64> {
        self.inner.lseek(ctx, inode, handle, offset, whence)
    }

    fn copyfilerange(
        &self,
        ctx: Context,
        inode_in: Inode,
        handle_in: Handle,
        offset_in: u64,
        inode_out: Inode,
        handle_out: Handle,
        offset_out: u64,
        len: u64,
        flags: u64,
    ) -> io::Result<usize> {
        self.inner
            .copyfilerange(ctx, inode_in, handle_in, offset_in, inode_out, handle_out, offset_out, len, flags)
    }

    fn syncfs(&self, ctx: Context, inode: Inode) -> io::Result<()> {
        self.inner.syncfs(ctx, inode)
    }
}
