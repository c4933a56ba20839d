//! What a monitor and its clients say to each other over the monitor's Unix socket.
//!
//! A frame is one byte of kind, four bytes of length (little endian), and the payload. A connection begins with [`Hello`].

use std::io::{self, Read, Write};
use std::os::fd::AsRawFd;
use std::os::unix::net::UnixStream;
use std::path::Path;

use serde::{Deserialize, Serialize};

use rkvm_oci::Timeline;

/// Largest payload, bytes. A bound, because a client must not make the monitor allocate at will.
pub const MAX_PAYLOAD: usize = 64 << 10;
/// Bytes before the payload.
pub const HEADER: usize = 5;

/// What a frame is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Kind {
    /// To the monitor: [`Hello`], JSON.
    Hello = 1,
    /// To the monitor: bytes for standard input.
    Stdin = 2,
    /// To the monitor: no more standard input.
    StdinEnd = 3,
    /// To the monitor: rows and columns of the terminal, two u16, little endian.
    Resize = 4,
    /// To the monitor: send this signal to the init process, i32, little endian.
    Signal = 5,
    /// To the monitor: restart no more, whatever the policy; then as [`Kind::Signal`]. Signal 0 is none.
    Stop = 6,
    /// To the monitor: the client goes and standard input stays open.
    Detach = 7,
    /// From the monitor: bytes of standard output, or of the terminal.
    Stdout = 16,
    /// From the monitor: bytes of standard error.
    Stderr = 17,
    /// From the monitor: [`Started`], JSON.
    Started = 18,
    /// From the monitor: [`StartFailed`], JSON. The monitor ends.
    Failed = 19,
    /// From the monitor: [`Exited`], JSON.
    Exited = 20,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        use Kind::{
            Detach, Exited, Failed, Hello, Resize, Signal, Started, Stderr, Stdin, StdinEnd, Stdout, Stop,
        };
        [Hello, Stdin, StdinEnd, Resize, Signal, Stop, Detach, Stdout, Stderr, Started, Failed, Exited]
            .into_iter()
            .find(|kind| *kind as u8 == byte)
    }
}

/// How a client begins.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Hello {
    /// Feed standard input.
    pub stdin: bool,
    /// Receive standard output (or the terminal).
    pub stdout: bool,
    /// Receive standard error.
    pub stderr: bool,
    /// Only from the client that spawned the monitor: the start as timed so far.
    pub timeline: Option<Timeline>,
    /// Rows and columns of the client's terminal.
    pub size: Option<(u16, u16)>,
}

/// The program runs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Started {
    /// Phases of the start.
    pub timeline: Timeline,
}

/// The program could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct StartFailed {
    /// 125, 126 or 127.
    pub exit_code: u8,
    /// What a user reads.
    pub message: String,
}

/// A run has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exited {
    /// Its exit code.
    pub exit_code: u8,
    /// Why it ended, or what could not be cleaned up; empty when all is well.
    pub error: String,
    /// Whether the monitor ends too; otherwise the restart policy starts the container again.
    pub last: bool,
}

/// Appends a frame to `out`.
pub fn push_frame(out: &mut Vec<u8>, kind: Kind, payload: &[u8]) {
    out.push(kind as u8);
    out.extend_from_slice(&(payload.len() as u32).to_le_bytes());
    out.extend_from_slice(payload);
}

/// Sends one frame, waiting until it is written.
///
/// # Errors
/// The other side is gone.
pub fn send(mut socket: &UnixStream, kind: Kind, payload: &[u8]) -> io::Result<()> {
    let mut frame = Vec::with_capacity(HEADER + payload.len());
    push_frame(&mut frame, kind, payload);
    socket.write_all(&frame)
}

/// Sends one frame with a JSON payload.
///
/// # Errors
/// The other side is gone.
pub fn send_json<T: Serialize>(socket: &UnixStream, kind: Kind, value: &T) -> io::Result<()> {
    send(socket, kind, &serde_json::to_vec(value)?)
}

/// Takes frames out of a stream of bytes.
#[derive(Debug, Default)]
pub struct Decoder {
    buffer: Vec<u8>,
}

impl Decoder {
    /// Reads once from `source` and keeps the bytes. Returns how many came; 0 is the end.
    ///
    /// # Errors
    /// Those of the read.
    pub fn fill(&mut self, mut source: impl Read) -> io::Result<usize> {
        let mut chunk = [0; 16 << 10];
        let count = source.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count)
    }

    /// The next whole frame.
    ///
    /// # Errors
    /// What came is no frame.
    pub fn next_frame(&mut self) -> io::Result<Option<(Kind, Vec<u8>)>> {
        let Some((header, rest)) = self.buffer.split_at_checked(HEADER) else { return Ok(None) };
        let length = u32::from_le_bytes([header[1], header[2], header[3], header[4]]) as usize;
        let kind = Kind::from_byte(header[0]).filter(|_| length <= MAX_PAYLOAD);
        let kind = kind.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
        let Some(payload) = rest.get(..length) else { return Ok(None) };
        let payload = payload.to_vec();
        self.buffer.drain(..HEADER + length);
        if self.buffer.is_empty() {
            // A burst must not be paid for until the end of the container.
            self.buffer = Vec::new();
        }
        Ok(Some((kind, payload)))
    }

    /// Reads until a whole frame is there; `None` at the end.
    ///
    /// # Errors
    /// Those of the read, or what came is no frame.
    pub fn wait(&mut self, socket: &UnixStream) -> io::Result<Option<(Kind, Vec<u8>)>> {
        loop {
            if let Some(frame) = self.next_frame()? {
                return Ok(Some(frame));
            }
            match self.fill(socket) {
                Ok(0) => return Ok(None),
                Ok(_) => {}
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::ConnectionReset => return Ok(None),
                Err(error) => return Err(error),
            }
        }
    }
}

/// Name of the socket in a monitor's folder.
const SOCKET: &str = "socket";

/// Calls `with` with a path for the socket in `folder` that is short enough for a socket address (108 bytes), however deep the
/// folder is.
///
/// # Errors
/// The folder cannot be opened, or those of `with`.
pub fn with_socket_path<T>(folder: &Path, with: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
    let held = std::fs::File::open(folder)?;
    with(&Path::new("/proc/self/fd").join(held.as_raw_fd().to_string()).join(SOCKET))
}

/// Connects to the monitor whose folder this is.
///
/// # Errors
/// There is no monitor.
pub fn connect(folder: &Path) -> io::Result<UnixStream> {
    with_socket_path(folder, |path| UnixStream::connect(path))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn frames_survive_being_cut_anywhere() {
        let mut bytes = Vec::new();
        push_frame(&mut bytes, Kind::Stdout, b"hello");
        push_frame(&mut bytes, Kind::StdinEnd, b"");
        for cut in 0..bytes.len() {
            let mut decoder = Decoder::default();
            let mut frames = Vec::new();
            for part in [&bytes[..cut], &bytes[cut..]] {
                decoder.fill(part).unwrap();
                while let Some(frame) = decoder.next_frame().unwrap() {
                    frames.push(frame);
                }
            }
            assert_eq!(frames, [(Kind::Stdout, b"hello".to_vec()), (Kind::StdinEnd, vec![])], "cut at {cut}");
        }
    }

    #[test]
    fn a_frame_that_is_too_long_or_unknown_is_refused() {
        for bytes in [[1, 255, 255, 255, 255], [99, 0, 0, 0, 0]] {
            let mut decoder = Decoder::default();
            decoder.fill(&bytes[..]).unwrap();
            assert!(decoder.next_frame().is_err());
        }
    }

    #[test]
    fn a_socket_below_a_deep_folder_can_be_reached() {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("x".repeat(200));
        std::fs::create_dir(&folder).unwrap();
        let listener =
            with_socket_path(&folder, |path| std::os::unix::net::UnixListener::bind(path)).unwrap();
        connect(&folder).unwrap();
        listener.accept().unwrap();
    }
}
