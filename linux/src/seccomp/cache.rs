//! Compiled programs, kept between containers.
//!
//! A program taken from here decides what a container may do, so a file is used only if nobody but this user could have
//! written it, and only if it is whole.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::Path;

use oci_spec::runtime::LinuxSeccomp;
use sha2::{Digest, Sha256};

use super::compile;
use crate::sys::fs::is_trusted;

/// Changes whenever the compiler in this crate does.
const FORMAT: &str = "rkvm seccomp program 1";

/// Programs that are kept; one more empties the cache, so that callers that never use a profile twice cannot fill the
/// file system. A host has a handful.
const MAX_PROGRAMS: usize = 64;

/// Longest file that is read, bytes: the kernel's bound on programs, and the checksum.
const MAX_BYTES: u64 = 4096 * 8 + 32;

/// Hash of all that a program depends on: this code, libseccomp, and the profile.
pub(super) fn key(profile: &LinuxSeccomp) -> String {
    let mut hash = Sha256::new();
    hash.update(FORMAT);
    hash.update(compile::library_version());
    // A profile was JSON before, and writing to memory does not fail.
    hash.update(serde_json::to_vec(profile).unwrap_or_default());
    hex(&hash.finalize())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The program stored under `key`, if there is a trustworthy one.
pub(super) fn load(dir: &Path, key: &str) -> Option<Vec<libc::sock_filter>> {
    if !is_trusted(&fs::symlink_metadata(dir).ok()?, libc::S_IFDIR) {
        return None;
    }
    let file = OpenOptions::new().read(true).custom_flags(libc::O_NOFOLLOW).open(dir.join(key)).ok()?;
    let metadata = file.metadata().ok()?;
    if !is_trusted(&metadata, libc::S_IFREG) || metadata.len() > MAX_BYTES {
        return None;
    }
    let mut bytes = Vec::with_capacity(metadata.len() as usize);
    file.take(MAX_BYTES).read_to_end(&mut bytes).ok()?;
    let (checksum, program) = bytes.split_at_checked(32)?;
    (Sha256::digest(program)[..] == *checksum && !program.is_empty()).then(|| compile::decode(program))
}

/// Stores a program; failing to only costs the next container the time to compile.
pub(super) fn store(dir: &Path, key: &str, program: &[libc::sock_filter]) {
    let _ = try_store(dir, key, program);
}

fn try_store(dir: &Path, key: &str, program: &[libc::sock_filter]) -> io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    if !is_trusted(&fs::symlink_metadata(dir)?, libc::S_IFDIR) {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    if fs::read_dir(dir)?.count() >= MAX_PROGRAMS {
        for entry in fs::read_dir(dir)? {
            fs::remove_file(entry?.path())?;
        }
    }
    let bytes: Vec<u8> = program.iter().flat_map(encode).collect();
    // The name carries the process id: two containers may store the same program at once.
    let aside = dir.join(format!("{key}.{}", std::process::id()));
    let mut file: File = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .custom_flags(libc::O_NOFOLLOW)
        .open(&aside)?;
    let written = file
        .write_all(&Sha256::digest(&bytes))
        .and_then(|()| file.write_all(&bytes))
        .and_then(|()| fs::rename(&aside, dir.join(key)));
    if written.is_err() {
        fs::remove_file(&aside)?;
    }
    written
}

fn encode(instruction: &libc::sock_filter) -> [u8; 8] {
    let [c0, c1] = instruction.code.to_ne_bytes();
    let [k0, k1, k2, k3] = instruction.k.to_ne_bytes();
    [c0, c1, instruction.jt, instruction.jf, k0, k1, k2, k3]
}
