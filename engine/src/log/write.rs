//! Writing the log.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use rkvm_oci::runtime::rfc3339;

use super::{Stream, rotated};
use crate::record::LogConfig;

/// Longest piece of a line in one entry, bytes; a longer line becomes several entries, as with Docker.
const MAX_PIECE: usize = 16 << 10;

/// Writes one container's log.
#[derive(Debug)]
pub struct Writer {
    path: PathBuf,
    file: Option<File>,
    size: u64,
    config: LogConfig,
    /// Begun lines, by stream.
    partial: [Vec<u8>; 2],
}

impl Writer {
    /// Opens the log at `path` for appending; a disabled log takes everything and keeps nothing.
    ///
    /// # Errors
    /// The file cannot be opened.
    pub fn open(path: &Path, config: LogConfig) -> io::Result<Self> {
        let (file, size) = if config.enabled {
            let file = append(path)?;
            let size = file.metadata()?.len();
            (Some(file), size)
        } else {
            (None, 0)
        };
        Ok(Self { path: path.to_owned(), file, size, config, partial: [vec![], vec![]] })
    }

    /// Adds output: every whole line becomes an entry.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        if self.file.is_none() {
            return Ok(());
        }
        let time = rfc3339(SystemTime::now());
        let mut partial = std::mem::take(&mut self.partial[stream as usize]);
        let mut entries = Vec::with_capacity(bytes.len() + 128);
        while !bytes.is_empty() {
            let room = MAX_PIECE - partial.len();
            let window = &bytes[..bytes.len().min(room)];
            let newline = window.iter().position(|byte| *byte == b'\n');
            let (piece, rest) = bytes.split_at(newline.map_or(window.len(), |at| at + 1));
            partial.extend_from_slice(piece);
            bytes = rest;
            if newline.is_some() || partial.len() == MAX_PIECE {
                push_entry(&mut entries, stream, &partial, &time)?;
                partial.clear();
            }
        }
        self.partial[stream as usize] = partial;
        self.append(&entries)
    }

    /// Writes what has been begun without a newline: at the end of a run.
    ///
    /// # Errors
    /// The disk does not take it.
    pub fn finish(&mut self) -> io::Result<()> {
        let time = rfc3339(SystemTime::now());
        let mut entries = Vec::new();
        for stream in [Stream::Stdout, Stream::Stderr] {
            let partial = std::mem::take(&mut self.partial[stream as usize]);
            if !partial.is_empty() {
                push_entry(&mut entries, stream, &partial, &time)?;
            }
        }
        self.append(&entries)
    }

    fn append(&mut self, mut entries: &[u8]) -> io::Result<()> {
        while !entries.is_empty() {
            let room = self.config.max_size.saturating_sub(self.size);
            let mut part = fitting(entries, usize::try_from(room).unwrap_or(usize::MAX));
            if part == 0 {
                if self.size > 0 {
                    self.rotate()?;
                    continue;
                }
                // An entry that is larger than a whole file gets one of its own.
                part = entries.iter().position(|byte| *byte == b'\n').map_or(entries.len(), |at| at + 1);
            }
            let (now, later) = entries.split_at(part);
            if let Some(file) = &mut self.file {
                file.write_all(now)?;
            }
            self.size += now.len() as u64;
            entries = later;
        }
        Ok(())
    }

    fn rotate(&mut self) -> io::Result<()> {
        for age in (0..self.config.max_files.saturating_sub(1)).rev() {
            match fs::rename(rotated(&self.path, age), rotated(&self.path, age + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        if self.config.max_files <= 1 {
            fs::remove_file(&self.path)?;
        }
        self.file = Some(append(&self.path)?);
        self.size = 0;
        Ok(())
    }
}

fn append(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().create(true).append(true).mode(0o600).open(path)
}

fn push_entry(out: &mut Vec<u8>, stream: Stream, text: &[u8], time: &str) -> io::Result<()> {
    out.extend_from_slice(b"{\"log\":");
    serde_json::to_writer(&mut *out, &String::from_utf8_lossy(text))?;
    out.extend_from_slice(match stream {
        Stream::Stdout => b",\"stream\":\"stdout\",\"time\":\"",
        Stream::Stderr => b",\"stream\":\"stderr\",\"time\":\"",
    });
    out.extend_from_slice(time.as_bytes());
    out.extend_from_slice(b"\"}\n");
    Ok(())
}

/// Length of the whole entries at the beginning of `entries` that fit into `room` bytes.
fn fitting(entries: &[u8], room: usize) -> usize {
    if entries.len() <= room {
        return entries.len();
    }
    entries[..room].iter().rposition(|byte| *byte == b'\n').map_or(0, |at| at + 1)
}
