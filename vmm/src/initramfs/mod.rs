//! Writes an initramfs: a cpio archive in the "newc" format (Documentation/driver-api/early-userspace/buffer-format.rst).

pub mod modules;

use std::io::{self, Write};

const MAGIC: &str = "070701";
const REGULAR: u32 = 0o100_000;
const FOLDER: u32 = 0o040_000;
const CHARACTER_DEVICE: u32 = 0o020_000;
const END: &str = "TRAILER!!!";

/// An archive that is being written. Entries of a folder come behind the folder's own.
#[derive(Debug)]
pub struct Archive<W> {
    out: W,
    written: u64,
    entries: u32,
}

impl<W: Write> Archive<W> {
    /// An archive that goes to `out`.
    pub fn new(out: W) -> Self {
        Self { out, written: 0, entries: 0 }
    }

    /// A folder; `path` without a leading slash, `permissions` as in chmod.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn folder(&mut self, path: &str, permissions: u32) -> io::Result<()> {
        self.entry(path, FOLDER | permissions, (0, 0), &[])
    }

    /// A file with `content`.
    ///
    /// # Errors
    /// The output cannot be written, or the content has 4 GiB or more.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) -> io::Result<()> {
        self.entry(path, REGULAR | permissions, (0, 0), content)
    }

    /// A character device.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn character_device(
        &mut self,
        path: &str,
        permissions: u32,
        major: u32,
        minor: u32,
    ) -> io::Result<()> {
        self.entry(path, CHARACTER_DEVICE | permissions, (major, minor), &[])
    }

    /// Ends the archive and gives its output back.
    ///
    /// # Errors
    /// The output cannot be written.
    pub fn finish(mut self) -> io::Result<W> {
        self.entry(END, 0, (0, 0), &[])?;
        self.out.flush()?;
        Ok(self.out)
    }

    fn entry(&mut self, path: &str, mode: u32, device: (u32, u32), content: &[u8]) -> io::Result<()> {
        let bytes = u32::try_from(content.len()).map_err(|_| io::Error::from(io::ErrorKind::FileTooLarge))?;
        self.entries += 1;
        let name_bytes = path.len() as u32 + 1;
        // inode, mode, uid, gid, links, time, size, device of the file system, device, name's length, checksum (unused)
        let fields = [self.entries, mode, 0, 0, 1, 0, bytes, 0, 0, device.0, device.1, name_bytes, 0]
            .map(|f| format!("{f:08x}"));
        self.write(MAGIC.as_bytes())?;
        self.write(fields.concat().as_bytes())?;
        self.write(path.as_bytes())?;
        self.write(&[0])?;
        self.pad()?;
        self.write(content)?;
        self.pad()
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn pad(&mut self) -> io::Result<()> {
        let missing = self.written.next_multiple_of(4) - self.written;
        self.write(&[0; 3][..missing as usize])
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Read;
    use std::process::{Command, Stdio};

    #[test]
    fn other_readers_understand_it() {
        let mut archive = Archive::new(Vec::new());
        archive.folder("a", 0o755).unwrap();
        archive.file("a/f", 0o640, b"hello").unwrap();
        archive.character_device("a/c", 0o600, 1, 4).unwrap();
        let bytes = archive.finish().unwrap();
        assert_eq!(bytes.len() % 4, 0);
        let mut child = Command::new("busybox")
            .args(["cpio", "-t", "-v"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        child.stdin.take().unwrap().write_all(&bytes).unwrap();
        let mut text = String::new();
        child.stdout.take().unwrap().read_to_string(&mut text).unwrap();
        assert!(child.wait().unwrap().success());
        let lines: Vec<&str> = text.lines().collect();
        assert!(lines[0].starts_with("drwxr-xr-x") && lines[0].ends_with(" a"), "{text}");
        assert!(lines[1].starts_with("-rw-r-----") && lines[1].contains(" 5 "), "{text}");
        assert!(lines[2].starts_with("crw-------") && lines[2].ends_with(" a/c"), "{text}");
    }
}
