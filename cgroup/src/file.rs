//! Reading and writing cgroup files, with errors that name the field of config.json.

use std::fs::{self, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::Path;

use rkvm_oci::{Error, Result};

/// Writes `value` to `dir`/`file` in one `write`, as cgroup files want it.
pub(super) fn write(dir: &Path, file: &str, value: impl AsRef<[u8]>) -> io::Result<()> {
    OpenOptions::new().write(true).open(dir.join(file))?.write_all(value.as_ref())
}

/// Sets the file that `field` of config.json controls.
///
/// # Errors
/// [`Error::Unsupported`] naming the field when the kernel has no such file, [`Error::Failed`] when it refuses the value.
pub(super) fn set(dir: &Path, file: &str, value: impl ToString, field: &str) -> Result<()> {
    let value = value.to_string();
    write(dir, file, &value).map_err(|error| refused(error, dir, file, &value, field))
}

/// The error of a write that failed.
pub(super) fn refused(error: io::Error, dir: &Path, file: &str, value: &str, field: &str) -> Error {
    if error.kind() == ErrorKind::NotFound && dir.is_dir() {
        return Error::unsupported(
            format!("linux.resources.{field}"),
            format!("this host's kernel offers no {file}; remove the limit or boot a kernel that has it"),
        );
    }
    let target = format!("linux.resources.{field} to {value:?} ({})", dir.join(file).display());
    Error::failed("set", target, error)
}

/// The error for a limit whose controller this host does not have.
pub(super) fn no_controller(controller: &str, field: &str) -> Error {
    Error::unsupported(
        format!("linux.resources.{field}"),
        format!(
            "this host has no cgroup controller `{controller}` to enforce it; remove the limit or mount it"
        ),
    )
}

/// The whole file.
pub(super) fn read(dir: &Path, file: &str) -> Result<String> {
    let path = dir.join(file);
    fs::read_to_string(&path).map_err(|source| Error::failed("read", path.display(), source))
}

/// A file with one number; `None` for `max`, or when the kernel has no such file.
pub(super) fn number(dir: &Path, file: &str) -> Result<Option<u64>> {
    Ok(optional(dir, file)?.and_then(|text| text.trim().parse().ok()))
}

/// The file, or `None` when the kernel has no such file.
pub(super) fn optional(dir: &Path, file: &str) -> Result<Option<String>> {
    let path = dir.join(file);
    match fs::read_to_string(&path) {
        Ok(text) => Ok(Some(text)),
        // EOPNOTSUPP and ENODEV: the file is there, the feature behind it is not.
        Err(error)
            if error.kind() == ErrorKind::NotFound
                || matches!(error.raw_os_error(), Some(libc::EOPNOTSUPP | libc::ENODEV)) =>
        {
            Ok(None)
        }
        Err(source) => Err(Error::failed("read", path.display(), source)),
    }
}

/// Value of `key` in a file of `key value` lines.
pub(super) fn keyed(text: &str, key: &str) -> Option<u64> {
    text.lines()
        .find_map(|line| line.strip_prefix(key)?.strip_prefix(' '))
        .and_then(|value| value.trim().parse().ok())
}
