//! Report files.

use std::fs::{self, File};
use std::io::Write;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::model::{Report, SCHEMA, SCHEMA_VERSION};

/// A file that is going to be written, known to be writable before anything is measured.
#[derive(Debug)]
pub struct Output {
    path: PathBuf,
    way: Way,
}

/// How it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Way {
    Stdout,
    /// A device or a pipe.
    InPlace,
    /// By way of this file beside it, so that it is there whole or not at all.
    Replace(PathBuf),
}

impl Output {
    /// Checks that `path` can be written, without touching what is there. `-` is standard output. Nothing is left beside it meanwhile:
    /// whatever ends a measurement, there is no file to be removed.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn reserve(path: &Path) -> Result<Self> {
        let fail = |error| Error::file("write", path, error);
        let output = |way| Ok(Self { path: path.to_owned(), way });
        if path == Path::new("-") {
            return output(Way::Stdout);
        }
        if path.is_dir() {
            return Err(fail(std::io::ErrorKind::IsADirectory.into()));
        }
        if path.exists() && !path.is_file() {
            return output(Way::InPlace);
        }
        if path.exists() {
            File::options().append(true).open(path).map_err(fail)?;
        }
        let name = path.file_name().ok_or_else(|| fail(std::io::ErrorKind::InvalidInput.into()))?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(temporary);
        // Only making one tells: root may write everywhere by its rights, and not in /proc or on a read-only filesystem.
        File::create(&temporary).and_then(|_| fs::remove_file(&temporary)).map_err(fail)?;
        output(Way::Replace(temporary))
    }

    /// Writes it.
    ///
    /// # Errors
    /// The disk is full, or the like; what was there before stays.
    pub fn write(self, content: &str) -> Result<()> {
        let bytes = content.as_bytes();
        let written = match &self.way {
            Way::Stdout => std::io::stdout().write_all(bytes),
            Way::InPlace => fs::write(&self.path, bytes),
            Way::Replace(temporary) => {
                let replaced = File::create(temporary)
                    .and_then(|mut file| file.write_all(bytes).and_then(|()| file.sync_all()))
                    .and_then(|()| fs::rename(temporary, &self.path));
                if replaced.is_err() {
                    let _ = fs::remove_file(temporary);
                }
                replaced
            }
        };
        written.map_err(|error| Error::file("write", &self.path, error))
    }
}

/// The report as JSON, with a line end.
///
/// # Errors
/// A number in it is none (NaN).
pub fn to_json(report: &Report) -> serde_json::Result<String> {
    serde_json::to_string_pretty(report).map(|text| text + "\n")
}

/// Reads a report.
///
/// # Errors
/// It cannot be read, is none, or is of another version.
pub fn read(path: &Path) -> Result<Report> {
    #[derive(serde::Deserialize)]
    struct Head {
        schema: String,
        version: u32,
    }
    let text = fs::read_to_string(path).map_err(|error| Error::file("read", path, error))?;
    let no_report = |source| Error::NoReport { path: path.to_owned(), source };
    let head: Head = serde_json::from_str(&text).map_err(no_report)?;
    if head.schema != SCHEMA {
        return Err(Error::invalid(
            "report",
            path.to_string_lossy(),
            format!("its schema is {:?}, not {SCHEMA:?}", head.schema),
        ));
    }
    if head.version != SCHEMA_VERSION {
        return Err(Error::Version { path: path.to_owned(), version: head.version, known: SCHEMA_VERSION });
    }
    serde_json::from_str(&text).map_err(no_report)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_checked_before_and_whole_after() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("report.json");
        fs::write(&path, "old").unwrap();
        let reserved = Output::reserve(&path).unwrap();
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1, "a killed measurement leaves no file");
        drop(reserved);
        assert_eq!(fs::read_to_string(&path).unwrap(), "old");
        Output::reserve(&path).unwrap().write("new").unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), "new");
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        assert!(Output::reserve(folder.path()).is_err());
        assert!(Output::reserve(&folder.path().join("missing/report.json")).is_err());
        assert!(Output::reserve(Path::new("/proc/report.json")).is_err());
    }

    #[test]
    fn what_is_no_report_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.json");
        for (text, message) in [
            ("not json", "is no report"),
            ("{}", "is no report"),
            (r#"{"schema":"other","version":1}"#, "its schema"),
            (r#"{"schema":"rkvm-compare","version":99}"#, "version 99"),
            (r#"{"schema":"rkvm-compare","version":1}"#, "is no report"),
        ] {
            fs::write(&path, text).unwrap();
            let error = read(&path).unwrap_err().to_string();
            assert!(error.contains(message), "{text}: {error}");
        }
        assert!(read(&folder.path().join("missing")).is_err());
    }
}
