//! Reading the log.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::Deserialize;

use super::{Stream, rotated};

/// A piece of output.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Entry {
    /// The text, with its newline if the line ended.
    pub log: String,
    /// Where it came from.
    pub stream: Stream,
    /// When, RFC 3339, UTC, nanoseconds: such times sort as text.
    pub time: String,
}

/// How much of the end is wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Tail {
    /// Everything.
    All,
    /// At most so many entries.
    Last(usize),
}

/// Which entries are wanted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// How much of the end.
    pub tail: Tail,
    /// Not before this moment (RFC 3339, UTC, nine digits of nanoseconds).
    pub since: Option<String>,
    /// Not after this moment.
    pub until: Option<String>,
}

impl Selection {
    fn takes(&self, entry: &Entry) -> bool {
        self.since.as_ref().is_none_or(|since| entry.time >= *since)
            && self.until.as_ref().is_none_or(|until| entry.time <= *until)
    }
}

/// Reads one container's log and, asked again, what has come since.
#[derive(Debug)]
pub struct Reader {
    path: PathBuf,
    current: Option<BufReader<File>>,
    /// The beginning of a line whose end has not been written yet.
    begun: String,
}

impl Reader {
    /// A reader of the log whose current file is at `path`. The file need not exist yet.
    pub fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), current: None, begun: String::new() }
    }

    /// Passes the entries there are to `take`, the oldest first.
    ///
    /// # Errors
    /// A file cannot be read, or those of `take`.
    pub fn read(
        &mut self,
        selection: &Selection,
        mut take: impl FnMut(Entry) -> io::Result<()>,
    ) -> io::Result<()> {
        let oldest = (1..).take_while(|age| rotated(&self.path, *age).exists()).last().unwrap_or(0);
        let mut kept = VecDeque::new();
        for age in (0..=oldest).rev() {
            let file = match File::open(rotated(&self.path, age)) {
                Ok(file) => file,
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            };
            self.current = Some(BufReader::new(file));
            self.begun.clear();
            self.drain(&mut |entry| match selection.tail {
                _ if !selection.takes(&entry) => Ok(()),
                Tail::All => take(entry),
                Tail::Last(0) => Ok(()),
                Tail::Last(count) => {
                    if kept.len() == count {
                        kept.pop_front();
                    }
                    kept.push_back(entry);
                    Ok(())
                }
            })?;
        }
        kept.into_iter().try_for_each(take)
    }

    /// Passes the entries that came since the last call to `take`, over a rotation too.
    ///
    /// # Errors
    /// A file cannot be read, or those of `take`.
    pub fn read_more(
        &mut self,
        selection: &Selection,
        mut take: impl FnMut(Entry) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut take = |entry: Entry| if selection.takes(&entry) { take(entry) } else { Ok(()) };
        self.drain(&mut take)?;
        let held = match &self.current {
            Some(reader) => Some(reader.get_ref().metadata()?.ino()),
            None => None,
        };
        // Files that rotated since: find the one held among the older ones, and go on from there.
        let inode = |age: u32| std::fs::metadata(rotated(&self.path, age)).ok().map(|file| file.ino());
        let Some(newest) = inode(0) else { return Ok(()) };
        if held == Some(newest) {
            return Ok(());
        }
        let mut next = 0;
        if held.is_some() {
            while inode(next + 1).is_some_and(|age| Some(age) != held) {
                next += 1;
            }
        }
        for age in (0..=next).rev() {
            if let Ok(file) = File::open(rotated(&self.path, age)) {
                self.current = Some(BufReader::new(file));
                self.begun.clear();
                self.drain(&mut take)?;
            }
        }
        Ok(())
    }

    fn drain(&mut self, take: &mut dyn FnMut(Entry) -> io::Result<()>) -> io::Result<()> {
        let Some(reader) = &mut self.current else { return Ok(()) };
        loop {
            if reader.read_line(&mut self.begun)? == 0 || !self.begun.ends_with('\n') {
                return Ok(());
            }
            // A line that a power cut tore is skipped, not an end of the log.
            if let Ok(entry) = serde_json::from_str(&self.begun) {
                take(entry)?;
            }
            self.begun.clear();
        }
    }
}
