//! The half inside.

use std::io::{self, Write};
use std::path::Path;

use super::{AGENT_DIR, NAMES_OF_LINKS, NAMES_OF_OWNERSHIP, by_name};
use crate::copy::{self, CopyError, Report, Root};
use crate::view::top;

/// Exit code of a command that failed; what failed is on standard error.
const FAILED: u8 = 1;
/// Exit code of a command that does not exist: the two halves are not of one build.
const UNKNOWN: u8 = 2;

/// Whether this process was started as the agent.
pub fn is_asked_for(name: Option<&str>) -> bool {
    name.and_then(|name| name.strip_prefix(AGENT_DIR)) == Some("/agent")
}

/// Does what `args` ask for; the exit code.
pub fn run(args: &[String]) -> u8 {
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match command(&args) {
        Some(Ok(())) => 0,
        Some(Err(error)) => {
            let mut text = error.to_string();
            let mut cause = std::error::Error::source(&error);
            while let Some(error) = cause {
                text.push_str(&format!(": {error}"));
                cause = error.source();
            }
            let _ = write!(io::stderr(), "{text}");
            FAILED
        }
        None => UNKNOWN,
    }
}

fn command(args: &[&str]) -> Option<Result<(), CopyError>> {
    Some(match *args {
        ["pack", links, path] => {
            let links = by_name(&NAMES_OF_LINKS, links)?;
            let output = io::BufWriter::with_capacity(1 << 16, io::stdout().lock());
            // What was skipped is told on standard error: standard output is the archive.
            root().and_then(|root| copy::pack(&root, Path::new(path), output, links)).map(|report| {
                let _ = write!(io::stderr(), "{}", as_json(&report));
            })
        }
        ["unpack", ownership, path] => {
            let ownership = by_name(&NAMES_OF_OWNERSHIP, ownership)?;
            root()
                .and_then(|root| copy::unpack(io::stdin().lock(), &root, Path::new(path), ownership))
                .and_then(|report| print(&as_json(&report)))
        }
        ["place", ownership, name, path] => {
            let ownership = by_name(&NAMES_OF_OWNERSHIP, ownership)?;
            let place = || {
                let transfer = Root::container(&Path::new(AGENT_DIR).join("transfer"), 0)?;
                let links = copy::Links::Keep;
                copy::copy(&transfer, Path::new(name), &root()?, Path::new(path), ownership, links)
            };
            place().and_then(|report| print(&as_json(&report)))
        }
        ["processes"] => print(&top::all_but_own()),
        _ => return None,
    })
}

fn root() -> Result<Root, CopyError> {
    Root::container(Path::new("/"), 0)
}

fn as_json(report: &Report) -> String {
    // Paths and a number: nothing that JSON cannot say but names that are not UTF-8, of which only a note would be lost.
    serde_json::to_string(report).unwrap_or_default()
}

fn print(text: &str) -> Result<(), CopyError> {
    io::stdout()
        .write_all(text.as_bytes())
        .map_err(|source| CopyError::Archive { action: "answer with", source })
}
