//! The log that callers read: standard error, or the file of `--log` in the form of `--log-format`.

use std::error::Error;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::SystemTime;

use crate::output;
use clap::ValueEnum;
use rkvm_oci::runtime::rfc3339;

/// Values of `--log-format`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// `time="..." level=error msg="..."`
    Text,
    /// One JSON object a line: what containerd and conmon parse.
    Json,
}

/// Where errors and warnings go.
#[derive(Debug)]
pub struct Log {
    file: Option<PathBuf>,
    format: Format,
}

impl Log {
    /// As the flags say.
    pub fn new(global: &super::Global) -> Self {
        let file = global.log.clone().filter(|path| !path.as_os_str().is_empty());
        Self { file, format: global.log_format }
    }

    /// Tells why the command failed, with all causes: to standard error and to the log.
    pub fn error(&self, error: &dyn Error) {
        let text = chain(error);
        output::complain(format_args!("rkvm-oci: {text}"));
        self.write("error", &text);
    }

    /// Tells what went wrong without making the command fail.
    pub fn warning(&self, error: &dyn Error) {
        let text = chain(error);
        output::complain(format_args!("rkvm-oci: warning: {text}"));
        self.write("warning", &text);
    }

    fn write(&self, level: &str, text: &str) {
        let Some(path) = &self.file else { return };
        let time = rfc3339(SystemTime::now());
        let line = match self.format {
            Format::Json => serde_json::json!({"level": level, "msg": text, "time": time}).to_string(),
            Format::Text => format!("time={time:?} level={level} msg={text:?}"),
        };
        let file = OpenOptions::new().create(true).append(true).mode(0o644).open(path);
        if let Err(error) = file.and_then(|mut file| writeln!(file, "{line}")) {
            output::complain(format_args!("rkvm-oci: cannot write --log {}: {error}", path.display()));
        }
    }
}

/// An error with its causes in one line.
pub fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        cause = inner.source();
    }
    text
}
