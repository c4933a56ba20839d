//! The machine's side of the control socket.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::os::unix::net::{UnixListener, UnixStream};

use nix::poll::PollFlags;
use rkvm_oci::Error;
use rkvm_oci::failure::Failure;

use crate::backend::control::{Command, Reply, Request, VERSION, frame, length};

/// Most commands that are answered at a time; further ones wait in the listener's queue.
const MAX_CLIENTS: usize = 16;

/// A process that has connected.
#[derive(Debug)]
struct Client {
    /// Tells it from later ones.
    number: u64,
    stream: UnixStream,
    incoming: Vec<u8>,
    outgoing: Vec<u8>,
    /// Its command has been read.
    asked: bool,
}

/// A command and whose it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Asked {
    /// For [`Commands::answer`].
    pub client: u64,
    /// What to do.
    pub command: Command,
}

/// Everybody who is connected.
#[derive(Debug)]
pub struct Commands {
    listener: UnixListener,
    clients: Vec<Client>,
    next: u64,
}

/// What a descriptor of [`Commands::interests`] belongs to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// The listener.
    Listener,
    /// This client.
    Client(u64),
}

impl Commands {
    /// Serves `listener`.
    ///
    /// # Errors
    /// It cannot be made non-blocking.
    pub fn new(listener: UnixListener) -> io::Result<Self> {
        listener.set_nonblocking(true)?;
        Ok(Self { listener, clients: vec![], next: 0 })
    }

    /// What to wait for.
    pub fn interests(&self) -> Vec<(Source, BorrowedFd<'_>, PollFlags)> {
        let mut wanted = Vec::with_capacity(self.clients.len() + 1);
        if self.clients.len() < MAX_CLIENTS {
            wanted.push((Source::Listener, self.listener.as_fd(), PollFlags::POLLIN));
        }
        for client in &self.clients {
            let events = match (client.outgoing.is_empty(), client.asked) {
                (false, _) => PollFlags::POLLOUT,
                (true, false) => PollFlags::POLLIN,
                // Its end still shows.
                (true, true) => PollFlags::empty(),
            };
            wanted.push((Source::Client(client.number), client.stream.as_fd(), events));
        }
        wanted
    }

    /// Something can be done for `source`; the command, when one is complete.
    pub fn handle(&mut self, source: Source) -> Option<Asked> {
        match source {
            Source::Listener => {
                self.accept();
                None
            }
            Source::Client(number) => {
                let index = self.clients.iter().position(|client| client.number == number)?;
                let client = &mut self.clients[index];
                match client.serve() {
                    Ok(command) => command.map(|command| Asked { client: number, command }),
                    Err(_) => {
                        self.clients.swap_remove(index);
                        None
                    }
                }
            }
        }
    }

    fn accept(&mut self) {
        let Ok((stream, _)) = self.listener.accept() else { return };
        if stream.set_nonblocking(true).is_ok() {
            self.next += 1;
            self.clients.push(Client {
                number: self.next,
                stream,
                incoming: vec![],
                outgoing: vec![],
                asked: false,
            });
        }
    }

    /// Answers a client, if it is still there.
    pub fn answer(&mut self, client: u64, result: Result<(), Error>) {
        let Some(index) = self.clients.iter().position(|there| there.number == client) else { return };
        let there = &mut self.clients[index];
        there.say(result);
        if there.flush().is_err() || there.outgoing.is_empty() {
            self.clients.swap_remove(index);
        }
    }
}

impl Client {
    fn say(&mut self, result: Result<(), Error>) {
        let reply = match result {
            Ok(()) => Reply::Done,
            Err(error) => Reply::Failed(Failure::from(error)),
        };
        self.outgoing = frame(&reply);
    }

    /// Reads or writes once; an error lets go of it.
    fn serve(&mut self) -> io::Result<Option<Command>> {
        if !self.outgoing.is_empty() {
            return self.finish();
        }
        let mut bytes = [0; 4096];
        match self.stream.read(&mut bytes) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(count) => self.incoming.extend_from_slice(&bytes[..count]),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        let Some((head, rest)) = self.incoming.split_first_chunk::<4>() else { return Ok(None) };
        let Some(text) = rest.get(..length(*head)?) else { return Ok(None) };
        let request: Request = serde_json::from_slice(text)?;
        self.asked = true;
        if request.version != VERSION {
            self.say(Err(Error::unsupported(
                format!("version {} of the machine's control socket", request.version),
                format!("the machine was started by an rkvm that speaks version {VERSION}; use that one"),
            )));
            return self.finish();
        }
        Ok(Some(request.command))
    }

    /// Sends the answer; lets go of the client once it has all of it.
    fn finish(&mut self) -> io::Result<Option<Command>> {
        self.flush()?;
        if self.outgoing.is_empty() { Err(io::ErrorKind::ConnectionAborted.into()) } else { Ok(None) }
    }

    fn flush(&mut self) -> io::Result<()> {
        while !self.outgoing.is_empty() {
            match self.stream.write(&self.outgoing) {
                Ok(count) => drop(self.outgoing.drain(..count)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> (Commands, tempfile::TempDir) {
        let folder = tempfile::tempdir().unwrap();
        let listener = crate::backend::socket::listen(folder.path(), "s").unwrap();
        (Commands::new(listener).unwrap(), folder)
    }

    /// Handles what is ready until nothing is.
    fn turn(commands: &mut Commands) -> Option<Asked> {
        for _ in 0..100 {
            for source in commands.interests().into_iter().map(|(source, ..)| source).collect::<Vec<_>>() {
                if let Some(asked) = commands.handle(source) {
                    return Some(asked);
                }
            }
        }
        None
    }

    #[test]
    fn a_command_that_comes_in_pieces_is_answered() {
        let (mut commands, folder) = server();
        let mut client = crate::backend::socket::connect(folder.path(), "s").unwrap();
        let bytes = frame(&Request { version: VERSION, command: Command::Pause });
        let (first, second) = bytes.split_at(7);
        client.write_all(first).unwrap();
        assert_eq!(turn(&mut commands), None);
        client.write_all(second).unwrap();
        let asked = turn(&mut commands).unwrap();
        assert_eq!(asked.command, Command::Pause);
        commands.answer(asked.client, Ok(()));
        let mut answer = vec![];
        client.read_to_end(&mut answer).unwrap();
        assert_eq!(answer, frame(&Reply::Done));
    }

    #[test]
    fn bad_bytes_only_end_their_client() {
        let (mut commands, folder) = server();
        for bytes in [&[255u8; 64][..], &[4, 0, 0, 0, b'x', b'x', b'x', b'x'], b""] {
            let mut client = crate::backend::socket::connect(folder.path(), "s").unwrap();
            client.write_all(bytes).unwrap();
            client.shutdown(std::net::Shutdown::Write).unwrap();
            assert_eq!(turn(&mut commands), None);
            assert_eq!(client.read(&mut [0]).unwrap(), 0, "{bytes:?}");
        }
        assert!(commands.clients.is_empty());
    }

    #[test]
    fn another_version_is_told_so() {
        let (mut commands, folder) = server();
        let mut client = crate::backend::socket::connect(folder.path(), "s").unwrap();
        client.write_all(&frame(&Request { version: 99, command: Command::Start })).unwrap();
        assert_eq!(turn(&mut commands), None);
        let mut answer = vec![];
        client.read_to_end(&mut answer).unwrap();
        let answer = String::from_utf8_lossy(&answer);
        assert!(answer.contains("version 99"), "{answer}");
    }
}
