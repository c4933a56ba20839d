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
    temporary: Option<(PathBuf, File)>,
}

impl Output {
    /// Checks that `path` can be written, without touching what is there. `-` is standard output.
    ///
    /// # Errors
    /// It cannot be written.
    pub fn reserve(path: &Path) -> Result<Self> {
        let fail = |error| Error::file("write", path, error);
        if path == Path::new("-") {
            return Ok(Self { path: path.to_owned(), temporary: None });
        }
        if path.is_dir() {
            return Err(fail(std::io::ErrorKind::IsADirectory.into()));
        }
        // A device or a pipe is written in place, a file is replaced when all is there.
        if path.exists() && !path.is_file() {
            return Ok(Self { path: path.to_owned(), temporary: None });
        }
        if path.exists() {
            File::options().append(true).open(path).map_err(fail)?;
        }
        let name = path.file_name().ok_or_else(|| fail(std::io::ErrorKind::InvalidInput.into()))?;
        let mut temporary = std::ffi::OsString::from(".");
        temporary.push(name);
        temporary.push(format!(".{}", std::process::id()));
        let temporary = path.with_file_name(temporary);
        let file = File::create(&temporary).map_err(fail)?;
        Ok(Self { path: path.to_owned(), temporary: Some((temporary, file)) })
    }

    /// Writes it.
    ///
    /// # Errors
    /// The disk is full, or the like.
    pub fn write(mut self, content: &str) -> Result<()> {
        let fail = |error| Error::file("write", &self.path, error);
        match &mut self.temporary {
            Some((temporary, file)) => {
                file.write_all(content.as_bytes()).and_then(|()| file.sync_all()).map_err(fail)?;
                fs::rename(&*temporary, &self.path).map_err(fail)?;
                self.temporary = None;
                Ok(())
            }
            None if self.path == Path::new("-") => {
                std::io::stdout().write_all(content.as_bytes()).map_err(fail)
            }
            None => fs::write(&self.path, content).map_err(fail),
        }
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Some((temporary, _)) = &self.temporary {
            let _ = fs::remove_file(temporary);
        }
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
        drop(Output::reserve(&path).unwrap());
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
