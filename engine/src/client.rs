//! The client's side of a container: spawning its monitor and talking to it.

use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use rkvm_oci::Signal;

use crate::engine::Engine;
use crate::error::{Error, Result};
use crate::protocol::{self, Decoder, Exited, Hello, Kind, StartFailed, Started};

/// A connection to a container's monitor.
#[derive(Debug)]
pub struct Connection {
    /// The socket.
    pub socket: UnixStream,
    /// What has been read of it.
    pub decoder: Decoder,
}

/// A monitor that is on its way, beside its client's other work, and does nothing before it is told to begin. It ends with this otherwise.
#[derive(Debug)]
pub struct Waiting {
    connection: Option<Connection>,
    monitor: Child,
}

impl Waiting {
    /// Starts a monitor for a container with this full id, which need not be there yet.
    ///
    /// # Errors
    /// The monitor's program cannot be executed.
    pub fn spawn(engine: &Engine, id: &str, program: &Path) -> Result<Self> {
        let failed = |source| Error::file("execute", program, source);
        let (ours, theirs) = UnixStream::pair().map_err(failed)?;
        let monitor = Command::new(program)
            .arg(&engine.paths.run)
            .arg(&engine.paths.lib)
            .arg(id)
            .stdin(OwnedFd::from(theirs))
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .map_err(failed)?;
        Ok(Self { connection: Some(Connection::new(ours)), monitor })
    }

    /// Has it start the container.
    ///
    /// # Errors
    /// It has been killed.
    pub fn begin(mut self, hello: &Hello) -> Result<Connection> {
        let gone = |source| Error::file("tell the monitor in", "its socket", source);
        let connection = self.connection.take().ok_or_else(|| gone(io::ErrorKind::NotConnected.into()))?;
        protocol::send_json(&connection.socket, Kind::Hello, hello).map_err(gone)?;
        Ok(connection)
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if self.connection.take().is_some() {
            // It has seen the end of the socket, and leaves nothing.
            let _ = self.monitor.wait();
        }
    }
}

/// How a start went.
#[derive(Debug)]
pub enum StartResult {
    /// The program runs.
    Started(Started),
    /// It does not, and the monitor has cleaned up.
    Failed(StartFailed),
}

impl Connection {
    fn new(socket: UnixStream) -> Self {
        Self { socket, decoder: Decoder::default() }
    }

    /// Starts a monitor for the container with this full id, and with it the container; [`Connection::started`] tells
    /// how it went. `program` is the monitor's.
    ///
    /// # Errors
    /// The monitor's program cannot be executed.
    pub fn spawn(engine: &Engine, id: &str, program: &Path, hello: &Hello) -> Result<Self> {
        Waiting::spawn(engine, id, program)?.begin(hello)
    }

    /// Connects to the monitor of a container; `None` when it has none (any more).
    ///
    /// # Errors
    /// The monitor does not answer.
    pub fn open(engine: &Engine, id: &str, hello: &Hello) -> Result<Option<Self>> {
        let folder = engine.paths.monitor(id);
        let gone = |error: &io::Error| {
            matches!(
                error.kind(),
                io::ErrorKind::NotFound
                    | io::ErrorKind::ConnectionRefused
                    | io::ErrorKind::BrokenPipe
                    | io::ErrorKind::ConnectionReset
            )
        };
        let sent = protocol::connect(&folder).and_then(|socket| {
            protocol::send_json(&socket, Kind::Hello, hello)?;
            Ok(Self::new(socket))
        });
        match sent {
            Ok(connection) => Ok(Some(connection)),
            Err(error) if gone(&error) => Ok(None),
            Err(source) => Err(Error::file("connect to the monitor in", folder, source)),
        }
    }

    /// Waits until the program runs or has failed to.
    ///
    /// # Errors
    /// The monitor was killed.
    pub fn started(&mut self, id: &str) -> Result<StartResult> {
        loop {
            match self.decoder.wait(&self.socket) {
                Ok(Some((Kind::Started, payload))) => {
                    return parse(&payload, id).map(StartResult::Started);
                }
                Ok(Some((Kind::Failed, payload))) => {
                    return parse(&payload, id).map(StartResult::Failed);
                }
                Ok(Some(_)) => {}
                Ok(None) | Err(_) => return Err(Error::MonitorLost { id: id.to_owned() }),
            }
        }
    }

    /// Waits for the end of a run, at most for `limit`. `None`: time is up. Output that comes is dropped.
    ///
    /// # Errors
    /// The monitor was killed.
    pub fn exited(&mut self, id: &str, limit: Option<Duration>) -> Result<Option<Exited>> {
        let until = limit.map(|limit| std::time::Instant::now() + limit);
        let lost = || Error::MonitorLost { id: id.to_owned() };
        loop {
            let left = until.map(|until| until.saturating_duration_since(std::time::Instant::now()));
            if left.is_some_and(|left| left.is_zero()) {
                return Ok(None);
            }
            self.socket.set_read_timeout(left).map_err(|_| lost())?;
            match self.decoder.next_frame().map_err(|_| lost())? {
                Some((Kind::Exited, payload)) => return parse(&payload, id).map(Some),
                Some(_) => continue,
                None => {}
            }
            match self.decoder.fill(&self.socket) {
                Ok(0) => return Err(lost()),
                Ok(_) => {}
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
                Err(_) => return Err(lost()),
            }
        }
    }

    /// Sends a signal to the container's init; `kind` is [`Kind::Signal`] or [`Kind::Stop`].
    ///
    /// # Errors
    /// The monitor is gone.
    pub fn signal(&self, kind: Kind, signal: Option<Signal>) -> io::Result<()> {
        protocol::send(&self.socket, kind, &signal.map_or(0, Signal::number).to_le_bytes())
    }
}

fn parse<T: serde::de::DeserializeOwned>(payload: &[u8], id: &str) -> Result<T> {
    serde_json::from_slice(payload).map_err(|_| Error::MonitorLost { id: id.to_owned() })
}
