//! The container's log: one JSON object a line, as Docker's `json-file` driver writes them, in rotated files.

mod read;
mod write;

pub use read::{Entry, Reader, Selection, Tail};
pub use write::Writer;

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

/// Where a piece of output came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stream {
    /// Descriptor 1, or the terminal.
    Stdout,
    /// Descriptor 2.
    Stderr,
}

/// The file that `current` becomes after `age` rotations.
fn rotated(current: &Path, age: u32) -> PathBuf {
    match age {
        0 => current.to_owned(),
        _ => {
            let mut name = current.as_os_str().to_owned();
            name.push(format!(".{age}"));
            name.into()
        }
    }
}

#[cfg(test)]
mod tests;
