//! How many processes the guest has killed for want of memory: written by the machine's process when it ends, into a file that the
//! creator has opened for it, because nobody can ask a machine that is gone.

use std::fs::File;
use std::io::{self, Read, Write};
use std::path::Path;

use rkvm_oci::{Error, Result};

/// In the state folder.
const NAME: &str = "oom-kills";
/// Longest number, digits: a guest that takes over the machine's process may write anything.
const MAX_DIGITS: u64 = 20;

/// Makes the file, empty.
///
/// # Errors
/// It cannot be made.
pub fn create(state_dir: &Path) -> Result<File> {
    let path = state_dir.join(NAME);
    File::create(&path).map_err(|source| Error::failed("make", path.display(), source))
}

/// Writes the number into the file.
///
/// # Errors
/// The folder's file system is full.
pub fn write(mut file: &File, kills: u64) -> io::Result<()> {
    file.write_all(kills.to_string().as_bytes())
}

/// The number of a machine that has ended; 0 when it had none to tell.
pub fn read(state_dir: &Path) -> u64 {
    let mut text = String::new();
    let file = File::open(state_dir.join(NAME));
    let read = file.and_then(|file| file.take(MAX_DIGITS).read_to_string(&mut text));
    read.ok().and_then(|_| text.parse().ok()).unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_number_is_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(read(folder.path()), 0, "without a file");
        let file = create(folder.path()).unwrap();
        assert_eq!(read(folder.path()), 0, "of an empty file");
        write(&file, u64::MAX).unwrap();
        assert_eq!(read(folder.path()), u64::MAX);
        for text in [&b"-1"[..], b"1 2", b"\xff\xff", &[b'9'; 4096]] {
            std::fs::write(folder.path().join(NAME), text).unwrap();
            assert_eq!(read(folder.path()), 0, "{text:?}");
        }
    }
}
